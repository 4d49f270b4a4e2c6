from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from prometheus_client.mmap_dict import MmapedDict

from serving.operation import metrics, readiness
from serving.operation.metrics import Metric


class FullDisk:
    def labels(self, *values: object) -> FullDisk:
        raise OSError(28, "No space left on device")

    inc = set = observe = labels


def test_a_metric_that_fails_never_raises_and_is_logged_once(
    heard: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_complained", False)
    metric = Metric(FullDisk())
    for _ in range(3):
        metric.inc()
        metric.set(1)
        metric.observe(1)
        metric.labels("a", "b").inc()
    Metric(None).labels("a").observe(1)
    assert [record.getMessage() for record in heard] == ["metrics fail: something is not counted"]


def test_an_answer_is_counted_by_policy_and_configuration() -> None:
    for expected in (0.03, None):
        metrics.count_answer("p of a test", "c1", gmacs=0.02, default=0.05, expected=expected, queued=0.001)
    text = metrics.exposition().decode()
    for line in (
        'serving_configurations_total{configuration="c1",policy="p of a test"} 2.0',
        'serving_gmacs_total{policy="p of a test"} 0.04',
        'serving_gmacs_default_total{policy="p of a test"} 0.1',
        'serving_gmacs_expected_total{policy="p of a test"} 0.03',
        'serving_gmacs_foreseen_total{policy="p of a test"} 0.02',
    ):
        assert line in text
    assert 'serving_gmacs_saved{policy="p of a test"} 0.06' in text


PROGRAM = """
import errno, os
from serving.operation import server_folder
if {full}:
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")
    fallocate, os.posix_fallocate = os.posix_fallocate, full
from serving.operation import metrics, readiness
metrics.REQUESTS.labels("/", 200).inc()
metrics.READY.set(1)
print(metrics.exposition().decode())
if {full}:
    os.posix_fallocate = fallocate
    metrics._tried -= 60
    metrics.take_room()
    metrics.REQUESTS.labels("/", 200).inc()
    print(metrics.exposition().decode().replace("serving_", "later_"))
"""


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate on this system")
@pytest.mark.parametrize("full", [False, True])
def test_a_worker_starts_on_a_full_disk_without_counting_until_there_is_room(tmp_path: Path, full: bool) -> None:
    # Not that of a server which an earlier test made in this process: the child would take it for its own.
    environment = {name: value for name, value in os.environ.items() if name != "DYNAMIC_CLASSIFIER_FOLDER"}
    environment |= {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(full=full)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert ('serving_requests_total{page="/",status="200"} 1.0' in done.stdout) is not full
    assert ("serving_ready 1.0" in done.stdout) is not full
    assert ("counts nothing until" in done.stderr) is full
    assert "Traceback" not in done.stderr
    for line in ("later_ready 1.0", 'later_requests_total{page="/",status="200"} 1.0', "counts from now on"):
        assert (line in done.stdout + done.stderr) is full, line
    assert list(tmp_path.iterdir()) == [], "the server's folder is gone with it"


def test_room_is_looked_for_whether_anybody_asks_for_readiness_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    monkeypatch.setattr(metrics, "take_room", lambda: looked.append(time.monotonic()))
    monkeypatch.setattr(readiness, "_WATCH", 0.01)
    monkeypatch.setattr("os.getppid", Mock(side_effect=[7, 7, 7, InterruptedError]))
    with pytest.raises(InterruptedError):
        readiness._watch(7)
    assert len(looked) == 3


def test_a_killed_worker_s_files_keep_their_counts_and_not_their_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = 2**22 + 1  # more than any process id
    for kind in ("counter", "gauge_livesum"):
        path = tmp_path / f"{kind}_{nobody}.db"
        path.write_bytes(bytes(2**20))
        values = MmapedDict(str(path))
        values.write_value("a", 3.0, 1.0)
        values.close()
    monkeypatch.setattr(metrics, "_SHARED", tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for _ in range(2):
        metrics.bury_the_dead()
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 100
    assert [(key, value) for key, value, *_ in MmapedDict.read_all_values_from_file(str(path))] == [("a", 3.0)]
