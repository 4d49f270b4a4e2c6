from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dynamic
from dynamic import UserError
from dynamic.models import build
from oracle.evaluation.collect import open_collection
from oracle.outcomes import read_outcomes
from oracle.pipeline import run
from oracle.settings import RunSettings
from oracle.study.registry import parse_parts, parts
from oracle.study.runner import open_study, plan
from oracle.study.sets import sibling_models
from tests.image_folders import fill
from tests.oracle.conftest import all_bytes, command, environment, run_command

SPACES = {
    "strides": {"stride": [[1, 2], [2], [2], [2]]},
    "dilations": {"dilation": [[1], [1], [1], [1, 2]]},
    "sizes": {"kernel_size": [[3], [3], [3, 1], [3]]},
    "cheap": {"stride": [[1, 2], [2], [2], [2]], "kernel_size": [[3], [3], [3], [1, 3]]},
}
"""Two configurations an attribute, four of efficiency: enough for every table and figure."""


def write_spaces(folder: Path) -> tuple[str, str]:
    for name, options in SPACES.items():
        (folder / f"{name}.json").write_text(json.dumps(options))
    return ",".join(f"{folder}/{name}.json" for name in ("strides", "dilations", "sizes")), f"{folder}/cheap.json"


def check_parts(out: Path, tuned: bool) -> dict[str, object]:
    """Every part has data, a section in the report, and where it has a figure, PNG and SVG."""
    summary = json.loads((out / "summary.json").read_text())
    study = summary["study"]
    assert [name for name in study if name not in ("sets", "left_out")] == list(parts())
    assert study["left_out"] == {}
    page = (out / "report.html").read_text()
    for part, found in parts().items():
        assert study[part], part
        assert found.what.split(",")[0] in page
        assert found.title in (out / "study.md").read_text()
        if found.draw is None:
            continue
        assert (out / "figures" / f"{part}.png").read_bytes().startswith(b"\x89PNG")
        assert b"</svg>" in (out / "figures" / f"{part}.svg").read_bytes()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    for space in ("strides", "dilations", "sizes"):
        methods = ["pre-trained", "recalibrated"] + ["fine-tuned", "fine-tuned, recalibrated"] * tuned
        assert list(study["table2"][space]) == methods
        assert len(study["fig4"][space]) == 15
    assert list(study["table2"]["cheap"]) == list(study["fig6"])
    assert set(study["table3"]["combined"]) == {
        "stridexdilation",
        "stridexkernel_size",
        "dilationxkernel_size",
        "stridexdilationxkernel_size",
    }
    assert list(study["fig6"]) == [
        "pre-trained",
        "recalibrated",
        *(["fine-tuned", "fine-tuned, recalibrated", "distilled, recalibrated"] * tuned),
    ]
    return study


@pytest.mark.slow
def test_every_part_on_the_embedded_default(tmp_path: Path) -> None:
    spaces, cheap = write_spaces(tmp_path)
    run(RunSettings(space=spaces, efficiency_space=cheap, images=5, study="all", out=tmp_path / "run", tuned_dir=tmp_path))
    study = check_parts(tmp_path / "run", tuned=False)
    assert set(study["recalibration"]) == {"matched", "wide"}
    assert len(study["table1"]) == 4
    assert "true_side" in study["fig5"]
    assert list(study["fig5"]["resized"]["strides"]) == ["0.25", "0.5", "1", "2", "4"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Small stand-ins" in page
    # Outcomes that other parts need too are there once, each a run that can be read.
    sets = {path.name for path in (tmp_path / "run" / "sets").iterdir()}
    assert sets == set(study["sets"]) - {"main"}
    resized = read_outcomes(tmp_path / "run" / "sets" / "resize-2")
    assert (resized.attrs["resolution"], resized.attrs["resize"], set(resized["split"].values)) == ("192", "2", {"test"})
    assert read_outcomes(tmp_path / "run" / "sets" / "wide-recalibrated").attrs["recalibrate"] == "250"


@pytest.mark.nightly
@pytest.mark.slow
def test_every_part_on_imagenet_with_full_size_networks(tmp_path: Path) -> None:
    """Two images a split in ImageNet's layout, four full-size networks with random weights, by the one command."""
    spaces, cheap = write_spaces(tmp_path)
    fill(tmp_path / "data" / "val", {"n01440764": 2, "n02102040": 2}, height=230)
    torch.manual_seed(3)
    tuned = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in build("resnet50").state_dict().items()}
    for name in ("rof-strides", "rof-dilations", "rof-sizes", "rof-cheap", "distillation-cheap"):
        (tmp_path / "tuned" / f"resnet50-{name}").mkdir(parents=True)
        save_file(tuned, tmp_path / "tuned" / f"resnet50-{name}" / "weights.safetensors")
    options = ("--model", "resnet50", "--weights", "none", "--dataset", "imagenet", "--data-dir", tmp_path / "data")
    options += ("--space", spaces, "--efficiency-space", cheap, "--tuned-dir", tmp_path / "tuned", "--out", tmp_path / "run")
    process = run_command(*options, "--study", "all", "--json")
    assert process.returncode == 0, process.stderr
    assert "minutes in all" in process.stderr
    study = check_parts(tmp_path / "run", tuned=True)
    assert set(study["table1"]) == {"resnet50", "resnext50_32x4d", "mobilenet_v2", "densenet121"}
    assert set(study["recalibration"]) == {"imagenet"}
    assert "true_side" not in study["fig5"]
    assert "Small stand-ins" not in (tmp_path / "run" / "report.html").read_text()
    assert "spaces" in json.loads(process.stdout.splitlines()[-1])


@pytest.mark.nightly
@pytest.mark.slow
def test_killed_and_started_again_or_on_ray_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    spaces, cheap = write_spaces(tmp_path)
    options = ("--space", spaces, "--efficiency-space", cheap, "--images", 6, "--study", "table2,table3,fig6", "--region", 2)
    options += ("--tuned-dir", tmp_path, "--memory-gib", 1)
    assert run_command(*options, "--out", tmp_path / "whole").returncode == 0
    out = tmp_path / "killed"
    moments = [
        lambda: (out / "sets" / "combined").exists(),  # planned, nothing evaluated
        lambda: (out / "sets" / "recalibrated" / "outcomes.zarr").exists(),  # while statistics are estimated
        lambda: (out / "sets" / "efficiency" / "outcomes.zarr" / "status" / "c").exists(),
    ]
    for moment in moments:
        process = subprocess.Popen(
            command(*options, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )
        while process.poll() is None and not moment():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    last = run_command(*options, "--out", out)
    assert last.returncode == 0, last.stderr
    on_ray = run_command(*options, "--ray", "local", "--ray-workers", 1, "--out", tmp_path / "ray")
    assert on_ray.returncode == 0, on_ray.stderr
    first = all_bytes(tmp_path / "whole")
    for folder in (out, tmp_path / "ray"):
        second = all_bytes(folder)
        # Space files are named by their folders in the outcomes' identity.
        assert first.keys() == second.keys()
        assert [name for name in first if first[name] != second[name]] == []


def test_parts_are_planned_without_what_they_do_not_need(tmp_path: Path) -> None:
    network = dynamic.load("resnet50-slim")
    spaces = [dynamic.space("stride", network)]
    settings = RunSettings(space="stride", out=tmp_path)
    assert set(plan(settings, network, spaces, ["fig4"]).planned) == set()
    assert set(plan(settings, network, spaces, ["fig7"]).planned) == {"crop-50", "crop-100", "crop-150", "crop-200"}
    attributes = {"recalibrated", "rof-stride", "rof-recalibrated-stride"}
    treated = ("", "-recalibrated", "-rof", "-rof-recalibrated", "-distillation-recalibrated")
    cheap = {f"efficiency{name}" for name in treated}
    assert set(plan(settings, network, spaces, ["table2"]).planned) == attributes | cheap
    own = plan(settings, network, spaces, ["table2"], own_network=True)
    assert set(own.planned) == {"recalibrated", "efficiency", "efficiency-recalibrated"}
    assert set(plan(settings, network, spaces, ["fig2", "fig3"]).planned) == {"rof-stride"}
    assert parse_parts("fig6, table1") == ["table1", "fig6"]
    assert parse_parts("all") == list(parts())
    with pytest.raises(UserError, match=r"--study 'fig9': choose all, or from table1: worst, median"):
        parse_parts("fig9")


@pytest.mark.slow
def test_sets_that_do_not_fit_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "resnets.json").write_text('{"stride": [[1], [2], [2], [1, 2]]}')
    settings = RunSettings(space=str(tmp_path / "resnets.json"), images=2, study="table1", out=tmp_path / "run")
    study = open_study(open_collection(settings))
    assert set(study.opened) == {"main", "architecture-resnext50_32x4d-slim"}
    assert set(study.left_out) == {"architecture-mobilenet_v2-slim", "architecture-densenet121-slim"}
    assert "lacks the default s2-2-2-2_d1-1-1-1_k3-3-3-3" in study.left_out["architecture-densenet121-slim"]
    assert "left out: the space 'resnets' lacks" in capsys.readouterr().err
    run(settings)
    assert "Left out: architecture-densenet121-slim" in (tmp_path / "run" / "report.html").read_text()
    # Outcomes of something else are no reason to leave a set out silently.
    with pytest.raises(UserError, match=r"holds another run \(seed is"):
        open_study(open_collection(dataclasses.replace(settings, seed=1)))
    with pytest.raises(UserError, match=r"give it without --recalibrate, --crop, --resize"):
        open_study(open_collection(dataclasses.replace(settings, crop=0.5)))


@pytest.mark.slow
def test_a_mistake_stops_the_study_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two.json").write_text(json.dumps(SPACES["strides"]))
    base = RunSettings(space=str(tmp_path / "two.json"), images=2, out=tmp_path / "run", tuned_dir=tmp_path / "tuned")
    for space, message in (("nonsense", "nonsense"), (str(tmp_path / "two.json"), None)):
        settings = dataclasses.replace(base, study="fig6", efficiency_space=space)
        if message is None:
            assert open_study(open_collection(settings)).left_out == {}
            continue
        with pytest.raises(UserError, match=message):
            open_study(open_collection(settings))
    broken = tmp_path / "tuned" / "resnet50-slim-rof-two" / "weights.safetensors"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"rof-two/weights.safetensors cannot be read"):
        open_study(open_collection(dataclasses.replace(base, study="table2")))
    save_file({"conv1.weight": torch.ones(1)}, broken)  # readable, but of no such network
    with pytest.raises(UserError, match=r"weights.safetensors"):
        open_study(open_collection(dataclasses.replace(base, study="fig2")))
    assert not (tmp_path / "run" / "outcomes.zarr").exists()


@pytest.mark.slow
def test_what_does_not_apply_is_named_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(json.dumps(SPACES["strides"]))
    weights = tmp_path / "resnet50-slim-rof-two" / "weights.safetensors"
    weights.parent.mkdir()
    save_file({"conv1.weight": torch.ones(1)}, weights, metadata={"start": "another digest"})
    settings = RunSettings(
        space=str(tmp_path / "two.json"), images=2, study="fig2", out=tmp_path / "run", tuned_dir=tmp_path
    )
    run(settings)
    for name in ("report.html", "study.md"):
        assert "was made of other weights than these" in (tmp_path / "run" / name).read_text()


@pytest.mark.slow
def test_too_little_memory_leaves_a_set_out(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(json.dumps(SPACES["strides"]))
    base = RunSettings(space=str(tmp_path / "two.json"), images=2, study="fig5", out=tmp_path / "run")
    row = open_collection(base).network.costs.row_bytes(open_collection(base).union, 96)
    study = open_study(open_collection(dataclasses.replace(base, memory_gib=2.0 * row / 2**30)))
    assert "resize-4" in study.left_out
    assert {"main", "resize-0.5"} <= set(study.opened)


def test_siblings_are_networks_of_the_same_kind() -> None:
    assert sibling_models(RunSettings(model="densenet121", weights="none")) == [
        "resnet50",
        "resnext50_32x4d",
        "mobilenet_v2",
    ]
    assert len(sibling_models(RunSettings())) == 3
    assert sibling_models(RunSettings(model="timm/resnet26")) == []
    assert sibling_models(RunSettings(model="resnet50", weights="mine.pth")) == []


def test_recalibration_never_sees_labels_or_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same statistics with labels replaced by nonsense, and only label-split images asked for."""
    from oracle.data.scenes_source import ScenesSource
    from oracle.evaluation import statistics as module

    (tmp_path / "two.json").write_text(json.dumps(SPACES["strides"]))
    settings = {"space": str(tmp_path / "two.json"), "images": 4, "recalibrate": 6}
    run(RunSettings(**settings, out=tmp_path / "honest"))  # type: ignore[arg-type]
    asked: list[str] = []
    seen = module.readable_label_rows

    def watched(source: ScenesSource, count: int) -> np.ndarray:
        asked.extend(source.splits)
        source.labels = np.full(len(source.labels), -1)
        return seen(source, count)

    monkeypatch.setattr(module, "readable_label_rows", watched)
    run(RunSettings(**settings, out=tmp_path / "watched"))  # type: ignore[arg-type]
    assert set(asked) == {"label"}
    first, second = (tmp_path / name / "statistics.safetensors" for name in ("honest", "watched"))
    assert first.read_bytes() == second.read_bytes()


def test_views_crop_about_the_object_and_resize(tmp_path: Path) -> None:
    from oracle.data.sources import open_source
    from oracle.data.views import View, view_source

    network = dynamic.load("resnet50-slim")
    source = open_source("fashion-scenes", network.info, images=5)
    assert view_source(source, View()) is source
    rows = np.arange(3)
    whole = source.load(rows).images
    cropped = view_source(source, View(crop=0.5))
    assert cropped.resolution == 48
    for image, part, centre in zip(whole, cropped.load(rows).images, source.centres, strict=False):
        x, y = (int(np.clip(round(float(c) * 96 - 24), 0, 48)) for c in centre)
        assert torch.equal(part, image[:, y : y + 48, x : x + 48])
    doubled = view_source(source, View(resize=2.0, splits=("test",)))
    assert doubled.load(rows).images.shape == (3, 3, 192, 192)
    assert set(doubled.splits) == {"test"}
    assert doubled.identity["resize"] == "2"
    with pytest.raises(UserError, match=r"--crop must be above 0 and at most 1, not 2"):
        View(crop=2)
    with pytest.raises(UserError, match=r"leave 6 pixels of 96"):
        view_source(source, View(resize=1 / 16))
