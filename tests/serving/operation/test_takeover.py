"""The two phases of a takeover, with this process as the only worker, or beside one that says what the test writes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dynamic.errors import UserError
from serving.operation import takeover
from serving.operation.readiness import Readiness
from serving.operation.server_folder import birth_of
from serving.operation.takeover import Asked, Said, TakeoverError, Takeovers, follow


class Worker:
    """Serves targets by their names; whatever begins with "bad" cannot be opened."""

    def __init__(self) -> None:
        self.served, self.dropped = "first", list[str]()

    async def prepare(self, target: str) -> str:
        if target.startswith("bad"):
            raise UserError(f"{target} is\ndamaged")
        return target

    def serve(self, target: str) -> None:
        self.served = target

    async def drop(self, target: str) -> None:
        self.dropped.append(target)

    async def settle(self) -> None:
        pass

    def facts(self) -> Mapping[str, Any]:
        return {"network": self.served}


@pytest.fixture
def takeovers(tmp_path: Path) -> Takeovers:
    Readiness(tmp_path).publish("ready")
    found = Takeovers(tmp_path)
    found.begin("first")
    return found


def followed(takeovers: Takeovers, worker: Worker, *targets: str) -> list[str]:
    """What became of each target, asked one after the other."""

    async def main() -> list[str]:
        work = {name: getattr(worker, name) for name in ("prepare", "serve", "drop", "settle", "facts")}
        following = asyncio.create_task(follow(takeovers, takeovers.agreed("")[0], **work))
        found = []
        for target in targets:
            try:
                said = await asyncio.to_thread(takeovers.take_over, target, 10)
                found.append(str(said[os.getpid()].facts["network"]))
            except TakeoverError as error:
                found.append(str(error))
        await asyncio.sleep(0.3)
        following.cancel()
        return found

    return asyncio.run(main())


def test_what_can_be_served_is_and_what_cannot_is_refused_in_a_line(takeovers: Takeovers) -> None:
    worker = Worker()
    assert followed(takeovers, worker, "second", "bad", "third") == ["second", "bad is damaged", "third"]
    assert (worker.served, worker.dropped) == ("third", [])
    assert takeovers.agreed("") == (3, "third")


def test_a_worker_that_has_no_room_to_say_what_it_serves_says_it_later(
    takeovers: Takeovers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, refused = takeover.write_whole, list[str]()

    def full(path: Path, content: bytes) -> None:
        mine = path.name == f"{os.getpid()}.json"
        if mine and refused.count(content.decode()) < 3:  # whatever it says fails three times
            refused.append(content.decode())
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(takeover, "write_whole", full)
    worker = Worker()
    assert followed(takeovers, worker, "second", "bad") == ["second", "bad is damaged"]
    assert worker.served == "second"
    states = [json.loads(content)["state"] for content in dict.fromkeys(refused)]
    assert states == ["serving", "prepared", "serving", "refused"]
    told = [record for record in caplog.records if "cannot tell what it serves, and tries again" in record.getMessage()]
    assert len(told) == len(states)  # once for each, not at every try
    assert not any(record.exc_info for record in caplog.records)


def test_what_nobody_waits_for_any_more_is_not_said_later(takeovers: Takeovers, monkeypatch: pytest.MonkeyPatch) -> None:
    write = takeover.write_whole

    def full(path: Path, content: bytes) -> None:
        if json.loads(content).get("state") == "prepared":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(takeover, "write_whole", full)
    ask = takeovers.take_over
    monkeypatch.setattr(takeovers, "take_over", lambda target, seconds: ask(target, 0.5))
    worker = Worker()
    (found,) = followed(takeovers, worker, "second")
    assert "was not ready to serve it in 0.5 s" in found
    assert (worker.served, worker.dropped) == ("first", ["second"])
    # What is no matter of room ends it, for who supervises it to see.
    monkeypatch.setattr(takeovers, "say", lambda *_, **__: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no")))
    work = {name: getattr(worker, name) for name in ("prepare", "serve", "drop", "settle", "facts")}
    with pytest.raises(PermissionError):
        asyncio.run(asyncio.wait_for(follow(takeovers, 0, **work), 5))


def test_one_worker_that_cannot_is_enough_to_drop_it_in_all(takeovers: Takeovers, tmp_path: Path) -> None:
    other = os.getppid()
    (tmp_path / "workers" / str(other)).write_text(f"ready {birth_of(other)}")
    refusal = Said(number=1, state="refused", by=(other, birth_of(other)), facts={"reason": "no memory left"})
    (tmp_path / "takeover" / f"{other}.json").write_text(json.dumps(asdict(refusal)))
    worker = Worker()
    assert followed(takeovers, worker, "second") == ["no memory left"]
    assert (worker.served, worker.dropped) == ("first", ["second"])
    assert takeovers.agreed("") == (0, "first"), "workers that start now open what is served"
    assert takeovers.said()[os.getpid()].state == "dropped"


def test_a_worker_that_starts_late_serves_what_was_agreed_on(takeovers: Takeovers) -> None:
    assert followed(takeovers, Worker(), "second") == ["second"]
    late = Worker()

    async def main() -> None:
        work = {name: getattr(late, name) for name in ("prepare", "serve", "drop", "settle", "facts")}
        following = asyncio.create_task(follow(takeovers, 0, **work))
        await asyncio.sleep(0.5)
        following.cancel()

    asyncio.run(main())
    assert late.served == "second"


def test_nobody_waits_for_who_asked_and_is_gone(takeovers: Takeovers, tmp_path: Path) -> None:
    gone = Asked(number=1, target="second", phase="prepare", by=(os.getpid(), "another birth"))
    (tmp_path / "takeover" / "asked.json").write_text(json.dumps(asdict(gone)))
    worker = Worker()
    assert followed(takeovers, worker, "third") == ["third"]
    assert worker.served == "third"


def test_without_a_ready_worker_or_beside_another_takeover_nothing_is_asked(tmp_path: Path) -> None:
    takeovers = Takeovers(tmp_path)
    with pytest.raises(TakeoverError, match="no worker is ready"):
        takeovers.take_over("second")
    with takeovers._alone(), pytest.raises(TakeoverError, match="under way"):
        takeovers.take_over("second")


def test_a_worker_that_takes_too_long_is_named(takeovers: Takeovers) -> None:
    with pytest.raises(TakeoverError, match=rf"process {os.getpid()} was not ready to serve it in 0.2 s"):
        takeovers.take_over("second", seconds=0.2)
    asked = takeovers.asked()
    assert asked is not None
    assert asked.phase == "drop"


@pytest.mark.parametrize("name", ["asked.json", "agreed.json"])
def test_on_a_full_disk_nothing_is_taken_over_and_what_was_agreed_on_stays(
    takeovers: Takeovers, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, full = takeovers._write, [True]

    def sometimes(to: str, content: Mapping[str, Any]) -> None:
        if to == name and full:
            full.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(to, content)

    monkeypatch.setattr(takeovers, "_write", sometimes)
    worker = Worker()
    assert "No space left" in followed(takeovers, worker, "second")[0]
    assert takeovers.agreed("")[1] == "first"
    assert (worker.served, worker.dropped) == ("first", ["second"] if name == "agreed.json" else [])
    assert followed(takeovers, worker, "third") == ["third"]


def test_a_process_that_ends_does_not_wait_for_itself(takeovers: Takeovers) -> None:
    takeovers.stopped.set()
    with pytest.raises(TakeoverError, match="the process that was asked for it ends"):
        takeovers.take_over("second")
    asked = takeovers.asked()
    assert asked is not None
    assert asked.phase == "drop"


def test_what_answered_before_is_known_to_workers_that_start_later(takeovers: Takeovers) -> None:
    assert takeovers.earlier() == []
    takeovers.remember(["matched 1", "matched 2"])
    assert takeovers.earlier() == ["matched 1", "matched 2"]
    takeovers.begin("first")
    assert takeovers.earlier() == []
