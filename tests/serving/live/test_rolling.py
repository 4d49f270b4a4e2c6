"""A rolling restart: two servers under constant load, each ended and started again in turn, and no request is lost."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.serving.conftest import serving

pytestmark = [pytest.mark.nightly, pytest.mark.server]

CLIENTS = 6
PAUSE = 0.02
"""Seconds between an answer and the client's next request; well below what a drain takes."""
DRAIN = 5
BOUNDARY = "a"


class Rotation:
    """Addresses that a client may go to, as a load balancer keeps them: those whose ``/readyz`` says 200, in turns."""

    def __init__(self, stop: threading.Event) -> None:
        self._ready: dict[str, bool] = {}
        self._turn, self._stop = itertools.count(), stop
        self._thread = threading.Thread(target=self._probe, daemon=True)
        self._thread.start()

    def next(self) -> str:
        ready = [address for address, answers in list(self._ready.items()) if answers]
        return ready[next(self._turn) % len(ready)]

    def add(self, address: str) -> None:
        self._ready[address] = True

    def remove(self, address: str) -> None:
        del self._ready[address]

    def _probe(self) -> None:
        while not self._stop.wait(0.2):
            for address in list(self._ready):
                try:
                    answers = httpx.get(f"{address}/readyz", timeout=30).status_code == 200
                except httpx.TransportError:
                    answers = False
                if address in self._ready:
                    self._ready[address] = answers


class KeptAlive(threading.Thread):
    """A client that asks over one connection until it is told that this one closes, and then over another.

    Attributes:
        answers: how many came over each connection.
        told: connections that it was told to close.
        statuses: how often what came.
        lost: what became of requests without an answer.
        slowest: seconds of the slowest answer.
    """

    def __init__(self, rotation: Rotation, picture: bytes, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        self._body = head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
        self._rotation, self._stop_asking = rotation, stop
        self.answers: list[int] = []
        self.told, self.slowest = 0, 0.0
        self.statuses: Counter[int] = Counter()
        self.lost: list[str] = []

    def run(self) -> None:
        while not self._stop_asking.is_set():
            address = self._rotation.next()
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
            self.answers.append(0)
            try:
                while not self._stop_asking.wait(PAUSE):
                    if self._asked_for_the_last_time(connection):
                        self.told += 1
                        break
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{address}, after {self.answers[-1]} answers: {type(error).__name__}: {error}")
            finally:
                connection.close()

    def _asked_for_the_last_time(self, connection: http.client.HTTPConnection) -> bool:
        """Ask once; whether the answer closes the connection."""
        began = time.monotonic()
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        connection.request("POST", "/v1/classify", self._body, kind)
        response = connection.getresponse()
        response.read()
        self.answers[-1] += 1
        self.statuses[response.status] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        return response.getheader("Connection", "").lower() == "close"


@contextmanager
def in_rotation(rotation: Rotation, folder: Path) -> Iterator[str]:
    """A server that clients are sent to; ended by SIGTERM, of which nobody but itself tells the rotation."""
    with ExitStack() as afterwards, serving(folder, workers=2, threads=1, drain_seconds=DRAIN) as (address, _):
        rotation.add(address)
        afterwards.callback(rotation.remove, address)  # behind its end
        yield address


def test_a_rolling_restart_loses_no_request(tmp_path: Path, scenes: tuple[list[bytes], np.ndarray]) -> None:
    stop = threading.Event()
    rotation = Rotation(stop)
    with ExitStack() as rest:
        servers = [ExitStack(), ExitStack()]
        for number, server in enumerate(servers):
            rest.enter_context(server)
            server.enter_context(in_rotation(rotation, tmp_path / f"first {number}"))
        clients = [KeptAlive(rotation, scenes[0][number], stop) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for number, server in enumerate(servers):
            time.sleep(3)
            began = sum(client.told for client in clients)
            server.close()  # SIGTERM, and its end
            assert sum(client.told for client in clients) > began, "some clients were this server's"
            server.enter_context(in_rotation(rotation, tmp_path / f"second {number}"))
        time.sleep(3)
        stop.set()
        for client in clients:
            client.join(60)
        lost = [each for client in clients for each in client.lost]
        statuses = sum((client.statuses for client in clients), Counter[int]())
        connections, told = sum(len(client.answers) for client in clients), sum(client.told for client in clients)
        said = {
            "statuses": dict(statuses),
            "connections": connections,
            "told to close": told,
            "slowest": round(max(client.slowest for client in clients), 2),
        }
        print(json.dumps(said))
        assert lost == []
        assert set(statuses) == {200}
        assert sum(statuses.values()) > 100 * CLIENTS
        # A connection was given up only where an answer said so, or at the end of the load.
        assert told <= connections <= told + CLIENTS
    for log in tmp_path.glob("*/log.txt"):
        assert "Traceback" not in log.read_text(), log
