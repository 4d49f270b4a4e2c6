"""Prometheus metrics, over all worker processes: /metrics.

None of them ever raises into the service: what cannot be counted is not counted, and the log says so once.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import prometheus_client
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.operation.logs import LOGGER, event
from serving.operation.server_folder import lives, metrics_folder

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FILE_BYTES = 2**20
"""Of each file in which Prometheus' client shares values between processes."""
_RETRY = 5.0
"""Seconds between two attempts to take room for them."""


class Metric:
    """A metric of Prometheus whose failures stay here.

    Args:
        made: the metric; None where it could not be made, and then nothing is counted until :meth:`make`.
    """

    def __init__(self, made: Any) -> None:
        self._made = made
        self._said: float | None = None
        self._saying = threading.Lock()  # what was said last is what stays, although another thread makes
        self._children: dict[tuple[object, ...], Metric] = {}

    def make(self, made: Any) -> None:
        """Count from now on with the metric that there is room for now; a gauge says what it said last."""
        with self._saying:
            self._made = made
            if self._said is not None:
                _attempt(lambda: self._made.set(self._said), self._made)

    def labels(self, *values: object) -> Metric:
        """The series of these label values."""
        found = self._children.get(values)
        if found is None or found._made is None:
            found = self._children[values] = Metric(_attempt(lambda: self._made.labels(*values), self._made))
        return found

    def inc(self, amount: float = 1.0) -> None:
        """Count on."""
        _attempt(lambda: self._made.inc(amount), self._made)

    def set(self, value: float) -> None:
        """Say what it is now."""
        with self._saying:
            self._said = value
            _attempt(lambda: self._made.set(value), self._made)

    def observe(self, value: float) -> None:
        """Add an observation."""
        _attempt(lambda: self._made.observe(value), self._made)


_complained = False


def _attempt(what: Any, made: Any) -> Any:
    global _complained
    if made is None:
        return None
    try:
        return what()
    except Exception:
        if not _complained:
            _complained = True
            LOGGER.exception("metrics fail: something is not counted")
        return None


def _allocate(folder: Path | None) -> OSError | None:
    """Take the disk space of this process's files now: a page that cannot be had later would kill the process."""
    if folder is None or not hasattr(os, "posix_fallocate"):
        return None
    kinds = ("counter", "histogram", "gauge_sum", "gauge_livesum", "gauge_livemin", "gauge_livemax", "gauge_mostrecent")
    try:
        for kind in kinds:
            with (folder / f"{kind}_{os.getpid()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    except OSError as error:
        for kind in kinds:
            (folder / f"{kind}_{os.getpid()}.db").unlink(missing_ok=True)
        return error
    return None


_SHARED = metrics_folder()
_REFUSED = _allocate(_SHARED)
if _REFUSED is not None:
    event(f"no room for metrics: this process counts nothing until there is ({_REFUSED})", logging.ERROR)
_tried = time.monotonic()
_waiting: list[tuple[Metric, Callable[[], Any]]] = []


def take_room() -> None:
    """Begin to count where there was no room for it when this process started, and there is now."""
    global _tried
    if not _waiting or time.monotonic() - _tried < _RETRY:
        return
    _tried = time.monotonic()
    if _allocate(_SHARED) is None:
        for metric, making in _waiting:
            metric.make(_attempt(making, metric))
        _waiting.clear()
        event("there is room for metrics: this process counts from now on", logging.WARNING)


def _make(kind: Any, name: str, what: str, labels: Sequence[str] = (), **options: Any) -> Metric:
    def making() -> Any:
        return kind(name, what, labels, **options)

    if _REFUSED is None:
        return Metric(_attempt(making, kind))
    _waiting.append((metric := Metric(None), making))
    return metric


def _counter(name: str, what: str, *labels: str) -> Metric:
    return _make(prometheus_client.Counter, name, what, labels)


def _gauge(name: str, what: str, *labels: str, over_processes: str) -> Metric:
    return _make(prometheus_client.Gauge, name, what, labels, multiprocess_mode=over_processes)


def _histogram(name: str, what: str, *labels: str, buckets: Sequence[float]) -> Metric:
    return _make(prometheus_client.Histogram, name, what, labels, buckets=buckets)


REQUESTS = _counter("serving_requests", "Requests by page, status", "page", "status")
LATENCY = _histogram("serving_request_seconds", "From the first byte to the last", "page", buckets=_SECONDS)
REJECTIONS = _counter("serving_rejections", "Refused requests, and images of answered ones, by cause", "code")
IMAGES = _counter("serving_images", "Images answered, by policy", "policy")
CONFIGURATIONS = _counter(
    "serving_configurations", "Images answered, by policy and configuration", "policy", "configuration"
)
GMACS = _counter("serving_gmacs", "10^9 multiply-accumulates that were run, selectors included, by policy", "policy")
GMACS_DEFAULT = _counter(
    "serving_gmacs_default", "10^9 multiply-accumulates that the default would have run, by policy", "policy"
)
GMACS_SAVED = _gauge(
    "serving_gmacs_saved", "serving_gmacs_default less serving_gmacs, by policy", "policy", over_processes="sum"
)
GMACS_EXPECTED = _counter(
    "serving_gmacs_expected", "10^9 multiply-accumulates expected of images like the label images, by policy", "policy"
)
GMACS_FORESEEN = _counter(
    "serving_gmacs_foreseen", "10^9 multiply-accumulates that were run for images of which some were expected", "policy"
)
QUEUED = _histogram("serving_queue_seconds", "From a decoded image to its batch", buckets=_SECONDS)
BATCH = _histogram("serving_batch_images", "Images that ran together", buckets=_POWERS)
BATCH_SECONDS = _histogram("serving_batch_seconds", "Of a batch in the network, selectors included", buckets=_SECONDS)
QUEUE = _gauge("serving_queue_images", "Images that wait", over_processes="livesum")
READY = _gauge("serving_ready", "Processes that are warmed up", over_processes="livesum")
STARTS = _counter("serving_worker_starts", "Processes that were warmed up since the server started")
RESTARTS = _counter("serving_restarts", "Deaths of a part of a process, after each of which it was started again", "part")
TAKEOVERS = _counter(
    "serving_takeovers", "New runs that a process took over, refused, or dropped because another refused", "outcome"
)
RUN = _gauge(
    "serving_run", "Processes that serve a run, by its name and weights", "run", "weights", over_processes="livesum"
)
DATABASE_UP = _gauge("serving_database_up", "Whether every process can use the database", over_processes="livemin")
KEPT_IMAGES = _counter("serving_kept_images", "Images kept for evaluation")
UNRECORDED_ANSWERS = _counter(
    "serving_unrecorded_answers",
    "Answers whose labels cannot come, by cause: queue_full, bad_row, or ending while the database was away",
    "cause",
)
PENDING_ANSWERS = _gauge("serving_pending_answers", "Answers that wait for the database", over_processes="livesum")
TIDIED_ROWS = _counter("serving_tidied_rows", "Rows that were deleted because they were too old or too many")
LABELS = _counter("serving_labels", "Labels received")
EVALUATIONS = _counter("serving_evaluated_images", "Labelled images run under every configuration")
LIVE_ACCURACY = _gauge(
    "serving_live_accuracy",
    "Of default, single_best, policy and oracle on the same evaluated live images, by the policy that answered",
    "policy",
    "who",
    over_processes="mostrecent",
)
LIVE_IMAGES = _gauge("serving_live_images", "Evaluated live images, by policy", "policy", over_processes="mostrecent")
LIVE_GAP = _gauge(
    "serving_live_recovered_gap",
    "(policy - default) / (oracle - default) on live images, by policy",
    "policy",
    over_processes="mostrecent",
)
OUT_OF_RANGE = _gauge(
    "serving_out_of_range",
    "1 where a process finds live images unlike those that its policy was measured on",
    over_processes="livemax",
)
SHADOW_IMAGES = _counter(
    "serving_shadow_images",
    "Images for the shadow policy: answered (not_recorded: while the database was away), failed, or shed for want of time",
    "shadow",
    "outcome",
)
SHADOW_AGREED = _counter("serving_shadow_agreed", "Images on which shadow and active policy agreed", "shadow")
SHADOW_GMACS = _counter(
    "serving_shadow_gmacs", "10^9 multiply-accumulates of shadow and active policy on the same images", "shadow", "who"
)
SHADOW_ACCURACY = _gauge(
    "serving_shadow_accuracy",
    "Of active policy and shadow on the same labelled live images",
    "policy",
    "shadow",
    "who",
    over_processes="mostrecent",
)
SHADOW_DIFFERENCE = _gauge(
    "serving_shadow_difference",
    "Accuracy of the shadow less that of the active policy on the same labelled live images",
    "policy",
    "shadow",
    over_processes="mostrecent",
)
CONNECTIONS = _gauge("serving_connections", "Open connections", over_processes="livesum")
CUT = _counter("serving_connections_cut", "Connections that the server ended, by cause", "cause")

CONTENT_TYPE = CONTENT_TYPE_LATEST


def count_answer(
    policy: str, configuration: str, *, gmacs: float, default: float, expected: float | None, queued: float
) -> None:
    """Count one image that was answered.

    Args:
        policy: that chose; its name without its setting.
        configuration: id of the one that ran.
        gmacs: 10^9 multiply-accumulates that were run, selectors included.
        default: that the default would have run.
        expected: of the policy on images like the label images; None where nobody measured it.
        queued: seconds that the image waited.
    """
    IMAGES.labels(policy).inc()
    CONFIGURATIONS.labels(policy, configuration).inc()
    GMACS.labels(policy).inc(gmacs)
    GMACS_DEFAULT.labels(policy).inc(default)
    GMACS_SAVED.labels(policy).inc(default - gmacs)
    if expected is not None:
        GMACS_EXPECTED.labels(policy).inc(expected)
        GMACS_FORESEEN.labels(policy).inc(gmacs)
    QUEUED.observe(queued)


def exposition() -> bytes:
    """All metrics of all processes, in Prometheus' text format; gauges of processes that were killed are left out."""
    if _SHARED is None:
        return generate_latest(REGISTRY)
    bury_the_dead()
    _SHARED.mkdir(parents=True, exist_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


def warns_out_of_range() -> bool:
    """Whether any of the server's processes finds live images unlike those that its policy was measured on."""
    lines = [line for line in exposition().decode().splitlines() if line.startswith("serving_out_of_range ")]
    return any(float(line.split()[1]) for line in lines)


def bury_the_dead() -> None:
    """Take the gauges of killed processes out of the sums, and give back the room that their other files do not use."""
    for path in _SHARED.glob("*_*.db") if _SHARED else ():
        pid = int(path.stem.rsplit("_", 1)[1])
        if lives(pid):
            continue
        if path.name.startswith("gauge_live"):
            mark_process_dead(pid)
        else:
            _shrink(path)


def _shrink(path: Path) -> None:
    """A file of Prometheus' client begins with how many of its bytes are used, itself and four more included."""
    with suppress(OSError), path.open("r+b") as file:
        file.truncate(max(8, int.from_bytes(file.read(4), sys.byteorder)))
