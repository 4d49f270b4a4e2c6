"""Data sets by name, and fashion-scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dynamic
from dynamic import UserError
from dynamic.scenes import scenes_preprocessing
from oracle.data.scenes_source import ScenesSource
from oracle.data.sources import open_source


def test_options_of_folders_do_not_apply_to_scenes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not apply to fashion-scenes"):
        open_source("fashion-scenes", dynamic.load("resnet50-slim").info, images=2, data_dir=tmp_path)


def test_folders_need_a_folder_and_scenes_a_network_of_ten_classes() -> None:
    info = dynamic.load("mobilenet_v2", weights=None).info
    with pytest.raises(UserError, match="--dataset imagenet needs --data-dir"):
        open_source("imagenet", info, images=None)
    with pytest.raises(UserError, match="mobilenet_v2 has 1000 classes, fashion-scenes has 10"):
        open_source("fashion-scenes", info, images=None)
    with pytest.raises(UserError, match="--images must be at least 1, not 0"):
        open_source("fashion-scenes", info, images=0)


def test_the_first_scenes_are_the_same_whatever_their_number() -> None:
    """So that more images extend a run."""
    few, many = ScenesSource("wide", 1, 3), ScenesSource("wide", 1, 7)
    for row, key in enumerate(few.keys):
        other = many.keys.tolist().index(key)
        assert torch.equal(few.load(np.array([row])).images, many.load(np.array([other])).images)
        assert few.metadata["side"][row] == many.metadata["side"][other]


def test_a_network_of_one_channel_gets_one_of_the_three_equal_ones() -> None:
    info = dynamic.load("resnet50-slim").info
    three = open_source("fashion-scenes", info, images=2)
    one = open_source("fashion-scenes", replace(info, preprocessing=scenes_preprocessing(1)), images=2)
    assert one.identity == three.identity
    assert one.preprocessing.channels == 1
    assert torch.equal(one.load(np.arange(4)).images, three.load(np.arange(4)).images[:, 1:2])


def test_scenes_are_the_ones_that_stored_runs_saw() -> None:
    """Shipped runs carry this identity; were it another, every one of them would be refused."""
    assert ScenesSource("matched", 0, 8).identity == {
        "dataset": "fashion-scenes",
        "regime": "matched",
        "seed": "0",
        "images": "16 (2fcc330c29e2)",
    }
    assert ScenesSource("wide", 3, None).identity["images"] == "20000 (b29fd713b422)"


def test_scenes_of_both_splits_load_in_any_order() -> None:
    source = ScenesSource("matched", 0, 3)
    whole = source.load(np.arange(6)).images
    some = source.load(np.array([4, 0, 5]))
    assert some.readable.all()
    assert (some.images == whole[[4, 0, 5]]).all()
