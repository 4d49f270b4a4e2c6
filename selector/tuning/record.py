"""``OUT/tune.json``: what a tuning was asked for, and on what its policies were trained; so it goes on where it stopped."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from dynamic.errors import UserError
from dynamic.integrity import read_record, write_record
from oracle.runs import Run
from selector.policies import make
from selector.policies.objectives import TERMS
from selector.tuning.settings import TuneSettings

RECORD = "tune.json"

_BEGUN_WITH = "dynamic_layers dataset regime space search_images candidates recalibrate distil seed dtype".split()
"""Options that decide what was evaluated. Network, images and pictures are compared by content, where they are used."""

_FREE = "portfolio policies tolerance confidence timing".split()
"""Options that decide only what is made of what was evaluated."""


class TuneRecord:
    """What ``tune.json`` of a folder says.

    Args:
        folder: of the tuning.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD
        self._content: dict[str, Any] = read_record(self._path) if self._path.exists() else {}

    def begin(self, settings: TuneSettings) -> None:
        """Note the settings, and say which changed.

        Raises:
            UserError: an option changed that decides what was evaluated, or the folder holds another command's run.
        """
        before: dict[str, Any] = self._content.get("settings", {})
        now = json.loads(json.dumps(settings.to_json(), default=str))
        if not before and Run(settings.out).record_file.exists():
            raise UserError(f"{settings.out} holds a run that selector.tune did not make: choose another --out")
        for name in _BEGUN_WITH if before else []:
            if before.get(name) != now[name]:
                raise UserError(
                    f"{settings.out} was begun with {_option(name)} {before.get(name)}, now it is {now[name]}: "
                    "choose another --out, or go on with what it was begun with"
                )
        for name in _FREE if before else []:
            if before.get(name, now[name]) != now[name]:
                print(f"{_option(name)} was {before[name]}, is now {now[name]}", file=sys.stderr)
        self._write(settings=now)

    def noted(self, step: str) -> Any:
        """What was noted of a step; None before it is done."""
        return self._content.get(step)

    def note(self, step: str, what: Any) -> None:
        """A step is done: note what came of it, or on what it was done."""
        self._write(**{step: what})

    def _write(self, **changes: Any) -> None:
        self._content |= changes
        write_record(self._path, self._content)


def training_key(settings: TuneSettings, run: Run) -> str:
    """On what policies are trained: the run's files, and the options; files of one's own policies by their content."""
    own = [sha256(policy.source or b"").hexdigest() for policy in make(settings.policies)]
    terms = [] if settings.terms == TERMS else [asdict(settings.terms)]  # a tuning of an earlier version goes on
    parts = [run.record.files, read_record(run.chosen_on), settings.portfolio, settings.policies, own, settings.seed, *terms]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
