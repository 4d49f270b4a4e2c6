"""The examples of docs/EXTENDING.md, run as they stand there."""

from __future__ import annotations

import importlib
import inspect
import json
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from dynamic.attributes import registry
from oracle.runs import Run
from tests.image_folders import fill
from tests.oracle.conftest import environment
from tests.pages import EXTENDING, commands, files, sections

pytestmark = pytest.mark.slow

SECTIONS = sections(EXTENDING)
HERE = environment() | {"PYTHONPATH": str(EXTENDING.parents[1])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pictures and the page's files."""
    folder = tmp_path_factory.mktemp("extending")
    fill(folder / "photos", {"ant": 2, "bee": 2})
    for name, content in files(EXTENDING.read_text()).items():
        (folder / name).write_text(content)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(registry, "_all", {})
        patched.setattr(registry, "_sources", {})
        yield folder


def run(command: str) -> None:
    """A command of the project, in this process."""
    python, option, module, *arguments = shlex.split(command)
    assert (python, option) == ("python", "-m")
    main = importlib.import_module(module).main
    settings = typing.get_type_hints(main)[next(iter(inspect.signature(main).parameters))]
    main(tyro.cli(settings, args=arguments))


def test_an_attribute_of_your_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(SECTIONS["An attribute of your own"]):
        run(command)
    assert "turns (16)" in capsys.readouterr().out
    assert Run(folder / "runs/turned").record.files["attributes/rotation.py"]
    # Whatever opens the run has the attribute from there, in a process that knows nothing of it.
    code = """
from pathlib import Path
import numpy as np
from oracle.runs import Run
from serving.schema import Layer

run = Run.open(Path("runs/turned"))
network = run.fast_network()
turned = max(run.configurations)
images = run.images().load(np.arange(4)).images
assert (network(images, turned).argmax(1).numpy() == run.outcomes().predicted.sel(configuration=turned.id)[:4].values).all()
print(turned, Layer.model_json_schema()["properties"]["rotation"]["type"])
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=HERE, timeout=120)
    assert made.stdout.split() == ["s1-2-2-2_d1-1-1-1_k3-3-3-3_r0-0-1-3", "integer"], made.stderr


def test_a_space_of_your_own(folder: Path) -> None:
    for command in commands(SECTIONS["A space of your own"]):
        run(command)
    strides = {c.stride for c in Run.open(folder / "runs/one-two-five").configurations}
    assert strides == {(1, 2, c, d) for c in (1, 2, 5) for d in (1, 2, 5)}


def test_a_bound_at_three_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SECTIONS["A bound for resnet18 at three layers"]
    for command in commands(text):
        run(command)
    assert "60 of 80 configurations left out: each changes the stride of layer A" in capsys.readouterr().err
    summary = json.loads((folder / "runs/resnet18/summary.json").read_text())
    assert summary["spaces"]["stride"]["configurations"] == 20
    assert "and 20\nof its 80 configurations are left" in text


def test_raw_outcomes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (folder / "runs/turned").exists():  # run alone
        for command in commands(SECTIONS["An attribute of your own"]):
            run(command)
    text = SECTIONS["Raw outcomes in pandas and xarray"]
    for name, code in files(text).items():
        lines = [line for line in code.splitlines() if line and not line.startswith("import")]
        assert len(lines) == 3
        exec(compile(code, name, "exec"), {})
        assert "rotation_D" in capsys.readouterr().out
