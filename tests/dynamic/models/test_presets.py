"""How pictures are prepared: a library's way, a resolution, mean and deviation, or a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import dynamic
from dynamic import UserError
from dynamic.models import NetworkSettings, Pictures, build, load_network
from dynamic.models.presets import in_words, read_preprocessing
from dynamic.preprocessing import Preprocessing, imagenet_preprocessing

TRANSFORM = """\
from torchvision import transforms as v2

made = v2.Compose([
    v2.Resize(40), v2.CenterCrop(32), v2.ToTensor(), v2.Normalize([0.5, 0.5, 0.5], [0.25, 0.25, 0.25]),
])


def build():
    return made
"""


@pytest.mark.parametrize(
    ("preset", "side", "resize", "crop"),
    [
        ({"resize": 256, "crop": 224}, 96, 110, 96),
        ({"resize": 235, "crop": 224}, 448, 470, 448),
        ({"resize": (256, 256), "crop": 224}, 112, (128, 128), 112),
        ({"resize": 96, "crop": 96}, 64, 64, 64),
        ({"resize": (224, 224), "crop": None}, 32, (32, 32), None),
    ],
)
def test_a_librarys_sizes_keep_their_proportion(preset: dict[str, object], side: int, resize: object, crop: object) -> None:
    whole = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, **preset)  # type: ignore[arg-type]
    made = Pictures(resolution=side).over(whole)
    assert (made.resize, made.crop, made.resolution) == (resize, crop, side)


def test_of_a_network_of_ones_own_the_short_side_becomes_the_resolution() -> None:
    made = Pictures(resolution=48, mean=(0.1, 0.2, 0.3)).over(imagenet_preprocessing(), own=True)
    assert (made.resize, made.crop, made.mean, made.std) == (48, 48, (0.1, 0.2, 0.3), imagenet_preprocessing().std)


def test_one_number_is_for_all_channels() -> None:
    made = Pictures(mean=(0.5,)).over(imagenet_preprocessing())
    assert (made.mean, made.std) == ((0.5,) * 3, imagenet_preprocessing().std)


def test_a_whole_preprocessing_from_a_file(tmp_path: Path) -> None:
    wanted = Preprocessing(resize=40, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    (tmp_path / "mine.json").write_text(json.dumps(wanted.to_json()))
    (tmp_path / "mine.py").write_text(TRANSFORM)
    for file in (tmp_path / "mine.json", f"{tmp_path}/mine.py:made", f"{tmp_path}/mine.py:build"):
        assert read_preprocessing(str(file)) == wanted
    assert Pictures(file=str(tmp_path / "mine.json")).over(imagenet_preprocessing()) == wanted
    network = dynamic.load("resnet50-slim", preprocessing=Pictures(file=str(tmp_path / "mine.json")))
    assert (network.info.preprocessing, network.info.preset) == (wanted, False)
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(UserError, match="this is no preprocessing"):
        read_preprocessing(str(tmp_path / "mine.json"))
    with pytest.raises(UserError, match=r"--preprocessing .*no.json is neither a JSON file nor FILE.py:NAME of a transform"):
        read_preprocessing(str(tmp_path / "no.json"))
    (tmp_path / "mine.py").write_text("from torchvision.transforms import v2\n\nmade = v2.Compose([v2.RandomCrop(3)])\n")
    with pytest.raises(UserError, match="a transform of RandomCrop cannot be kept as plain data"):
        read_preprocessing(f"{tmp_path}/mine.py:made")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 0}, "--resolution must be a side in pixels, not 0"),
        ({"mean": (0.5, 0.5)}, "--mean must be one number, or one for each channel, not 2"),
        ({"preprocessing": "x.json", "mean": (0.5,)}, "--preprocessing says all: leave out --resolution, --mean and --std"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        NetworkSettings(**options)  # type: ignore[arg-type]


def test_only_what_was_asked_for_or_assumed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_network(NetworkSettings(), 0)
    assert capsys.readouterr().err == ""
    network = load_network(NetworkSettings(resolution=64), 0)
    assert capsys.readouterr().err == f"pictures: {in_words(network.info.preprocessing)}\n"
    assert in_words(network.info.preprocessing).startswith("short side to 64, centre 64 x 64, bilinear, grey, mean")
    torch.save(build("squeezenet1_1").state_dict(), tmp_path / "mine.pth")
    load_network(NetworkSettings(model="squeezenet1_1", dynamic_layers="features.0", weights=str(tmp_path / "mine.pth")), 0)
    assert capsys.readouterr().err == (
        f"pictures: {in_words(imagenet_preprocessing())}; assumed: size, mean, std (squeezenet1_1's own: say others with "
        "--resolution, --mean, --std)\n"
    )
    (tmp_path / "mine.pth").rename(tmp_path / "squeezenet1_1-b8a52dc0.pth")
    published = str(tmp_path / "squeezenet1_1-b8a52dc0.pth")
    load_network(NetworkSettings(model="squeezenet1_1", dynamic_layers="features.0", weights=published), 0)
    assert capsys.readouterr().err == ""
