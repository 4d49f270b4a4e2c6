"""Another run for all workers of a server at once, or for none: two phases, over files in the server's folder.

Who asks writes what is to be served. Every ready worker opens it beside what it serves, warms it up, and says so, or why it
cannot. Only if all can, they are told to serve it; else they drop it. Workers that start later open what was last agreed on.

    FOLDER/takeover/agreed.json    number, target         what workers open that start from now on
                    earlier.json   keys                   of what answered before
                    asked.json     number, target, phase, by
                    PID.json       number, state, by, and what the worker says of its run
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from dynamic.errors import UserError
from dynamic.files import write_whole
from serving.operation.logs import LOGGER, event
from serving.operation.server_folder import birth_of, lives, states

T = TypeVar("T")

Phase = Literal["prepare", "serve", "drop"]
State = Literal["serving", "prepared", "refused", "dropped"]

_LOOK = 0.1
"""Seconds between two looks at what others wrote."""

_PATIENCE = 60.0
"""Seconds for which a full disk is tried again."""


class TakeoverError(UserError):
    """A run that is not taken over; what was served is served on. The message says why, in a line."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be served.

    Attributes:
        number: of this wish, one more than that of the last.
        target: a run's folder or a network's name.
        phase: ``prepare`` it beside what is served, then ``serve`` or ``drop`` it.
        by: process id and birth of who asks; see :func:`serving.operation.server_folder.birth_of`.
    """

    number: int
    target: str
    phase: Phase
    by: tuple[int, str]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a worker says.

    Attributes:
        number: of the wish that it speaks of.
        state: ``serving`` that wish's run, or ``prepared`` to; or it ``refused`` it, or ``dropped`` it because another did.
        by: process id and birth of the worker.
        facts: of what it serves; and ``reason``, why it refused what was asked.
    """

    number: int
    state: State
    by: tuple[int, str]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Takeovers:
    """The takeovers of one server.

    Args:
        folder: of the server; see :func:`serving.operation.server_folder.enter`.

    Attributes:
        stopped: whoever sets it has what is being taken over given up, since the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self._workers, self._folder = folder / "workers", folder / "takeover"
        self.stopped = threading.Event()

    def begin(self, target: str) -> None:
        """Say what the server serves from its start; the process that starts the workers does."""
        self._write("agreed.json", {"number": 0, "target": target})
        (self._folder / "earlier.json").unlink(missing_ok=True)

    def agreed(self, otherwise: str) -> tuple[int, str]:
        """Number and target of what all workers serve; 0 and ``otherwise`` where nobody said."""
        found = self._read("agreed.json") or {"number": 0, "target": otherwise}
        return int(found["number"]), str(found["target"])

    def asked(self) -> Asked | None:
        """The latest wish."""
        found = self._read("asked.json")
        return None if found is None else Asked(**found | {"by": tuple(found["by"])})

    def say(self, number: int, state: State, **facts: Any) -> None:
        """Say what this worker does about a wish."""
        said = Said(number=number, state=state, by=_self(), facts=facts)
        self._write(f"{os.getpid()}.json", asdict(said))

    def said(self) -> dict[int, Said]:
        """By process id what workers said that live."""
        found: dict[int, Said] = {}
        for path in self._folder.glob("[0-9]*.json"):
            content = self._read(path.name)
            if content is not None and lives(*content["by"]):
                found[int(path.stem)] = Said(**content | {"by": tuple(content["by"])})
        return found

    def remember(self, earlier: Sequence[str]) -> None:
        """Note what answered before, for workers that start later; on a full disk nothing is noted."""
        with suppress(OSError):
            self._write("earlier.json", {"keys": list(earlier)})

    def earlier(self) -> list[str]:
        """What was noted."""
        return [str(key) for key in (self._read("earlier.json") or {}).get("keys", [])]

    def take_over(self, target: str, seconds: float = 600.0) -> dict[int, Said]:
        """Have every ready worker serve ``target``, or none; blocks meanwhile.

        Args:
            target: a run's folder, without symbolic links, so that all open the same; or a network's name.
            seconds: that opening it may take.

        Returns:
            What the workers say that serve it, by process id.

        Raises:
            TakeoverError: one of them cannot, none is ready, the disk is full, or another takeover is under way.
        """
        with self._alone():
            last = self.asked()
            number = max(self.agreed("")[0], 0 if last is None else last.number) + 1
            workers = {pid for pid, state in states(self._workers) if state == "ready"}
            if not workers:
                raise TakeoverError("no worker is ready")
            asked, before = Asked(number=number, target=target, phase="prepare", by=_self()), self._read("agreed.json")
            try:
                self._ask(asked)
                said = self._wait(asked, workers, {"prepared", "refused"}, seconds)
                reasons = [str(one.facts.get("reason")) for one in said.values() if one.state == "refused"]
                if reasons:
                    raise TakeoverError(reasons[0])
                self._write("agreed.json", {"number": number, "target": target})
                self._ask(asked, "serve")
            except BaseException as error:
                self._give_up(asked, before)
                if isinstance(error, OSError):
                    raise TakeoverError(f"the server's folder cannot be written: {error}") from error
                raise
            return self._wait(asked, workers, {"serving"}, seconds)

    def _give_up(self, asked: Asked, before: Mapping[str, Any] | None) -> None:
        """Have workers drop what they prepared, and later ones open what was agreed on before; patient with a full disk."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                if before is not None and self._read("agreed.json") != before:
                    self._write("agreed.json", before)
                self._ask(asked, "drop")
                return
            except OSError as error:
                if time.monotonic() > end:
                    event(f"the workers cannot be told to drop a run: {error}", logging.ERROR)
                    return
            time.sleep(_LOOK)

    def _wait(self, asked: Asked, workers: set[int], states: set[str], seconds: float) -> dict[int, Said]:
        """Until all workers of these that live have said one of the states; raises TakeoverError where that takes long."""
        end = time.monotonic() + seconds
        while True:
            every = {pid: one for pid, one in self.said().items() if pid in workers and one.number == asked.number}
            said = {pid: one for pid, one in every.items() if one.state in states}
            waited = [pid for pid in workers - set(said) if lives(pid)]
            if not waited and said:
                return said
            if not waited:
                raise TakeoverError("the workers ended meanwhile: try again")
            if time.monotonic() > end:
                raise TakeoverError(f"process {waited[0]} was not ready to serve it in {seconds:g} s")
            if self.stopped.wait(_LOOK):
                raise TakeoverError("the process that was asked for it ends")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TakeoverError("another takeover is under way: try again when it is over") from None
            yield

    def _ask(self, asked: Asked, phase: Phase = "prepare") -> None:
        self._write("asked.json", asdict(asked) | {"phase": phase})

    def _read(self, name: str) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            found = json.loads((self._folder / name).read_text())
            return found if isinstance(found, dict) else None
        return None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / name, json.dumps(content).encode())


async def follow(
    takeovers: Takeovers,
    served: int,
    *,
    prepare: Callable[[str], Awaitable[T]],
    serve: Callable[[T], None],
    drop: Callable[[T], Awaitable[None]],
    settle: Callable[[], Awaitable[None]],
    facts: Callable[[], Mapping[str, Any]],
) -> None:
    """Do what is asked of this worker, until it is cancelled.

    Args:
        takeovers: of the server.
        served: number of what this worker serves.
        prepare: opens a target beside what is served; raises UserError where that cannot be.
        serve: serves what was prepared from now on.
        drop: forgets what was prepared.
        settle: frees what was served before.
        facts: of what is served.
    """
    await _say(takeovers, served, "serving", facts(), takeovers.asked())
    while True:
        await asyncio.sleep(_LOOK)
        asked = takeovers.asked()
        if asked is None or asked.number <= served:
            continue
        served = asked.number
        if not _wanted(asked):
            continue
        try:
            prepared = await prepare(asked.target)
        except Exception as error:
            if not isinstance(error, UserError):
                LOGGER.exception("a run could not be opened")
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if asked.phase == "serve":  # it was agreed on before this worker came
                event(f"this worker cannot serve what the others do: {reason}", logging.ERROR)
            await _say(takeovers, asked.number, "refused", {**facts(), "reason": " ".join(reason.split())}, asked)
            continue
        await _say(takeovers, asked.number, "prepared", facts(), asked)
        phase = await _decided(takeovers, asked)
        if phase == "serve":
            serve(prepared)
            # At once: who asked need not wait for old requests, nor the old run's memory for room on the disk.
            await asyncio.gather(_say(takeovers, asked.number, "serving", facts(), takeovers.asked()), settle())
        else:
            await drop(prepared)
            await _say(takeovers, asked.number, "dropped", facts(), takeovers.asked())


async def _say(takeovers: Takeovers, number: int, state: State, facts: Mapping[str, Any], asked: Asked | None) -> None:
    """Say it, on a full disk as soon as there is room: a worker does not end of that.

    Given up where nobody waits for it any more: what was asked last is no longer ``asked``.
    """
    told = False
    while True:
        try:
            takeovers.say(number, state, **facts)
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if not told:
                event(f"this worker cannot tell what it serves, and tries again: {error}", logging.WARNING)
            told = True
        await asyncio.sleep(_LOOK)
        if takeovers.asked() != asked:
            return


async def _decided(takeovers: Takeovers, asked: Asked) -> Phase:
    """What becomes of a run that is prepared: dropped too where who asked is gone."""
    while True:
        now = takeovers.asked()
        if now is None or now.number != asked.number or not _wanted(now):
            return "drop"
        if now.phase == "serve":
            return "serve"
        await asyncio.sleep(_LOOK / 4)


def _wanted(asked: Asked) -> bool:
    """Whether a wish still stands: one that was agreed on does, whoever is gone."""
    return asked.phase == "serve" or (asked.phase == "prepare" and lives(*asked.by))


def _self() -> tuple[int, str]:
    return os.getpid(), birth_of(os.getpid())
