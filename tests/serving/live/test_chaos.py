"""Ten minutes in which everything that can be killed is killed, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import sqlalchemy as sa

from serving.live.tables import LABELS
from tests.serving.conftest import serving
from tests.serving.live.conftest import PostgreSQL

pytestmark = [pytest.mark.nightly, pytest.mark.server]

SECONDS = float(os.environ.get("CHAOS_SECONDS", "600"))
CLIENTS = 6


class Client(threading.Thread):
    """Classifies and labels without pause, each time over another connection, and keeps what was acknowledged."""

    def __init__(self, address: str, picture: bytes, stop: threading.Event) -> None:
        super().__init__()
        self.address, self.picture, self.stopped = address, picture, stop
        self.statuses: Counter[str] = Counter()
        self.acknowledged: dict[str, int] = {}

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                with httpx.Client(base_url=self.address, timeout=60) as http:
                    answer = http.post("/v1/classify", files={"image": self.picture})
                    self.statuses[f"classify {answer.status_code}"] += 1
                    if answer.status_code != 200:
                        time.sleep(0.05)
                        continue
                    label = random.randrange(10)
                    told = http.post("/v1/feedback", json={"id": answer.json()["id"], "label": label})
                    self.statuses[f"feedback {told.status_code}"] += 1
                    if told.status_code == 200:
                        self.acknowledged[answer.json()["id"]] = label
            except httpx.TransportError as error:
                self.statuses[type(error).__name__] += 1


def workers(supervisor: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(supervisor).children():
        with suppress(psutil.Error):
            if "worker.service" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_whatever_is_killed_no_acknowledged_label_is_lost_and_nothing_fails_unexpectedly(
    tmp_path: Path, scenes: tuple[list[bytes], np.ndarray], postgresql: PostgreSQL
) -> None:
    url = postgresql.new_database()
    draw = random.Random(0)
    with serving(tmp_path, workers=2, threads=1, database=url, max_queue=64) as (address, process):
        stop = threading.Event()
        clients = [Client(address, scenes[0][number], stop) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        kills = 0
        memory: list[int] = []
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(draw.uniform(3, 8))
            if draw.random() < 0.5:
                alive = workers(process.pid)
                if len(alive) == 2:  # one goes on serving
                    os.kill(draw.choice(alive).pid, signal.SIGKILL)
                    kills += 1
            else:
                postgresql.stop()
                time.sleep(draw.uniform(1, 4))
                postgresql.start()
            memory.append(sum(worker.memory_info().rss for worker in workers(process.pid)))
        stop.set()
        for client in clients:
            client.join()
        assert process.poll() is None
        statuses = sum((client.statuses for client in clients), Counter[str]())
        acknowledged = {id_: label for client in clients for id_, label in client.acknowledged.items()}
        assert kills > 0
        assert acknowledged
        known = {"classify 200", "classify 503", "feedback 200", "feedback 503", "feedback 404"}
        transport = {"RemoteProtocolError", "ReadError", "WriteError", "ConnectError"}  # of workers that were killed
        assert set(statuses) <= known | transport, statuses
        assert sum(statuses[name] for name in transport) <= kills * 3 * CLIENTS, statuses
        assert statuses["feedback 404"] <= kills * CLIENTS, "answers whose worker was killed before it noted them"
        half = len(memory) // 2
        assert max(memory[half:]) < 1.3 * max(memory[: half + 1]), memory
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        stored = {row.id: row.label for row in connection.execute(sa.select(LABELS.c.id, LABELS.c.label))}
    engine.dispose()
    assert {id_: stored.get(id_) for id_ in acknowledged} == acknowledged
