from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic import UserError
from dynamic.scenes import SIDES, FashionScenes, load_photographs


def test_a_scene_depends_on_split_index_seed_and_regime_alone() -> None:
    scenes = FashionScenes("label")
    first = scenes.render([3, 8, 5])
    assert first.shape == (3, 3, 96, 96)
    assert first.dtype == torch.float32
    assert torch.equal(first[1], FashionScenes("label", count=9).render([8])[0])
    assert not torch.equal(first[1], FashionScenes("label", seed=1).render([8])[0])
    assert not torch.equal(first[1], FashionScenes("test").render([8])[0])
    scenes.reseed(1)
    assert torch.equal(scenes.render([8]), FashionScenes("label", seed=1).render([8]))


@pytest.mark.parametrize("regime", ["matched", "wide"])
def test_sides_are_log_uniform_in_the_regime(regime: str) -> None:
    sides = FashionScenes("test", regime).sides  # type: ignore[arg-type]
    low, high = SIDES[regime]  # type: ignore[index]
    assert low <= sides.min() < low * 1.01
    assert high * 0.99 < sides.max() <= high
    assert np.median(sides) == pytest.approx(np.sqrt(low * high), rel=0.05)


def test_objects_fit_the_canvas_or_cover_it() -> None:
    scenes = FashionScenes("test", "wide")
    rows = np.flatnonzero(scenes.sides > 150)[:4]
    scenes._clutter[:] = 0  # corners of photographs, which are black: only the object is left
    pixels = scenes.render(rows, normalise=False)[:, 0]
    assert (pixels.amax((1, 2)) > 0.3).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_no_photograph_is_in_two_splits(training_folder: Path) -> None:
    label, test = load_photographs("label")[0], load_photographs("test")[0]
    assert label.shape == test.shape == (10_000, 28, 28)
    assert {image.tobytes() for image in label}.isdisjoint(image.tobytes() for image in test)
    images, labels = load_photographs("train", training_folder)
    assert np.array_equal(images, label[:60])
    assert np.array_equal(labels, load_photographs("label")[1][:60])


def test_classes_are_balanced() -> None:
    counts = np.bincount(load_photographs("test")[1])
    assert counts.tolist() == [1000] * 10


def test_missing_and_damaged_photographs_are_named(tmp_path: Path, training_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no Fashion-MNIST training photographs .*apt-get install dataset-fashion-mnist"):
        FashionScenes("train", data_dir=tmp_path / "nowhere")
    path = training_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot read the Fashion-MNIST training photographs"):
        FashionScenes("train", data_dir=training_folder)
    with pytest.raises(UserError, match="unknown regime 'narrow': choose one of matched, wide"):
        FashionScenes("test", "narrow")  # type: ignore[arg-type]


def test_a_number_that_rounds_to_one_is_a_place_in_a_photograph() -> None:
    scenes = FashionScenes("label", seed=700)  # of this seed the window's top in one piece of scene 7681 was one
    assert scenes.render([7681]).isfinite().all()
