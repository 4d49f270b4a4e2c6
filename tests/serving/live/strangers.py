"""Threads that use a server while it is put on trial, and keep what came of it."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx

FORM = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\n"


class Client(threading.Thread):
    """Classifies and labels without pause, each time over another connection.

    Attributes:
        statuses: how often what came of which request.
        answered: when, by the id of every answer.
        acknowledged: labels that were, by id.
        unexpected: bodies of refusals without Retry-After, and of what is neither an answer nor a known refusal.
    """

    KNOWN = ("classify 200", "classify 503", "feedback 200", "feedback 503", "feedback 404")

    def __init__(self, address: str, picture: bytes, stop: threading.Event, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.address, self.picture, self.stopped, self.pause = address, picture, stop, pause
        self.statuses: Counter[str] = Counter()
        self.answered: dict[str, float] = {}
        self.acknowledged: dict[str, int] = {}
        self.broken: list[float] = []
        self.unexpected: list[str] = []

    def run(self) -> None:
        while not self.stopped.wait(self.pause):
            try:
                with httpx.Client(base_url=self.address, timeout=60) as http:
                    self._ask(http)
            except httpx.TransportError as error:
                self.statuses[type(error).__name__] += 1
                self.broken.append(time.monotonic())

    def _ask(self, http: httpx.Client) -> None:
        answer = http.post("/v1/classify", files={"image": self.picture})
        self._count("classify", answer)
        if answer.status_code != 200:
            time.sleep(0.05)
            return
        id_, label = answer.json()["id"], random.randrange(10)
        self.answered[id_] = time.monotonic()
        told = http.post("/v1/feedback", json={"id": id_, "label": label})
        self._count("feedback", told)
        if told.status_code == 200:
            self.acknowledged[id_] = label

    def _count(self, what: str, response: httpx.Response) -> None:
        status = f"{what} {response.status_code}"
        self.statuses[status] += 1
        if status not in self.KNOWN or (response.status_code == 503 and "retry-after" not in response.headers):
            self.unexpected.append(f"{status}: {response.text[:300]}")


class Hanging(threading.Thread):
    """Keeps some connections open that send or read nothing more: silent, within a head, within a body, deaf."""

    def __init__(self, address: str, stop: threading.Event, count: int) -> None:
        super().__init__(daemon=True)
        host, port = address.removeprefix("http://").split(":")
        self.address, self.stopped, self.count, self.cut = (host, int(port)), stop, count, 0

    def run(self) -> None:
        sends = (b"", b"GET / HTTP/1.1\r\n", FORM + b"Content-Length: 100000\r\n\r\n--a\r\n", FORM[:-2] * 2)
        held: list[socket.socket] = []
        while not self.stopped.wait(0.2):
            held = [one for one in held if not self._over(one)]
            with suppress(OSError):
                while len(held) < self.count:
                    one = socket.create_connection(self.address, timeout=10)
                    held.append(one)
                    kind = random.randrange(len(sends) + 1)
                    deaf = b"GET /ui HTTP/1.1\r\nHost: x\r\n\r\n" * 20
                    one.sendall(sends[kind] if kind < len(sends) else deaf)
                    one.setblocking(False)
        for one in held:
            one.close()

    def _over(self, one: socket.socket) -> bool:
        """Whether the server has ended it; what it sent is left unread until then."""
        try:
            over = not one.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            over = True
        if not over:  # an answer lies there: read one byte now and then, which is as good as nothing
            with suppress(OSError):
                over = not one.recv(1)
        if over:
            self.cut += 1
            one.close()
        return over


class Prober(threading.Thread):
    """Asks for readiness as an orchestrator does, over a new connection each time.

    Attributes:
        failed: when, and what came instead of 200.
        seconds: that each probe took.
    """

    def __init__(self, address: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.address, self.stopped = address, stop
        self.failed: list[tuple[float, str]] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self.stopped.wait(0.25):
            began = time.monotonic()
            try:
                status = str(httpx.get(f"{self.address}/readyz", timeout=30).status_code)
            except httpx.TransportError as error:
                status = type(error).__name__
            self.seconds.append(time.monotonic() - began)
            if status != "200":
                self.failed.append((time.monotonic(), status))
