"""An image's name alone says to which split it belongs."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.data.splits import SPLITS, rows_of_splits, split_of

NAMES = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=40)


def by_split(keys: list[str], seed: int, images: int | None = None) -> dict[str, list[str]]:
    return {
        split: [keys[row] for row in rows] for split, rows in zip(SPLITS, rows_of_splits(keys, seed, images), strict=True)
    }


def test_the_rule_is_what_it_was() -> None:
    """Other answers here would turn the test images of stored runs into label images.

    First bytes of sha256sum of the four names: a3, ae, 77, ff; of "0 NAME" of the first, second and last: 0d, be, d0; of
    "1 NAME": a2, 43, ff.
    """
    first, second = (f"n01440764/ILSVRC2012_val_{number}.JPEG" for number in ("00000293", "00002138"))
    odd, last = "a b/ü\n.png", "x/1.jpg"
    assert by_split([last, odd, second, first], seed=0) == {"label": [odd], "test": [first, second, last]}
    assert by_split([last, odd, second, first], seed=1) == {"label": [odd], "test": [second, first, last]}


def test_half_of_many_names_belong_to_each_split() -> None:
    found = Counter(split_of(f"class {number % 100}/{number}.jpg") for number in range(20_000))
    assert 9_700 < found["label"] < 10_300  # 4 standard deviations


@settings(max_examples=60, deadline=None)
@given(NAMES, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 20), st.randoms(use_true_random=False))
def test_seed_other_images_and_their_number_move_no_image(
    keys: list[str], seed: int, other: int, images: int, shuffler: random.Random
) -> None:
    whole = by_split(keys, seed)
    assert sorted(whole["label"] + whole["test"]) == sorted(keys)
    assert {split: set(names) for split, names in by_split(keys, other).items()} == {s: set(n) for s, n in whole.items()}
    assert by_split(keys, seed, images) == {split: names[:images] for split, names in whole.items()}
    shuffled = shuffler.sample(keys, len(keys))
    assert by_split(shuffled, seed) == whole
    fewer = {split: [name for name in names if name in keys[::2]] for split, names in whole.items()}
    assert by_split(keys[::2], seed) == fewer


def test_the_seed_changes_the_order() -> None:
    keys = [f"a/{number}.jpg" for number in range(100)]
    first, second = by_split(keys, 0), by_split(keys, 1)
    for split in SPLITS:
        assert first[split] != second[split]
        assert first[split] != sorted(first[split])
