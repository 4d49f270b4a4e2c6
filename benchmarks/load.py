"""A server on loopback and a load on it: ``bentoml serve`` in a process of its own, wrk (apt-get install wrk) against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from dynamic.errors import UserError
from dynamic.resources import cpu_count

PORT = 3987
SERVICE = "serving.service:DynamicClassifier"

_LOAD = """
local bodies, at = {}, 0
for name in io.lines(os.getenv("BODIES")) do
  local file = io.open(name, "rb"); bodies[#bodies + 1] = file:read("*a"); file:close()
end
local headers = { ["Content-Type"] = "multipart/form-data; boundary=BOUNDARY" }
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", nil, headers, bodies[at])
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "failed": %d}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""

_OFFER = """
local bodies, at, threads = {}, 0, {}
for name in io.lines(os.getenv("BODIES")) do
  local file = io.open(name, "rb"); bodies[#bodies + 1] = file:read("*a"); file:close()
end
local headers = { ["Content-Type"] = "multipart/form-data; boundary=BOUNDARY" }
local pause = tonumber(os.getenv("PAUSE"))
setup = function(thread) table.insert(threads, thread) end
init = function() answered, refused, others = 0, 0, 0 end
delay = function() return math.random() * 2 * pause end
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", nil, headers, bodies[at])
end
response = function(status, headers)
  if status == 200 then answered = answered + 1
  elseif status == 503 and headers["retry-after"] then refused = refused + 1
  else others = others + 1 end
end
done = function(summary)
  local e = summary.errors
  local t = threads[1]
  io.write(string.format('\\n{"answered": %d, "refused": %d, "others": %d, "lost": %d, "seconds": %f}\\n', t:get("answered"),
    t:get("refused"), t:get("others"), e.connect + e.read + e.write + e.timeout, summary.duration / 1e6))
end
"""


def body(files: Sequence[bytes], field: str, **options: object) -> bytes:
    """A multipart form."""
    head = '--BOUNDARY\r\nContent-Disposition: form-data; name="{}"'
    parts = [
        f'{head.format(field)}; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'.encode() + f + b"\r\n" for f in files
    ]
    parts += [f"{head.format(name)}\r\n\r\n{value}\r\n".encode() for name, value in options.items()]
    return b"".join(parts) + b"--BOUNDARY--\r\n"


def load(url: str, bodies: Sequence[bytes], seconds: float, connections: int) -> dict[str, float]:
    """Load a page with wrk: requests a second, and milliseconds of the median and the slowest hundredth."""
    found = _wrk(_LOAD, url, bodies, seconds, connections)
    return {
        "requests_per_second": (found["requests"] - found["failed"]) / found["seconds"],
        "p50_ms": found["p50"],
        "p99_ms": found["p99"],
        "failed": found["failed"],
    }


def offer(url: str, bodies: Sequence[bytes], pause: float, seconds: float, connections: int) -> dict[str, float]:
    """Offer requests with wrk whether or not they are answered in time.

    Args:
        url: of the page.
        bodies: of the requests, in turns.
        pause: seconds on average that a connection waits after an answer.
        seconds: of the whole.
        connections: that offer.

    Returns:
        How many were ``answered`` (200), ``refused`` (503 with Retry-After), answered by anything else (``others``) and not
        at all (``lost``); the ``seconds`` it took, and requests a second that were ``offered``.
    """
    found = _wrk(_OFFER, url, bodies, seconds, connections, PAUSE=str(1000 * pause))
    return found | {"offered": (found["answered"] + found["refused"]) / found["seconds"]}


def _wrk(
    script: str, url: str, bodies: Sequence[bytes], seconds: float, connections: int, **variables: str
) -> dict[str, float]:
    """Run wrk; the JSON line that its script prints."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.bin" for number in range(len(bodies))]
        for path, data in zip(paths, bodies, strict=True):
            path.write_bytes(data)
        (Path(folder) / "bodies.txt").write_text("\n".join(map(str, paths)))
        (Path(folder) / "load.lua").write_text(script)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s", "-s", f"{folder}/load.lua", url]
        environment = os.environ | {"BODIES": f"{folder}/bodies.txt"} | variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return found


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that was started.

    Attributes:
        address: of its pages.
        process: of its supervisor.
    """

    address: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """That all its processes have taken so far."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> list[float]:
        """MiB that each worker holds."""
        return [process.memory_info().rss / 2**20 for process in self.process.children()]


@contextmanager
def server(network: str, workers: int, *, max_queue: int = 20_000, port: int = PORT, **settings: Any) -> Iterator[Server]:
    """``bentoml serve`` in a process of its own, once all its workers are up.

    Args:
        network: as SERVING_NETWORK.
        workers: processes; they share the cores.
        max_queue: images that may wait in each process.
        port: on loopback.
        settings: others of :class:`serving.settings.ServingSettings`, by name.

    Raises:
        UserError: it did not start; the message has the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        variables: dict[str, object] = {
            "network": network,
            "workers": workers,
            "threads": max(1, cpu_count() // workers),
            "max_queue": max_queue,
            "max_uploads": 1000,
            "max_images": min(256, max_queue),
            "log_level": "warning",
            "database": f"sqlite:///{folder}/serving.db",
        }
        environment = os.environ | {"BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "true"}
        environment |= {f"SERVING_{name.upper()}": str(value) for name, value in (variables | settings).items()}
        command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", "127.0.0.1", "--port", str(port)]
        log = Path(folder) / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        address = f"http://127.0.0.1:{port}"
        try:
            end = time.monotonic() + 300
            while not _ready(address) or _ready_workers(address) < workers:
                if process.poll() is not None or time.monotonic() > end:
                    raise UserError(f"bentoml serve of {network} did not become ready: {log.read_text()[-2000:]}")
                time.sleep(0.5)
            yield Server(address=address, process=psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(60)


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _ready_workers(address: str) -> int:
    return int(metric(address, "serving_ready"))


def drain(address: str) -> None:
    """Wait until what the last load left in the queues has been answered, lest the next one pays for it."""
    while metric(address, "serving_queue_images"):
        time.sleep(0.1)
    time.sleep(0.5)


def metric(address: str, name: str) -> float:
    """Its value now, summed over its labels."""
    lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def rates(server: Server, seconds: float) -> dict[str, float]:
    """Images a second and CPU seconds an image in the middle half of a load, by the server's own count.

    wrk's count leaves out what is under way when it ends, which of large requests to a slow network is a good part.
    """
    time.sleep(seconds / 4)
    before, cpu, began = metric(server.address, "serving_images_total"), server.cpu_seconds(), time.monotonic()
    time.sleep(seconds / 2)
    after, spent, ended = metric(server.address, "serving_images_total"), server.cpu_seconds(), time.monotonic()
    images = after - before
    return {"images_per_second": images / (ended - began), "cpu_ms_an_image": 1000 * (spent - cpu) / max(images, 1)}
