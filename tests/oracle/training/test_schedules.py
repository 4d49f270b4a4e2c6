"""Learning rates by step, and a training whose end is moved while it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic import UserError
from dynamic.training.checkpoint import resume, save_checkpoint
from oracle.training.schedules import Plan, Schedule


def test_steps_are_those_of_torch() -> None:
    ours, theirs = optimizer(), optimizer()
    schedule = Schedule(ours, Plan(name="steps", epochs=4, steps=3, drop_after=2))
    reference = torch.optim.lr_scheduler.MultiStepLR(theirs, [2])
    for _ in range(4):
        for _ in range(3):
            assert rate(ours) == pytest.approx(rate(theirs), rel=1e-12)
            step(ours, schedule)
        step(theirs, reference)


def test_each_schedule_rises_and_falls_as_it_says() -> None:
    steps = range(100)
    cosine = np.array([Plan(name="cosine", epochs=10, steps=10, warm_up_steps=5).share(step) for step in steps])
    stable = np.array([Plan(name="stable", epochs=10, steps=10, warm_up_steps=5, decay_epochs=3).share(s) for s in steps])
    for shares in (cosine, stable):
        assert 0 < shares[0] < 0.21
        assert np.all(np.diff(shares[:5]) > 0)
        assert 0 < shares[-1] < 0.04
    assert np.all(np.diff(cosine[5:]) < 0)
    assert np.all(stable[4:71] == 1)
    assert np.allclose(np.diff(stable[70:]), -1 / 30)
    assert Plan(name="stable", epochs=10, steps=10).share(100) == 0


def test_the_end_may_be_moved_until_the_decay_begins(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for epochs in (4, 8):  # sooner and later than said at first
        leave(path, Plan(name="stable", epochs=6, steps=5, warm_up_steps=2), epochs=3)
        after, later = optimizer(), Plan(name="stable", epochs=epochs, steps=5, warm_up_steps=2)
        schedule = Schedule(after, later)
        assert resume(path, {}, "cpu", optimizer=after, schedule=schedule) == 3
        found = []
        for _ in range(15, 5 * epochs):
            found.append(rate(after))
            step(after, schedule)
        assert found == [later.share(step) for step in range(15, 5 * epochs)]
        assert found[0] == 1


def test_an_end_that_comes_too_late_or_too_soon_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    leave(path, Plan(name="stable", epochs=6, steps=5, decay_epochs=2), epochs=5)
    with pytest.raises(UserError, match="falls already, to zero after --epochs 6 --decay-epochs 2: go on with these"):
        resume(path, {}, "cpu", schedule=Schedule(optimizer(), Plan(name="stable", epochs=9, steps=5, decay_epochs=2)))
    leave(path, Plan(name="stable", epochs=9, steps=5, decay_epochs=2), epochs=5)
    with pytest.raises(UserError, match=r"5 epochs are done .* --epochs must be at least 7, not 6"):
        resume(path, {}, "cpu", schedule=Schedule(optimizer(), Plan(name="stable", epochs=6, steps=5, decay_epochs=2)))


def leave(path: Path, plan: Plan, epochs: int) -> None:
    """A checkpoint after some epochs of a plan."""
    before = optimizer()
    schedule = Schedule(before, plan)
    for _ in range(epochs * plan.steps):
        step(before, schedule)
    save_checkpoint(path, {}, epochs, optimizer=before, schedule=schedule)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def rate(of: torch.optim.Optimizer) -> float:
    return float(of.param_groups[0]["lr"])


def step(of: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    of.step()
    schedule.step()
