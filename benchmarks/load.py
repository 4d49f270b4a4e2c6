"""A server on loopback and a load on it: ``bentoml serve`` in a process of its own, wrk (apt-get install wrk) against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

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


def body(files: Sequence[bytes], field: str, **options: str) -> bytes:
    """A multipart form."""
    head = '--BOUNDARY\r\nContent-Disposition: form-data; name="{}"'
    parts = [
        f'{head.format(field)}; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'.encode() + f + b"\r\n" for f in files
    ]
    parts += [f"{head.format(name)}\r\n\r\n{value}\r\n".encode() for name, value in options.items()]
    return b"".join(parts) + b"--BOUNDARY--\r\n"


def load(url: str, bodies: Sequence[bytes], seconds: float, connections: int) -> dict[str, float]:
    """Load a page with wrk: requests a second, and milliseconds of the median and the slowest hundredth."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.bin" for number in range(len(bodies))]
        for path, data in zip(paths, bodies, strict=True):
            path.write_bytes(data)
        (Path(folder) / "bodies.txt").write_text("\n".join(map(str, paths)))
        (Path(folder) / "load.lua").write_text(_LOAD)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s", "-s", f"{folder}/load.lua", url]
        environment = os.environ | {"BODIES": f"{folder}/bodies.txt"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return {
        "requests_per_second": (found["requests"] - found["failed"]) / found["seconds"],
        "p50_ms": found["p50"],
        "p99_ms": found["p99"],
        "failed": found["failed"],
    }


@contextmanager
def server(network: str, workers: int, *, static: bool = False, max_queue: int = 20_000, port: int = PORT) -> Iterator[str]:
    """``bentoml serve`` in a process of its own; gives its address once all its workers are up.

    Args:
        network: as SERVING_NETWORK.
        workers: processes; they share the cores.
        static: serve the default alone, batch norms folded.
        max_queue: images that may wait in each process.
        port: on loopback.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "BENTOML_HOME": folder,
            "BENTOML_DO_NOT_TRACK": "true",
            "SERVING_NETWORK": network,
            "SERVING_STATIC": str(static),
            "SERVING_WORKERS": str(workers),
            "SERVING_THREADS": str(max(1, cpu_count() // workers)),
            "SERVING_MAX_QUEUE": str(max_queue),
            "SERVING_MAX_UPLOADS": "1000",
            "SERVING_MAX_IMAGES": str(min(256, max_queue)),
            "SERVING_LOG_LEVEL": "warning",
            "SERVING_DATABASE": f"sqlite:///{folder}/serving.db",
        }
        command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}"
        try:
            end = time.monotonic() + 120
            while not _ready(address):
                if process.poll() is not None or time.monotonic() > end:
                    raise UserError(f"bentoml serve of {network} did not become ready: start it by hand to see why")
                time.sleep(0.5)
            while _ready_workers(address) < workers:
                time.sleep(0.2)
            yield address
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


def images_per_second(address: str, seconds: float) -> float:
    """Images a second in the middle half of a load, by the server's own count.

    wrk's count leaves out what is under way when it ends, which of large requests to a slow network is a good part.
    """
    time.sleep(seconds / 4)
    before, began = metric(address, "serving_images_total"), time.monotonic()
    time.sleep(seconds / 2)
    after, ended = metric(address, "serving_images_total"), time.monotonic()
    return (after - before) / (ended - began)
