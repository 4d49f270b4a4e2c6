"""A network at chance is told from one that knows something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dynamic
from oracle.evaluation.chance import no_better_than_chance
from oracle.pipeline import run
from oracle.settings import RunSettings
from tests.image_folders import fill

STREAM = np.random.default_rng(0)


def answers(labels: np.ndarray, classes: int, accuracy: float) -> np.ndarray:
    known = STREAM.random(len(labels)) < accuracy
    return np.where(known, labels, STREAM.integers(0, classes, len(labels)))


@pytest.mark.parametrize("shift", range(1, 12))
def test_labels_in_another_order_are_noticed(shift: int) -> None:
    labels = STREAM.integers(0, 12, 200)
    assert no_better_than_chance((answers(labels, 12, 0.8) + shift) % 12, labels, 12)
    assert no_better_than_chance(answers(labels, 12, 0.3), labels, 12) is None


def test_a_common_class_is_no_knowledge_and_no_ignorance() -> None:
    labels = np.where(STREAM.random(400) < 0.9, 0, 1)
    assert no_better_than_chance(np.zeros(400, int), labels, 2)
    assert no_better_than_chance(answers(labels, 2, 0.8), labels, 2) is None


@pytest.mark.parametrize(
    ("images", "right", "said"), [(10, 8, False), (10, 5, False), (10, 3, True), (100, 55, True), (100, 60, False)]
)
def test_few_images_say_nothing(images: int, right: int, said: bool) -> None:
    labels = np.arange(images) % 2
    wrong = np.isin(np.arange(images), STREAM.permutation(images // 2)[: (images - right + 1) // 2] * 2)
    wrong |= np.isin(np.arange(images), STREAM.permutation(images // 2)[: (images - right) // 2] * 2 + 1)
    predicted = np.where(wrong, 1 - labels, labels)
    assert (predicted == labels).sum() == right
    assert (no_better_than_chance(predicted, labels, 2) is not None) == said


def test_one_class_few_images_and_answers_that_are_not_finite() -> None:
    assert no_better_than_chance(np.full(40, 3), np.full(40, 3), 10) is None
    assert no_better_than_chance(np.full(40, 2), np.full(40, 3), 10)
    assert no_better_than_chance(np.full(40, -1), np.arange(40) % 4, 4)
    assert no_better_than_chance(np.arange(10), np.arange(10), 10) is None
    assert no_better_than_chance(np.zeros(0, int), np.zeros(0, int), 10) is None


@pytest.mark.slow
def test_a_run_at_chance_says_so(tmp_path: Path, small_space: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "data", {str(number): 4 for number in range(11)})
    network = dynamic.load("resnet50-slim", weights=None, classes=11)
    common = {"model": "own", "dataset": "imagefolder", "data_dir": tmp_path / "data", "space": small_space}
    summary = run(RunSettings(out=tmp_path / "run", **common), network)
    (warning,) = summary["warnings"]
    assert "no better than chance" in warning
    assert warning.endswith("labels may be in another order than its classes: --class-map")
    assert f"warning: {warning}" in capsys.readouterr().err
    assert "no better than chance" in (tmp_path / "run" / "report.html").read_text()
    assert run(RunSettings(images=20, space=small_space, out=tmp_path / "scenes"))["warnings"] == []
