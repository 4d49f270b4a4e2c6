"""Prometheus metrics, over all worker processes: /metrics."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter("serving_requests", "Requests by page, status", ["page", "status"])
LATENCY = Histogram("serving_request_seconds", "From the first byte to the last", ["page"], buckets=_SECONDS)
REJECTIONS = Counter("serving_rejections", "Refused requests, and images of answered ones, by cause", ["code"])
IMAGES = Counter("serving_images", "Images answered, by policy", ["policy"])
CONFIGURATIONS = Counter("serving_configurations", "Images answered, by configuration", ["configuration"])
GMACS = Counter("serving_gmacs", "10^9 multiply-accumulates that were run, selectors included")
GMACS_DEFAULT = Counter("serving_gmacs_default", "10^9 multiply-accumulates that the default would have run")
GMACS_SAVED = Gauge("serving_gmacs_saved", "serving_gmacs_default less serving_gmacs", multiprocess_mode="sum")
BATCH = Histogram("serving_batch_images", "Images that ran together", buckets=_POWERS)
BATCH_SECONDS = Histogram("serving_batch_seconds", "Of a batch in the network, selectors included", buckets=_SECONDS)
QUEUE = Gauge("serving_queue_images", "Images that wait", multiprocess_mode="livesum")
READY = Gauge("serving_ready", "Processes that are warmed up", multiprocess_mode="livesum")
KEPT_IMAGES = Counter("serving_kept_images", "Images kept for evaluation")
UNRECORDED_ANSWERS = Counter(
    "serving_unrecorded_answers", "Answers that the database was too slow for; their labels cannot come"
)
LABELS = Counter("serving_labels", "Labels received")
EVALUATIONS = Counter("serving_evaluated_images", "Labelled images run under every configuration")
LIVE_ACCURACY = Gauge(
    "serving_live_accuracy",
    "Of default, single_best, policy and oracle on the same evaluated live images, by the policy that answered",
    ["policy", "who"],
    multiprocess_mode="mostrecent",
)
LIVE_IMAGES = Gauge("serving_live_images", "Evaluated live images, by policy", ["policy"], multiprocess_mode="mostrecent")
LIVE_GAP = Gauge(
    "serving_live_recovered_gap",
    "(policy - default) / (oracle - default) on live images, by policy",
    ["policy"],
    multiprocess_mode="mostrecent",
)
CONNECTIONS = Gauge("serving_connections", "Open connections", multiprocess_mode="livesum")
CUT = Counter("serving_connections_cut", "Connections that the server ended, by cause", ["cause"])

CONTENT_TYPE = CONTENT_TYPE_LATEST


def _shared() -> Path | None:
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


def exposition() -> bytes:
    """All metrics of all processes, in Prometheus' text format."""
    if _shared() is None:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


def ready_processes() -> int:
    """How many of the server's processes are warmed up."""
    lines = [line for line in exposition().decode().splitlines() if line.startswith("serving_ready ")]
    return int(sum(float(line.split()[1]) for line in lines))


def bury_the_dead() -> None:
    """Take the gauges of killed processes out of the sums."""
    folder = _shared()
    for path in folder.glob("gauge_live*_*.db") if folder else ():
        pid = int(path.stem.rsplit("_", 1)[1])
        if not psutil.pid_exists(pid):
            mark_process_dead(pid)
