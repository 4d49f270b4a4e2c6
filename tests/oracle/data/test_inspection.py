"""What is said of a folder before anything is run."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

from dynamic import UserError
from oracle.data.inspection import inspect_folder
from oracle.data.splits import split_of
from serving.errors import Rejection
from serving.inference.decoding import open_picture
from tests.image_folders import fill
from tests.pictures import gradient, saved


def test_a_folder_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = fill(tmp_path, {"cat": 5, "dog": 3}, ".png", height=40)
    Image.new("RGB", (90, 20)).save(tmp_path / "cat" / "wide.png")
    Image.new("P", (300, 200)).save(tmp_path / "dog" / "palette.png")
    (tmp_path / "dog" / "copy.png").write_bytes((tmp_path / "cat" / "wide.png").read_bytes())
    (tmp_path / "dog" / "bad.png").write_bytes(b"no image")
    (tmp_path / "dog" / "._bad.png").write_bytes(b"x")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    facts = inspect_folder(tmp_path)
    assert facts.classes == {"cat": 6, "dog": 5, "empty": 0}
    assert facts.images == 11 == sum(facts.splits.values())
    counted = [*keys, "cat/wide.png", "dog/palette.png", "dog/bad.png"]
    assert facts.splits["test"] == sum(split_of(key) == "test" for key in counted)
    assert facts.short_sides == (20, 43, 200)
    assert facts.modes == {"RGB": 9, "P": 1}
    assert list(facts.unreadable) == ["dog/bad.png"]
    assert str(tmp_path) not in facts.unreadable["dog/bad.png"]
    assert (facts.copies, facts.hidden, facts.others) == (1, 1, 1)
    assert facts.lines() == [
        f"{tmp_path}: 11 images in 3 class folders, 0 to 6 each; {facts.splits['label']} in the label split, "
        f"{facts.splits['test']} in the test split",
        "short sides of 20 to 200 pixels, half of them at most 43; 9 RGB, 1 P",
        "left out 1 copies of images, such as dog/copy.png, which is cat/wide.png; 1 of them in another class",
        f"1 images cannot be read, such as dog/bad.png: {facts.unreadable['dog/bad.png']}",
        "left out 1 hidden images and 1 files that are no images",
        "1 class folders are empty, such as empty",
    ]


def test_it_is_said_which_images_the_service_would_refuse(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 2}, ".png")
    image = gradient()
    for name, kind, options in (
        ("a.bmp", "BMP", {}),
        ("b.tif", "TIFF", {}),
        ("c.png", "PNG", {"save_all": True, "append_images": [image.rotate(90)]}),
        ("d.webp", "WEBP", {"save_all": True, "append_images": [image.rotate(90)]}),
        ("e.jpg", "GIF", {}),
        ("f.jpg", "MPO", {"save_all": True, "append_images": [image.rotate(90)]}),
    ):
        (tmp_path / "cat" / name).write_bytes(saved(image, kind, **options))
    Image.new("RGB", (7, 20)).save(tmp_path / "cat" / "g.png")
    Image.new("RGB", (8, 161)).save(tmp_path / "cat" / "h.png")
    facts = inspect_folder(tmp_path)
    assert (
        "the service would refuse 7, such as cat/a.bmp: 3 no JPEG, PNG or WebP; 2 animated; 1 a side under 8 pixels; "
        "1 over 20 times as long as wide" in facts.lines()
    )
    for path in (tmp_path / "cat").iterdir():
        refused = f"cat/{path.name}" in facts.refused
        with pytest.raises(Rejection) if refused else nullcontext():
            open_picture(path.read_bytes(), 10)


def test_all_may_be_unreadable_and_one_class_is_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"no image")
    facts = inspect_folder(tmp_path)
    assert facts.short_sides is None
    assert facts.images == len(facts.unreadable) == 1
    assert "1 images in 1 class folders, 1 each" in facts.lines()[0]


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no folder"), (tmp_path, "holds no class folders: expected")):
        with pytest.raises(UserError, match=message):
            inspect_folder(path)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="holds 0 images in 1 class folders; expected"):
        inspect_folder(tmp_path)
