from __future__ import annotations

import json
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

import dynamic
from dynamic import Configuration, Space, UserError
from dynamic.lock import held
from oracle.evaluation import bounds
from oracle.evaluation.evaluate import WalkSize
from oracle.evaluation.summary import make_labels, summarise
from oracle.outcomes import blocks, open_outcomes, read_outcomes
from oracle.pipeline import run
from oracle.report import table_rows
from oracle.settings import RunSettings
from selector.learning.portfolios import portfolio_of
from tests.oracle.conftest import all_bytes, command, environment, run_command, run_here
from tests.plain_loop import plain_loop

CONFIGURATIONS = 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three named spaces cut to two images a split would take long; two small files do the same."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "strides.json").write_text(json.dumps({"stride": [[1], [2], [2], [2, 1, 0.5]]}))
    (folder / "sizes.json").write_text(json.dumps({"kernel_size": [[3], [3], [3, 1], [3, 5]]}))
    run(RunSettings(space=f"{folder}/strides.json,{folder}/sizes.json", images=8, region=4, out=folder / "run"))
    return folder / "run"


def test_outcomes_equal_the_plain_loop(finished: Path) -> None:
    outcomes = read_outcomes(finished)
    assert dict(outcomes.sizes) == {"image": 16, "configuration": 6}
    network = dynamic.load("resnet50-slim")
    configurations = [Configuration.parse(name) for name in outcomes["configuration"].values]
    from dynamic.scenes import FashionScenes

    for split in ("label", "test"):
        part = outcomes.isel(image=outcomes["split"].values == split)
        scenes = FashionScenes(split)  # type: ignore[arg-type]
        expected = plain_loop(network.original, "resnet50-slim", configurations, scenes.render(range(8)))
        labels = torch.from_numpy(scenes.labels[:8])
        p_true = expected.softmax(-1)[:, torch.arange(8), labels].T
        assert np.array_equal(part["label"].values, labels)
        assert np.array_equal(part["predicted"].values, expected.argmax(-1).T)
        np.testing.assert_allclose(part["p_true"].values, p_true, atol=1e-4)
        np.testing.assert_allclose(part["side"].values, scenes.sides[:8])
    assert outcomes["macs"].values.tolist() == [network.macs(c, 96) for c in configurations]
    assert outcomes["stride_D"].values.tolist() == [c.stride[3] for c in configurations]
    # What plain xarray sees is what the contract promises.
    plain = xr.open_zarr(finished / "outcomes.zarr")
    assert set(plain.data_vars) == {"predicted", "p_true", "label", "macs"}
    assert {"image", "split", "side", "configuration", "stride_A", "dilation_B", "kernel_size_D"} <= set(plain.coords)
    assert plain.attrs["weights_digest"] == network.digest
    assert {"model", "dataset", "resolution", "dtype", "versions"} <= set(plain.attrs)


def test_summary_has_the_promised_numbers(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {name: space["configurations"] for name, space in summary["spaces"].items()} == {"strides": 3, "sizes": 4}
    outcomes = read_outcomes(finished)
    default = dynamic.load("resnet50-slim").default.id
    for space in summary["spaces"].values():
        for split in ("label", "test"):
            numbers = space[split]
            part = outcomes.isel(image=outcomes["split"].values == split)
            static = part["predicted"].sel(configuration=default).values == part["label"].values
            assert numbers["images"] == 8
            assert numbers["static"] == static.mean()
            assert numbers["worst"] <= numbers["median"] <= numbers["best"] == 1 - numbers["unsolvable_share"]
            assert set(numbers["single_best"]) == {"id", "accuracy", "chosen_on"}
            assert sum(numbers["unique_predictions"].values()) == pytest.approx(1)
            assert numbers["portfolio"][0]["configuration"] == space["label"]["single_best"]["id"]
            assert numbers["macs"]["default"] == 50_988_032
            assert numbers["intervals"]["static"][0] <= numbers["static"] <= numbers["intervals"]["static"][1]
    assert "fraction" in summary["units"]["accuracy"]


@pytest.mark.parametrize("images", [1, 3])
def test_reading_by_blocks_changes_nothing(finished: Path, images: int) -> None:
    at_once, streamed = read_outcomes(finished), open_outcomes(finished / "outcomes.zarr")
    assert xr.concat(list(blocks(streamed, images)), "image", data_vars="minimal").identical(at_once)
    spaces, default = make_spaces_of(at_once), dynamic.load("resnet50-slim").default
    everything = at_once.sizes["image"]
    assert summarise(streamed, spaces, default, images) == summarise(at_once, spaces, default, everything)
    expected = make_labels(at_once, spaces, default, everything)
    pd.testing.assert_frame_equal(make_labels(streamed, spaces, default, images), expected)
    assert portfolio_of(streamed, default, 4) == portfolio_of(at_once, default, 4)


def make_spaces_of(outcomes: xr.Dataset) -> list[Space]:
    """All columns, and all but the last, in another order."""
    every = [Configuration.parse(str(name)) for name in outcomes["configuration"].values]
    return [Space("all", every), Space("some", every[-2::-1])]


def test_constants_come_from_the_label_split(finished: Path) -> None:
    outcomes = read_outcomes(finished)
    summary = json.loads((finished / "summary.json").read_text())["spaces"]["sizes"]
    part = outcomes.isel(image=outcomes["split"].values == "label")
    ids = [name for name in outcomes["configuration"].values if name.startswith("s1-2-2-2_")]
    part = part.sel(configuration=ids)
    correct = part["predicted"].values == part["label"].values[:, None]
    expected = ids[bounds.single_best(correct, part["macs"].values)]
    assert summary["test"]["single_best"]["id"] == summary["label"]["single_best"]["id"] == expected


def test_labels_are_one_row_an_image(finished: Path) -> None:
    labels = pd.read_parquet(finished / "labels.parquet")
    outcomes = read_outcomes(finished)
    assert labels["image"].tolist() == outcomes["image"].values.tolist()
    correct = outcomes["predicted"].values == outcomes["label"].values[:, None]
    assert labels["solvable"].tolist() == correct.any(axis=1).tolist()
    for row, one in labels.iterrows():
        image = outcomes.isel(image=row)
        chosen = image.sel(configuration=one["preferred"])
        assert one["quality"] == pytest.approx(float(chosen["p_true"]) + bool(chosen["predicted"] == image["label"]))
        assert one["preferred_macs"] == int(chosen["macs"])
        assert (one["cheapest_correct"] is None) == (not one["solvable"])
    assert {"split", "label", "side", "default_correct", "strides.preferred", "sizes.solvable"} <= set(labels.columns)


def test_report_opens_offline_and_says_what_it_is(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "Small stand-ins" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert page.count("data:image/png;base64,") == 5
    for name in ("preference_flow_strides", "preference_flow_sizes", "unique_predictions", "portfolio", "cost_cloud"):
        assert (finished / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "76.5%" not in page  # the paper's numbers belong to its own spaces


@pytest.mark.slow
def test_killed_anywhere_and_started_again_ends_with_the_same_bytes(tmp_path: Path, small_space: str) -> None:
    """Real processes, real signals: at the store's creation, between and inside regions, while results are written."""
    options = ("--space", small_space, "--images", 16, "--region", 2)
    whole = run_command(*options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    status = out / "outcomes.zarr" / "status" / "c"

    def regions() -> int:
        return len(list(status.iterdir())) if status.exists() else 0

    moments: list[Callable[[int], bool]] = [
        lambda before: (out / "outcomes.zarr.making").exists(),
        lambda before: (out / "outcomes.zarr").exists(),
        *[lambda before: regions() > before + 1] * 2,
        lambda before: (out / "labels.parquet").exists(),
    ]
    generator = random.Random(0)
    for moment in moments:
        before = regions()
        process = subprocess.Popen(
            command(*options, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )
        while process.poll() is None and not moment(before):
            time.sleep(0.001)
        time.sleep(generator.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    last = run_command(*options, "--out", out)
    assert last.returncode == 0, last.stderr
    assert all_bytes(out) == all_bytes(tmp_path / "whole")


@pytest.mark.slow
def test_another_run_is_not_resumed(tmp_path: Path, small_space: str) -> None:
    options = {"space": small_space, "images": 2, "out": tmp_path / "run"}
    run(RunSettings(**options))  # type: ignore[arg-type]
    before = all_bytes(tmp_path / "run")
    other = dynamic.load("resnet50-slim").original.state_dict()
    other["fc.bias"] = other["fc.bias"] + 1
    save_file(other, tmp_path / "other.safetensors")
    other_space = tmp_path / "other.json"
    other_space.write_text('{"stride": [[1], [2], [2], [2, 1]]}')
    for change, named in (
        ({"weights": str(tmp_path / "other.safetensors")}, "weights is"),
        ({"regime": "wide"}, "regime is matched there, wide here"),
        ({"images": 1}, "holds 4 images, --images 1 asks for 2: ask for as many or more"),
        ({"space": str(other_space)}, "configuration space is small"),
        ({"dtype": "bfloat16"}, "dtype is float32 there, bfloat16 here"),
    ):
        with pytest.raises(UserError, match=named):
            run(RunSettings(**(options | change)))  # type: ignore[arg-type]
    assert all_bytes(tmp_path / "run") == before
    run(RunSettings(**options))  # type: ignore[arg-type]
    assert all_bytes(tmp_path / "run") == before


@pytest.mark.slow
def test_a_run_in_use_is_refused_and_loses_nothing(tmp_path: Path, small_space: str) -> None:
    out = tmp_path / "run"
    with held(out):
        (out / "outcomes.zarr").mkdir()
        writing = out / "outcomes.zarr" / "0.partial"
        writing.write_text("half a chunk of the living process")
        done = run_command("--space", small_space, "--images", 2, "--out", out)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"error: {out} is in use by process \d+, which runs since .*\n", done.stderr)
        assert writing.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "resnet5"), "unknown model 'resnet5'"),
        (
            ("--model", "vit_b_16", "--weights", "none"),
            "VisionTransformer has no layer to choose options for: behind conv_proj",
        ),
        (("--model", "resnet50", "--weights", "none"), "resnet50 has 1000 classes, fashion-scenes has 10"),
        (("--weights", "missing.pth"), "no checkpoint missing.pth"),
        (("--weights", "IMAGENET1K_V1"), "unknown weights 'IMAGENET1K_V1' for resnet50-slim"),
        (("--space", "strides"), "unknown configuration space 'strides'"),
        (("--space", "stride,stride"), "name one or several different spaces"),
        (("--dynamic-layers", "layer1.0.conv2,layer9"), "no convolution or pool is called 'layer9'; near it"),
        (("--dataset", "imagenet"), "--dataset imagenet needs --data-dir"),
        (("--dataset", "imagefolder", "--data-dir", "nowhere"), "no folder nowhere"),
        (("--images", "0"), "--images must be at least 1, not 0"),
        (("--dtype", "float8"), "--dtype must be one of float32"),
        (("--device", "cuda:99"), "--device cuda:99 cannot be used"),
        (("--device", "meta"), "--device meta cannot be used"),
        (("--seed", "-1"), "--seed must not be negative"),
        (("--memory-gib", "0.0001"), "one image under this space needs about"),
        (("--ray-workers", "2"), "--ray-workers is of the workers of a Ray cluster: pass --ray"),
        (("--ray", "local", "--ray-gpus", "1.5"), "--ray-gpus must be a fraction of one GPU or a whole number"),
        (("--ray", "local", "--ray-workers", "0"), "--ray-workers must be at least 1, not 0"),
        (("--out", "/proc/nowhere"), "cannot write in /proc/nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run_here("--out", tmp_path / "run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "outcomes.zarr").exists()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_command("--out", tmp_path / "run", "--ray", "127.0.0.1:1")
    assert done.returncode == 2
    assert "--ray 127.0.0.1:1: no Ray cluster there" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_full_disk_loses_nothing_finished(tmp_path: Path, small_space: str) -> None:
    """A limit on the size of files makes writes fail as a full disk does, in a real process."""
    options = ("--space", small_space, "--images", 6, "--region", 2, "--out", tmp_path / "run")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    failed = subprocess.run(command(*options), capture_output=True, text=True, env=environment(), preexec_fn=limit)
    assert failed.returncode == 1
    assert "File too large" in failed.stderr
    assert "run the same command again" in failed.stderr.splitlines()[-1]
    for result in ("labels.parquet", "summary.json", "report.html"):
        assert not (tmp_path / "run" / result).exists()
    again = run_command(*options, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["spaces"]["small"]["images"] == 6


def test_an_unfinished_run_is_not_read(tmp_path: Path, small_space: str) -> None:
    run(RunSettings(space=small_space, images=2, region=1, out=tmp_path))
    next((tmp_path / "outcomes.zarr" / "status" / "c").iterdir()).unlink()
    with pytest.raises(UserError, match="is not finished \\(3 of 4 images\\)"):
        read_outcomes(tmp_path)
    with pytest.raises(UserError, match="no outcomes in"):
        read_outcomes(tmp_path / "nowhere")


def test_memory_bounds_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oracle.evaluation.evaluate.cpu_count", lambda: 2)
    network = dynamic.load("resnet50-slim")
    space = dynamic.space("stride", network)
    row = network.costs.row_bytes(space, 96) / 2**30
    for rows, expected in (
        (1.5, WalkSize(1, 1, 1)),
        (8.5, WalkSize(4, 4, 2)),
        (50.5, WalkSize(16, 25, 2)),
        (999, WalkSize(16, 128, 2)),
    ):
        assert WalkSize.fitting(network, space, 96, 32, "cpu", rows * row) == expected
    assert WalkSize.fitting(network, space, 96, 1, "cpu", 50.5 * row) == WalkSize(1, 50, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float64", 1e-4)])
def test_other_types_differ_by_rounding(tmp_path: Path, small_space: str, dtype: str, tolerance: float) -> None:
    for name in ("float32", dtype):
        run(RunSettings(space=small_space, images=4, dtype=name, out=tmp_path / name))
    expected, got = (read_outcomes(tmp_path / name)["p_true"].values for name in ("float32", dtype))
    assert 0 < np.abs(got - expected).max() < tolerance


def test_random_weights_follow_the_seed_and_resume(tmp_path: Path, small_space: str) -> None:
    options = RunSettings(weights="none", space=small_space, images=1, seed=5, out=tmp_path)
    run(options)
    before = all_bytes(tmp_path)
    run(options)
    assert all_bytes(tmp_path) == before


def test_an_own_network_runs_too(tmp_path: Path) -> None:
    space = tmp_path / "own.json"
    space.write_text('{"dilation": [[1, 2]]}')
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10)
    )
    network = dynamic.load(module, dynamic_layers=["0"])
    summary = run(RunSettings(space=str(space), images=3, out=tmp_path / "run"), network)
    assert summary["run"]["model"] == "Sequential"
    assert summary["spaces"]["own"]["test"]["images"] == 3
    assert "slim copy" not in (tmp_path / "run" / "report.html").read_text()


def test_the_papers_column_is_for_its_network_and_spaces() -> None:
    numbers = dict.fromkeys(("static", "worst", "median", "best"), 0.5) | {"single_best": {"accuracy": 0.5}}
    numbers |= {
        "intervals": dict.fromkeys([*numbers], (0.4, 0.6)),
        "macs": dict.fromkeys(("default", "oracle", "single_best"), 1),
    }
    best = {"resnet50": "93.7%", "resnet50-slim": "93.7%", "mobilenet_v2": "92.1%", "timm/resnet26": "—"}
    for model, expected in best.items():
        summary = {"run": {"model": model}, "spaces": {"stride": {"configurations": 361, "test": numbers}}}
        assert [row[-1] for row in table_rows(summary) if row[1].startswith("best")] == [expected]
