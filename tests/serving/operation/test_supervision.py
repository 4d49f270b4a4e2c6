from __future__ import annotations

import asyncio
import logging
import threading
from itertools import islice

import pytest
from prometheus_client import REGISTRY

from serving.operation.supervision import Backoff, SupervisedThread, supervised

QUICK = Backoff(first=0.001, longest=0.002)


def deaths(part: str) -> float:
    return REGISTRY.get_sample_value("serving_restarts_total", {"part": part}) or 0.0


def test_pauses_grow_to_a_longest_one() -> None:
    assert list(islice(Backoff(first=1, longest=5).pauses(), 4)) == [1, 2, 4, 5]
    with pytest.raises(ValueError, match="first <= longest"):
        Backoff(first=2, longest=1)


def test_a_thread_that_dies_lives_again_is_counted_and_logged_once(heard: list[logging.LogRecord]) -> None:
    lives, lived = [], threading.Event()

    def work(stopped: threading.Event) -> None:
        lives.append(1)
        if len(lives) < 5:
            raise OSError("disk full")
        lived.set()
        stopped.wait()

    before = deaths("thread that dies")
    part = SupervisedThread("thread that dies", work, backoff=QUICK)
    assert lived.wait(30)
    part.close()
    assert len(lives) == 5
    assert deaths("thread that dies") - before == 4
    assert [record.facts["reason"] for record in heard] == ["OSError: disk full"]  # type: ignore[attr-defined]


def test_a_thread_that_returns_too_soon_is_started_again() -> None:
    lives, lived = [], threading.Event()

    def work(stopped: threading.Event) -> None:
        lives.append(1)
        if len(lives) > 1:
            lived.set()
            stopped.wait()

    part = SupervisedThread("thread that returns", work, backoff=QUICK)
    assert lived.wait(30)
    part.close()


def test_a_thread_that_dies_while_it_ends_finishes_or_gives_up() -> None:
    lives = []

    def work(stopped: threading.Event) -> None:
        stopped.wait()
        lives.append(1)
        raise ValueError("cannot finish")

    part = SupervisedThread("thread that cannot end", work, backoff=QUICK)
    part.close()
    assert len(lives) == 3


def test_a_task_that_keeps_dying_makes_the_worker_unready_and_ends_it(heard: list[logging.LogRecord]) -> None:
    ended = []

    async def work() -> None:
        raise RuntimeError("always")

    async def run() -> None:
        await supervised("hopeless", work, ended=lambda: False, backoff=QUICK, lives=3, give_up=lambda: ended.append(1))

    asyncio.run(run())
    assert ended == [1]
    assert deaths("hopeless") == 3
    assert [record.levelname for record in heard] == ["ERROR", "CRITICAL"]


def test_a_task_that_dies_now_and_then_goes_on() -> None:
    lives = []

    async def work() -> None:
        lives.append(1)
        if len(lives) < 4:
            raise RuntimeError("once more")

    asyncio.run(supervised("now and then", work, ended=lambda: True, backoff=QUICK, give_up=lambda: None))
    assert len(lives) == 4
