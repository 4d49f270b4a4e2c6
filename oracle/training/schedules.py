"""Learning rates by step: a warm-up, then steps, a cosine, or a constant that falls to zero over the last epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR

from dynamic.errors import UserError

ScheduleName = Literal["steps", "cosine", "stable"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The learning rate of every step, as a share of the highest.

    ``steps``: a tenth after ``drop_after`` epochs. ``cosine``: half a cosine to zero over all epochs. ``stable``: constant,
    then linearly to zero over the last ``decay_epochs`` (warmup-stable-decay; Hägele et al., "Scaling laws and
    compute-optimal training beyond fixed training durations", NeurIPS 2024). Its end may be moved until the decay begins.

    >>> plan = Plan(name="stable", epochs=4, steps=10, warm_up_steps=5, decay_epochs=1)
    >>> [plan.share(step) for step in (0, 4, 29, 30, 35, 39)]
    [0.2, 1.0, 1.0, 1.0, 0.5, 0.1]

    Attributes:
        name: see above.
        epochs, steps: number of epochs, and of steps in each.
        warm_up_steps: the rate rises linearly over so many steps.
        drop_after, decay_epochs: see above.
    """

    name: ScheduleName
    epochs: int
    steps: int
    warm_up_steps: int = 0
    drop_after: int = 0
    decay_epochs: int = 1

    def share(self, step: int) -> float:
        """Of the highest learning rate, at a step counted from 0."""
        total = self.epochs * self.steps
        if self.name == "steps":
            later = 0.1 if step >= self.drop_after * self.steps else 1.0
        elif self.name == "cosine":
            later = (1 + math.cos(math.pi * min(step / total, 1))) / 2
        else:
            later = max(0.0, min(1.0, (total - step) / (self.decay_epochs * self.steps)))
        return later * min(1.0, (step + 1) / self.warm_up_steps) if self.warm_up_steps else later

    @property
    def stable_epochs(self) -> int:
        """Epochs before the decay."""
        return self.epochs - self.decay_epochs


class Schedule(LambdaLR):
    """A plan's learning rates, one a step; the end of a ``stable`` plan may be another when it is loaded."""

    def __init__(self, optimizer: torch.optim.Optimizer, plan: Plan) -> None:
        self.plan = plan
        super().__init__(optimizer, plan.share)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and when it was to end."""
        kept = {key: value for key, value in super().state_dict().items() if key not in ("plan", "lr_lambdas")}
        return kept | {"ends": [self.plan.epochs, self.plan.decay_epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            UserError: the end was moved although the decay had begun, or to before the epochs that are done.
        """
        epochs, decay = state["ends"]
        done = state["last_epoch"] // self.plan.steps
        if [epochs, decay] != [self.plan.epochs, self.plan.decay_epochs]:
            if done > epochs - decay:
                raise UserError(
                    f"the learning rate falls already, to zero after --epochs {epochs} --decay-epochs {decay}: "
                    "go on with these"
                )
            if done > self.plan.stable_epochs:
                raise UserError(
                    f"{done} epochs are done at the full learning rate: with --decay-epochs {self.plan.decay_epochs} "
                    f"--epochs must be at least {done + self.plan.decay_epochs}, not {self.plan.epochs}"
                )
        super().load_state_dict({key: value for key, value in state.items() if key != "ends"} | {"lr_lambdas": [None]})
