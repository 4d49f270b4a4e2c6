from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from dynamic.configuration import Configuration
from serving.errors import Rejection
from serving.inference.batcher import BatchedResult, Batcher
from serving.inference.engine import ImageResult
from serving.inference.plans import Plan

CONFIGURATION = Configuration((1,), (1,), (3,))
PLAN = Plan(policy="default")


def result(value: float) -> ImageResult:
    return ImageResult(probabilities=np.array([value]), configuration=CONFIGURATION, macs=1.0, selector_macs=0.0)


class Echo:
    """Answers each image with its own value; fails on negative ones."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[int] = []
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, images: np.ndarray, plans: Sequence[Plan]) -> list[ImageResult]:
        self.gate.wait(5)
        time.sleep(self.seconds)
        self.batches.append(len(images))
        values = images[:, 0, 0, 0].tolist()
        if min(values) < 0:
            raise ValueError("a bad one")
        return [result(value) for value in values]


def image(value: float) -> np.ndarray:
    return np.full((3, 8, 8), value, np.float32)


def with_batcher(echo: Echo, use: Callable[[Batcher], Awaitable[None]], **options: float) -> None:
    async def main() -> None:
        arguments = {"max_batch": 8, "max_wait": 0.01, "max_queue": 32} | options
        batcher = Batcher(echo, **arguments)  # type: ignore[arg-type]
        try:
            await asyncio.wait_for(use(batcher), 20)
        finally:
            echo.gate.set()
            await batcher.close()

    asyncio.run(main())


def values(results: Sequence[BatchedResult | Exception]) -> list[float | str]:
    return [float(r.result.probabilities[0]) if isinstance(r, BatchedResult) else type(r).__name__ for r in results]


def test_everyone_gets_their_own_answer_and_batches_keep_their_size() -> None:
    echo = Echo()

    async def use(batcher: Batcher) -> None:
        found = await asyncio.gather(*(batcher.submit([image(n), image(n + 0.5)], PLAN) for n in range(15)))
        assert [values(f) for f in found] == [[float(n), n + 0.5] for n in range(15)]

    with_batcher(echo, use)
    assert sum(echo.batches) == 30
    assert max(echo.batches) == 8
    assert len(echo.batches) < 10


def test_a_bad_image_fails_alone() -> None:
    echo = Echo()

    async def use(batcher: Batcher) -> None:
        mine, theirs = await asyncio.gather(
            batcher.submit([image(1), image(-1), image(2)], PLAN), batcher.submit([image(3)], PLAN)
        )
        assert values(mine) == [1.0, "ValueError", 2.0]
        assert values(theirs) == [3.0]

    with_batcher(echo, use)


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    echo = Echo()

    async def use(batcher: Batcher) -> None:
        echo.gate.clear()
        running = asyncio.create_task(batcher.submit([image(0)], PLAN))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(batcher.submit([image(n) for n in range(32)], PLAN))
        await asyncio.sleep(0.05)
        assert batcher.depth == 32
        with pytest.raises(Rejection) as refused:
            await batcher.submit([image(9)], PLAN)
        assert refused.value.status == 503
        assert (refused.value.retry_after or 0) >= 1
        echo.gate.set()
        assert len(values(await running)) == 1
        assert values(await waiting) == [float(n) for n in range(32)]
        assert values(await batcher.submit([image(9)], PLAN)) == [9.0]

    with_batcher(echo, use)


def test_whoever_watches_learns_how_many_wait() -> None:
    echo, seen = Echo(), []

    async def use(batcher: Batcher) -> None:
        echo.gate.clear()
        running = asyncio.create_task(batcher.submit([image(0)], PLAN))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(batcher.submit([image(n) for n in range(12)], PLAN))
        await asyncio.sleep(0.05)
        assert seen[-1] == 12
        echo.gate.set()
        await running
        await waiting
        assert seen[-1] == 0

    with_batcher(echo, use, watch=seen.append)  # type: ignore[arg-type]


def test_closing_answers_what_was_accepted_and_refuses_the_rest() -> None:
    async def main() -> None:
        echo = Echo(0.05)
        batcher = Batcher(echo, max_batch=4, max_wait=0.01, max_queue=32)
        accepted = asyncio.create_task(batcher.submit([image(n) for n in range(20)], PLAN))
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Rejection):
            await batcher.submit([image(0)], PLAN)
        assert values(await accepted) == [float(n) for n in range(20)]
        await closing

    asyncio.run(main())


def test_a_lone_image_waits_no_longer_than_the_setting_says() -> None:
    async def use(batcher: Batcher) -> None:
        done = (await batcher.submit([image(1)], PLAN))[0]
        assert isinstance(done, BatchedResult)
        assert 150 < done.queued_ms < 2000
        assert done.batch == 1

    with_batcher(Echo(), use, max_wait=0.2)


def test_a_request_that_was_given_up_does_not_disturb_the_others() -> None:
    echo = Echo()

    async def use(batcher: Batcher) -> None:
        echo.gate.clear()
        first = asyncio.create_task(batcher.submit([image(1)], PLAN))
        await asyncio.sleep(0.1)
        given_up = asyncio.create_task(batcher.submit([image(2)], PLAN))
        other = asyncio.create_task(batcher.submit([image(3)], PLAN))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.sleep(0)
        echo.gate.set()
        assert values(await first) == [1.0]
        assert values(await other) == [3.0]

    with_batcher(echo, use)
    assert sum(echo.batches) == 2


def test_what_observes_a_batch_may_fail_and_the_next_batch_is_answered() -> None:
    """Prometheus' files on a full disk: this once ended the task, and every later request waited for ever."""

    def full(images: int, seconds: float) -> None:
        raise OSError(28, "No space left on device")

    async def use(batcher: Batcher) -> None:
        for value in (1.0, 2.0):
            (found,) = await batcher.submit([image(value)], PLAN)
            assert isinstance(found, BatchedResult)
            assert found.result.probabilities[0] == value

    async def main() -> None:
        batcher = Batcher(Echo(), max_batch=8, max_wait=0.01, max_queue=32, observe=full)
        await asyncio.wait_for(use(batcher), 20)
        await batcher.close()

    asyncio.run(main())


def test_one_result_too_few_is_an_error_of_its_image_alone() -> None:
    class Short(Echo):
        def __call__(self, images: np.ndarray, plans: Sequence[Plan]) -> list[ImageResult]:
            found = super().__call__(images, plans)
            return [each for each in found if each.probabilities[0] != 3]

    async def use(batcher: Batcher) -> None:
        found = await batcher.submit([image(2), image(3), image(4)], PLAN)
        assert [isinstance(each, BatchedResult) for each in found] == [True, False, True]
        (later,) = await batcher.submit([image(5)], PLAN)
        assert isinstance(later, BatchedResult)

    with_batcher(Short(), use)


def test_a_batch_that_fails_outside_the_network_is_answered_with_its_error() -> None:
    async def use(batcher: Batcher) -> None:
        answer, batcher._answer = batcher._answer, lambda jobs: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        found = await batcher.submit([image(2), image(3)], PLAN)
        assert [type(each) for each in found] == [ZeroDivisionError] * 2
        batcher._answer = answer  # type: ignore[method-assign]
        (later,) = await batcher.submit([image(5)], PLAN)
        assert isinstance(later, BatchedResult)

    with_batcher(Echo(), use)


def test_when_the_batcher_gives_up_whoever_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    async def hopeless(name: str, work: object, ended: object, give_up: object) -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr("serving.inference.batcher.supervised", hopeless)

    async def use(batcher: Batcher) -> None:
        assert not batcher.failed
        (found,) = await batcher.submit([image(2)], PLAN)
        assert isinstance(found, Rejection)
        with pytest.raises(Rejection):
            batcher.check_room()
        assert batcher.failed
        ended.append(1)

    with_batcher(Echo(), use)
    assert ended == [1]


def test_a_request_of_one_is_in_the_next_batch_although_another_of_many_waits() -> None:
    echo = Echo()

    async def use(batcher: Batcher) -> None:
        echo.gate.clear()
        running = asyncio.create_task(batcher.submit([image(0)], PLAN))
        await asyncio.sleep(0.1)
        many = asyncio.create_task(batcher.submit([image(n) for n in range(1, 31)], PLAN))
        await asyncio.sleep(0.05)
        one = asyncio.create_task(batcher.submit([image(100)], PLAN))
        await asyncio.sleep(0.05)
        echo.gate.set()
        (found,) = await one
        assert isinstance(found, BatchedResult)
        assert found.batch == 4 + 1
        assert not many.done()
        assert values(await many) == [float(n) for n in range(1, 31)]
        await running

    with_batcher(echo, use, share=4)


def test_images_whose_deadline_passed_are_refused_not_computed() -> None:
    echo = Echo()

    async def use(batcher: Batcher) -> None:
        echo.gate.clear()
        running = asyncio.create_task(batcher.submit([image(0)], PLAN))
        await asyncio.sleep(0.1)
        late = asyncio.create_task(batcher.submit([image(1)], PLAN, deadline=time.monotonic() + 0.01))
        good = asyncio.create_task(batcher.submit([image(2)], PLAN, deadline=time.monotonic() + 60))
        await asyncio.sleep(0.1)
        echo.gate.set()
        assert values(await late) == ["Rejection"]
        assert values(await good) == [2.0]
        await running

    with_batcher(echo, use)
    assert sum(echo.batches) == 2
