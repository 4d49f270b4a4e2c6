"""Which files of a folder count as images, and that each is to the oracle what it is to the service."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynamic
from dynamic.models import ModelInfo
from dynamic.preprocessing import centred_preprocessing, imagenet_preprocessing
from oracle.data import listing
from oracle.data.folders import FolderSource
from tests.image_folders import fill
from tests.pictures import corpus


@pytest.fixture(scope="module")
def two_classes() -> ModelInfo:
    return dynamic.load("mobilenet_v2-slim", weights=None, classes=2).info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_picture_is_to_the_oracle_what_it_is_to_the_service(tmp_path: Path) -> None:
    for position, (name, data) in enumerate(corpus().items()):
        folder = tmp_path / "ab"[position % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(data)  # what a file is, its content says
    info = dynamic.load("mobilenet_v2-slim", weights=None, classes=2).info
    for prepare in (info.preprocessing, imagenet_preprocessing(64), centred_preprocessing(32, (0.3,), (0.2,))):
        source = FolderSource("imagefolder", tmp_path, replace(info, preprocessing=prepare), None, 0, None)
        batch = source.load(np.arange(len(source.keys)))
        assert len(source.keys) > 40
        assert batch.readable.all()
        for key, tensor in zip(source.keys, batch.images, strict=True):
            assert torch.equal(tensor, prepare(Image.open(io.BytesIO((tmp_path / key).read_bytes()))))
            assert tensor.shape == (prepare.channels, prepare.resolution, prepare.resolution)


def test_hidden_files_and_what_systems_leave_are_no_images(
    tmp_path: Path, two_classes: ModelInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = fill(tmp_path, {"a": 2, "b": 2})
    hidden = (".ipynb_checkpoints/cat-checkpoint.jpg", "deep/.hidden/x.jpg", "._cat.jpg", "__MACOSX/a/x.png")
    for name in hidden:
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "a" / name)
    for folder in ("__MACOSX", ".git"):
        fill(tmp_path / folder, {"a": 1})
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    source = FolderSource("imagefolder", tmp_path, two_classes, None, 0, None)
    assert sorted(source.keys) == sorted(keys)
    printed = capsys.readouterr().err
    assert f"left out 4 hidden images, such as {tmp_path}" in printed
    assert "not images" not in printed


def test_of_identical_files_one_counts(tmp_path: Path, two_classes: ModelInfo, capsys: pytest.CaptureFixture[str]) -> None:
    keys = fill(tmp_path, {"a": 6, "b": 6})
    alone = FolderSource("imagefolder", tmp_path, two_classes, None, 0, None).identity
    for key in keys:  # each beside itself, and each a's also among the b's
        data = (tmp_path / key).read_bytes()
        (tmp_path / f"{key}.copy.JPEG").write_bytes(data)
        (tmp_path / key.replace("a/", "b/z")).write_bytes(data)
    for name in ("a/z0.png", "b/z1.png"):
        (tmp_path / name).write_bytes(b"")
    source = FolderSource("imagefolder", tmp_path, two_classes, None, 0, None)
    assert sorted(source.keys) == sorted([*keys, "a/z0.png", "b/z1.png"])
    printed = capsys.readouterr().err
    assert "left out 18 copies of images, such as " in printed
    assert "; 6 of them in another class" in printed
    for name in ("a/z0.png", "b/z1.png"):
        (tmp_path / name).unlink()
    assert FolderSource("imagefolder", tmp_path, two_classes, None, 0, None).identity == alone


def test_only_files_that_look_alike_are_read_whole(tmp_path: Path, two_classes: ModelInfo, monkeypatch) -> None:
    fill(tmp_path, {"a": 6, "b": 6})
    for number in range(4):  # of one size, and different in the middle
        (tmp_path / "a" / f"size{number}.png").write_bytes(bytes([number]) * 9000)
    monkeypatch.setattr(listing, "_whole", lambda file: pytest.fail(f"read {file.key}"))
    assert len(FolderSource("imagefolder", tmp_path, two_classes, None, 0, None).keys) == 16
