"""What deploy/ holds loads, and names what there is: settings, pages, files, metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

import serving.operation.metrics  # noqa: F401, they register themselves
from selector.shipped import SHIPPED
from serving.settings import PREFIX, ServingSettings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
MANIFESTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
PROBES = {"/readyz", "/livez"}


def known_metrics() -> set[str]:
    """Every series that the service can have, by the metric's type."""
    names = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return {name for name in names if name.startswith("serving_")}


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def alerts() -> list[dict[str, Any]]:
    return [
        rule
        for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]] + [r["expr"] for r in alerts()]


@pytest.mark.parametrize("expression", expressions())
def test_dashboard_and_alerts_ask_for_metrics_that_there_are(expression: str) -> None:
    asked = set(re.findall(r"serving_\w+", expression))
    assert asked
    assert asked <= known_metrics()
    assert all(expression.count(a) == expression.count(b) for a, b in ("()", "[]", "{}"))
    labels = {name for found in re.findall(r"by \(([^)]*)\)", expression) for name in found.split(", ")}
    known = "instance le page status code policy configuration part cause who shadow outcome run"
    assert labels <= set(known.split())


def test_every_metric_is_on_the_dashboard() -> None:
    asked = set(re.findall(r"serving_\w+", json.dumps(dashboard())))
    families = {re.sub("_(bucket|sum|count|total)$", "", name) for name in known_metrics()}
    shown = {re.sub("_(bucket|sum|count|total)$", "", name) for name in asked}
    assert families - shown == set()


def test_panels_have_their_own_ids_and_places() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["alert"] in (ROOT / "docs" / "OPERATING.md").read_text()


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_are_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(manifest, validate.latest_version(), strict=True)


def test_the_pod_probes_pages_that_there_are_and_has_time_to_end() -> None:
    from serving.http.front import ANSWER_SECONDS

    documents = [param.values[0] for param in MANIFESTS]
    pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")]
    assert probes == ["/readyz", "/readyz", "/livez"], "a server that only warms up must not be killed"
    config = next(d for d in documents if d["kind"] == "ConfigMap")["data"]
    drain = float(config["SERVING_DRAIN_SECONDS"])
    readiness = container["readinessProbe"]
    assert drain > readiness["periodSeconds"] * (readiness["failureThreshold"] + 1)
    assert pod["terminationGracePeriodSeconds"] > drain + ANSWER_SECONDS
    assert pod["enableServiceLinks"] is False
    settings = ServingSettings(**{name.removeprefix(PREFIX).lower(): value for name, value in config.items()})
    uploads = settings.workers * settings.max_uploads * settings.max_body_mib
    assert pod["volumes"][0]["emptyDir"] == {"sizeLimit": "5Gi"}
    assert uploads < 5 * 1024 - 100, "a pod whose scratch is full is evicted"


@pytest.mark.parametrize("path", sorted(p for p in DEPLOY.rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_settings_that_are_named_exist(path: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in ServingSettings.model_fields}
    named = set(re.findall(r"\bSERVING_[A-Z_]+", path.read_text()))
    assert named <= known | {"SERVING_POSTGRES_PASSWORD", "SERVING_PORT"}, "of compose's own, and of Kubernetes"


def test_the_image_is_made_of_files_that_there_are_and_runs_unprivileged() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert {"dynamic", "oracle", "selector", "serving", "bentofile.yaml"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    let_in = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert let_in[0] == "*"
    assert {f"!{name.split('/')[0]}" for name in copied} <= set(let_in)
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    compiled = re.search(r"for run in (.*); do python -m selector.compile", text)
    assert compiled is not None
    assert set(compiled[1].split()) == SHIPPED.keys(), "the image has no PyTorch to make their graphs"
    assert "COPY --from=graphs /build/selector selector" in text


def test_compose_mounts_files_that_there_are_and_shows_nothing_to_others() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose["services"]) == {"serving", "database", "prometheus", "grafana"}
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
    serving = compose["services"]["serving"]
    assert serving["read_only"]
    assert (DEPLOY / serving["build"]["context"] / serving["build"]["dockerfile"]).is_file()
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["serving:3000"]
    assert (DEPLOY / "prometheus" / scraped["rule_files"][0]).is_file()
