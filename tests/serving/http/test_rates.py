from __future__ import annotations

import fcntl
import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import Rejection
from serving.http.rates import Rate


class Bucket:
    """The reference: tokens that come at the rate, ten seconds' worth at most, for each client."""

    def __init__(self, per_minute: float) -> None:
        self.rate, self.most = per_minute / 60, max(1.0, per_minute / 6)
        self.left: dict[str, tuple[float, float]] = {}

    def allows(self, client: str, now: float) -> bool:
        left, at = self.left.get(client, (self.most, now))
        left = min(self.most, left + (now - at) * self.rate)
        allowed = left >= 1 - 1e-6
        self.left[client] = (left - allowed, now)
        return allowed


def allows(rate: Rate, client: str, now: float) -> bool:
    try:
        rate.check(client, now)
    except Rejection:
        return False
    return True


@pytest.mark.parametrize("per_minute", [0.5, 1, 6, 7, 60, 1000])
def test_it_is_a_bucket_that_fills_whichever_process_a_request_reaches(per_minute: float, tmp_path: Path) -> None:
    draw = random.Random(str(per_minute))
    processes = [Rate(per_minute, tmp_path / "rates") for _ in range(3)]
    reference, now, answers = Bucket(per_minute), 1000.0, list[bool]()
    for _ in range(3000):
        now += draw.expovariate(per_minute / 60 * 6) * (20 if draw.random() < 0.01 else 1)
        client = draw.choice("abc")
        answers.append(allows(draw.choice(processes), client, now))
        assert answers[-1] == reference.allows(client, now)
    assert {True, False} == set(answers)


def test_it_says_when_to_come_again_and_nothing_is_any_number() -> None:
    rate = Rate(60)
    for _ in range(10):
        rate.check("a", now=100.0)
    with pytest.raises(Rejection, match="more than 60 requests a minute") as refused:
        rate.check("a", now=100.5)
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    rate.check("b", now=100.5)
    slow = Rate(1)
    slow.check("a", now=0.0)
    with pytest.raises(Rejection) as refused:
        slow.check("a", now=1.0)
    assert refused.value.retry_after == 59
    for _ in range(1000):
        Rate(0).check("a")


COUNT = """
import sys
from pathlib import Path
from serving.errors import Rejection
from serving.http.rates import Rate
rate, allowed = Rate(120_000, Path(sys.argv[1])), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20_000):
    try:
        rate.check("a", now=100.0)
        allowed += 1
    except Rejection:
        pass
print(allowed)
"""


def test_processes_that_count_at_the_same_time_count_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT, str(tmp_path / "new" / "rates")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    allowed = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert 20_000 <= sum(allowed) <= 20_050, "where one had to wait too long for another, a request goes uncounted"


def test_another_file_is_another_server_s(tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert allows(Rate(6, tmp_path / name), "a", 1.0)
        assert not allows(Rate(6, tmp_path / name), "a", 1.0)


def test_clients_without_number_take_no_more_room_and_push_out_who_was_quiet(tmp_path: Path) -> None:
    rate = Rate(6, tmp_path / "rates")
    size = (tmp_path / "rates").stat().st_size
    assert allows(rate, "early", 0.0)
    for number in range(100_000):
        assert allows(rate, str(number), 1.0 + number / 1e5)
    assert (tmp_path / "rates").stat().st_size == size
    assert not any(allows(rate, str(number), 2.0) for number in range(99_900, 100_000))
    assert allows(rate, "early", 2.0), "forgotten: that it came costs it nothing"


def test_without_a_file_a_process_counts_alone_and_says_so(tmp_path: Path, heard: list[logging.LogRecord]) -> None:
    (tmp_path / "file").touch()
    rate = Rate(6, tmp_path / "file" / "rates")
    assert [allows(rate, "a", 1.0), allows(rate, "a", 1.0)] == [True, False]
    (line,) = heard
    assert "each process counts requests for itself" in line.getMessage()


def test_a_process_that_stops_while_it_counts_holds_nobody(tmp_path: Path) -> None:
    rate = Rate(6, tmp_path / "rates")
    with (tmp_path / "rates").open("rb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        assert [allows(rate, "a", 1.0), allows(rate, "a", 1.0)] == [True, False]
    assert not allows(rate, "a", 1.0)


def test_whatever_the_file_holds_is_over_in_time(tmp_path: Path) -> None:
    """A clock that began anew, say: times of the old one lie far ahead."""
    rate = Rate(6, tmp_path / "rates")
    assert allows(rate, "a", 1e9)
    assert not allows(rate, "a", 5.0)
    assert allows(rate, "a", 15.1)
