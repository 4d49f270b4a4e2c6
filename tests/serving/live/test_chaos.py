"""Ten minutes in which everything that can be killed is killed, and nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import sqlalchemy as sa

from benchmarks.load import body, load, offer
from serving.live.tables import ANSWERS, LABELS
from tests.serving.bad_inputs import picture
from tests.serving.conftest import metric, serving
from tests.serving.live.conftest import PostgreSQL
from tests.serving.live.strangers import Client, Hanging, Prober

pytestmark = [pytest.mark.nightly, pytest.mark.server]

SECONDS = float(os.environ.get("CHAOS_SECONDS", "600"))
CLIENTS = 6
CONNECTIONS = 128
"""Of the load above what the server can do."""
BEHIND = 12.0
"""Seconds that answers may wait in a process for a database that comes back, at most; a kill then takes them along."""
AROUND = 3.0
"""Seconds around a kill in which the killed worker's own connections break."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files that can be filled; skips that part where no file system may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here, so no disk can be filled")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Trials:
    """What is done to a server, one thing after the other."""

    def __init__(self, address: str, supervisor: int, postgresql: PostgreSQL, disk: Path) -> None:
        self.address, self.supervisor, self.postgresql, self.disk = address, supervisor, postgresql, disk
        self.draw = random.Random(0)
        self.kills: list[float] = []
        self.events: list[tuple[float, str]] = []
        self.done: Counter[str] = Counter()
        self.memory: list[int] = []

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        trials: list[Callable[[], None]] = [self.kill, self.database_away, self.disk_full]
        while time.monotonic() < end:
            for trial in self.draw.sample(trials, len(trials)):
                time.sleep(self.draw.uniform(3, 8))
                trial()
                found = [worker.memory_info().rss for worker in self.workers()]
                self.memory.append(max(found, default=0))

    def workers(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.supervisor).children():
            with suppress(psutil.Error):
                if "worker.service" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def both_ready(self) -> list[psutil.Process]:
        for _ in range(200):
            with suppress(httpx.TransportError), httpx.Client(base_url=self.address, timeout=10) as http:
                alive = self.workers()
                if len(alive) == 2 and metric(http, "serving_ready") == 2:
                    return alive
            time.sleep(0.3)
        raise AssertionError("a killed worker has no successor that is ready")

    def kill(self) -> None:
        """One of two workers, where both are warmed up: one goes on serving."""
        os.kill(self.draw.choice(self.both_ready()).pid, signal.SIGKILL)
        self.kills.append(time.monotonic())
        self.done["kill"] += 1

    def database_away(self) -> None:
        self.postgresql.stop()
        self.events.append((time.monotonic(), "database away"))
        time.sleep(self.draw.uniform(1, 4))
        self.postgresql.start()
        self.events.append((time.monotonic(), "database back"))
        self.done["database away"] += 1
        time.sleep(BEHIND)  # until what waited is noted, so that a kill takes none of it along

    def disk_full(self) -> None:
        """Not a byte is left for uploads and metrics; now and then a worker has to start so."""
        victim, filler = self.draw.choice(self.both_ready()), self.disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        try:
            if self.draw.random() < 0.5:
                victim.kill()
                self.kills.append(time.monotonic())
                self.done["kill on a full disk"] += 1
            time.sleep(self.draw.uniform(3, 10))
        finally:
            filler.unlink()
        self.done["disk full"] += 1


@contextmanager
def flood(address: str, pictures: list[bytes], seconds: float, times: float) -> Iterator[dict[str, float]]:
    """Half again as many requests as the server can answer, by wrk; gives what came of them, at the end."""
    bodies, url, found = [body([data], "image") for data in pictures], f"{address}/v1/classify", dict[str, float]()
    capacity = load(url, bodies, 5, 32)
    found["capacity"], found["before"] = capacity["requests_per_second"], 5 * capacity["requests_per_second"]
    pause = CONNECTIONS / (times * capacity["requests_per_second"])
    thread = threading.Thread(target=lambda: found.update(offer(url, bodies, pause, seconds, CONNECTIONS)))
    thread.start()
    try:
        yield found
    finally:
        thread.join()


def test_whatever_fails_no_acknowledged_label_is_lost_every_answer_is_noted_and_the_server_stays_ready(
    tmp_path: Path,
    scenes: tuple[list[bytes], np.ndarray],
    postgresql: PostgreSQL,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("wrk") is None:
        pytest.skip("the load above capacity is made by wrk (apt-get install wrk)")
    url, stop = postgresql.new_database(), threading.Event()
    tempfile.gettempdir()  # this process keeps its own
    monkeypatch.setenv("TMPDIR", str(disk))
    limits = {"header_seconds": 3, "upload_grace_seconds": 3, "reading_seconds": 5, "keep_alive_seconds": 10}
    running = serving(tmp_path, workers=2, threads=1, database=url, max_queue=64, log_level="warning", **limits)
    with running as (address, process):
        trials = Trials(address, process.pid, postgresql, disk)
        large = picture(size=(1400, 1400))
        assert len(large) > 4 * 2**20, "it goes to the disk"
        clients = [Client(address, scenes[0][number], stop) for number in range(CLIENTS)]
        clients.append(Client(address, large, stop, pause=1.0))
        prober, hanging = Prober(address, stop), Hanging(address, stop, 24)
        with flood(address, scenes[0], SECONDS, times=1.5) as flooded:
            for thread in (*clients, prober, hanging):
                thread.start()
            trials.run(SECONDS - 20)
        stop.set()
        for thread in (*clients, prober, hanging):
            thread.join(90)
        assert process.poll() is None
        with httpx.Client(base_url=address, timeout=20) as http:
            until = time.monotonic() + 60
            while metric(http, "serving_pending_answers") and time.monotonic() < until:
                time.sleep(0.2)
            metrics = http.get("/metrics").text
    log = (tmp_path / "log.txt").read_text()
    statuses = sum((client.statuses for client in clients), Counter[str]())
    answered = {id_: at for client in clients for id_, at in client.answered.items()}
    acknowledged = {id_: label for client in clients for id_, label in client.acknowledged.items()}
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        stored = {row.id: row.label for row in connection.execute(sa.select(LABELS.c.id, LABELS.c.label))}
        noted = set(connection.execute(sa.select(ANSWERS.c.id)).scalars())
    engine.dispose()
    said = {
        "seconds": SECONDS,
        "trials": dict(trials.done),
        "flood": flooded,
        "statuses": dict(statuses),
        "acknowledged": len(acknowledged),
        "answers noted": len(noted),
        "not noted": len(set(answered) - noted),
        "probes": len(prober.seconds),
        "probes that failed": [status for _, status in prober.failed],
        "slowest probes": [round(seconds, 1) for seconds in sorted(prober.seconds)[-3:]],
        "cut": hanging.cut,
        "memory MiB": [value >> 20 for value in trials.memory],
    }
    print(json.dumps(said))

    def near_a_kill(at: float, before: float, after: float) -> bool:
        return any(-before <= kill - at <= after for kill in trials.kills)

    # Every label that was acknowledged is there, and every answer but those that a killed worker had not noted yet.
    lost = [at for id_, at in answered.items() if id_ not in noted and not near_a_kill(at, AROUND, BEHIND)]
    if lost:
        whole = sorted([*trials.events, *((at, "kill") for at in trials.kills), *((at, "lost") for at in lost)])
        print([(round(at - whole[0][0], 1), what) for at, what in whole])
    assert acknowledged
    assert {id_: stored.get(id_) for id_ in acknowledged} == acknowledged
    assert lost == [], "answers of no killed worker are not noted"
    total = flooded["before"] + flooded["answered"] + len(answered)
    assert len(noted) > total - len(trials.kills) * 2 * flooded["capacity"], "those of the load likewise"
    assert "serving_unrecorded_answers_total{" not in metrics
    # Every request has its answer, or the connection broke with a worker that was killed.
    assert [each for client in clients for each in client.unexpected] == []
    assert statuses["feedback 404"] <= len(trials.kills) * len(clients), "of answers whose worker was killed too early"
    assert flooded["others"] == 0
    assert flooded["lost"] <= len(trials.kills) * CONNECTIONS
    assert all(near_a_kill(at, AROUND, AROUND) for client in clients for at in client.broken)
    # Ready at every probe, but for those that the killed worker itself had accepted.
    assert len(prober.seconds) > SECONDS / 10
    assert [(at, s) for at, s in prober.failed if s.isdigit() or not near_a_kill(at, AROUND, AROUND)] == []
    assert hanging.cut > 0
    half = len(trials.memory) // 2
    assert max(trials.memory[half:]) < 1.3 * max(trials.memory[: half + 1]), trials.memory
    assert "Traceback" not in log, log[max(log.find("Traceback") - 1000, 0) :][:6000]
