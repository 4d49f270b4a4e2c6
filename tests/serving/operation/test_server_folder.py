from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.operation import readiness
from serving.operation.readiness import Readiness
from serving.operation.state_folder import in_state_folder

SERVER = """
import os, subprocess, sys
from serving.operation import server_folder
print(server_folder.enter(), server_folder.supervisor(), flush=True)
worker = "from serving.operation import server_folder as s; print(s.enter(), s.supervisor(), s.metrics_folder())"
environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": "/nowhere"}
subprocess.run([sys.executable, "-c", worker], env=environment)
stranger = "from serving.operation import server_folder as s; print(s.enter(), s.supervisor(), s.metrics_folder())"
subprocess.run([sys.executable, "-c", stranger])
if sys.argv[1:]:
    os.kill(os.getpid(), 9)
"""


def run_server(folder: Path, *arguments: str) -> list[list[str]]:
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


def test_workers_find_their_server_s_folder_and_others_make_their_own(tmp_path: Path) -> None:
    server, worker, stranger = run_server(tmp_path)
    assert server[1] == "None"
    assert worker[0] == server[0]
    assert worker[1] != "None"
    assert worker[2] == f"{server[0]}/metrics"
    assert stranger[0] != server[0], "another server that was started from this one"
    assert stranger[1:] == ["None", "None"]
    assert list(tmp_path.iterdir()) == [], "each is removed at its end"


def test_the_folder_of_a_killed_server_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = run_server(tmp_path, "kill")
    assert Path(killed[0][0]).is_dir()
    run_server(tmp_path)
    assert list(tmp_path.iterdir()) == []


def other_worker(folder: Path, state: str) -> subprocess.Popen[bytes]:
    program = (
        "import time, pathlib, sys\nfrom serving.operation.readiness import Readiness\n"
        f"Readiness(pathlib.Path({str(folder)!r})).publish({state!r})\nprint(flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_who_is_draining_is_ready_no_more(tmp_path: Path) -> None:
    readiness = Readiness(tmp_path)
    readiness.publish("draining")
    readiness.publish("ready")  # its network is open at last
    assert not readiness.all_ready()
    readiness.withdraw()
    readiness.publish("ready")
    assert readiness.all_ready()
    readiness.withdraw()


def test_a_state_that_was_cleaned_away_is_said_again_and_a_full_disk_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: list[logging.LogRecord]
) -> None:
    readiness = Readiness(tmp_path)
    readiness.publish("ready")
    shutil.rmtree(tmp_path / "workers")
    assert readiness.all_ready()
    assert list(readiness.states().values()) == ["ready"]

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    readiness.publish("starting")
    assert not readiness.all_ready()
    readiness.publish("ready")
    assert readiness.all_ready()
    assert ["No space left" in record.getMessage() for record in heard] == [True, True]
    readiness.withdraw()


@pytest.mark.parametrize("ending", ["waited for", "not waited for"])
def test_ready_means_every_worker_that_accepts_connections(tmp_path: Path, ending: str) -> None:
    readiness = Readiness(tmp_path)
    assert not readiness.all_ready()
    readiness.publish("starting")
    assert not readiness.all_ready()
    readiness.publish("ready")
    assert readiness.all_ready()
    other = other_worker(tmp_path, "starting")
    assert not readiness.all_ready(), "a connection may reach the one that is not warmed up"
    assert not readiness.others_ready()
    os.kill(other.pid, signal.SIGKILL)
    if ending == "waited for":
        other.wait()
    end = time.monotonic() + 10
    while not readiness.all_ready():
        assert time.monotonic() < end, "a killed worker accepts nothing"
        time.sleep(0.001)
    assert list(readiness.states().values()) == ["ready"]
    other.wait()
    assert other.stdout is not None
    other.stdout.close()
    readiness.publish("draining")
    assert not readiness.all_ready()
    readiness.withdraw()
    assert readiness.states() == {}


def test_a_worker_whose_supervisor_is_gone_does_not_drain_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(os, "_exit", sent.append)
    monkeypatch.setattr(readiness, "_GRACE", 0.0)
    monkeypatch.setattr(readiness, "_WATCH", 0.0)
    readiness._watch(os.getppid() + 1)
    assert sent == [signal.SIGTERM, signal.SIGTERM, 1]


def test_a_clock_that_is_set_makes_nobody_dead_and_an_id_used_again_nobody_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readiness = Readiness(tmp_path)
    readiness.publish("ready")
    monkeypatch.setattr("psutil.Process.create_time", lambda process: 1.0)
    assert readiness.states() == {os.getpid(): "ready"}
    (tmp_path / "workers" / str(os.getppid())).write_text("ready 1")
    assert readiness.states() == {os.getpid(): "ready"}
    readiness.withdraw()


def test_a_relative_database_is_in_the_state_folder_never_in_a_bento(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "sqlite:///runs/serving.db"
    assert in_state_folder(url) == url
    assert in_state_folder(url, str(tmp_path)) == f"sqlite:///{tmp_path}/runs/serving.db"
    package = tmp_path / "bento" / "src" / "serving"
    package.mkdir(parents=True)
    (tmp_path / "bento" / "bento.yaml").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    inside = in_state_folder(url, package=package)
    assert inside == f"sqlite:///{tmp_path}/state/dynamic-classifier/runs/serving.db"
    assert in_state_folder("sqlite:////var/lib/x.db", package=package) == "sqlite:////var/lib/x.db"
    assert in_state_folder("postgresql://host/db", package=package) == "postgresql://host/db"
    assert in_state_folder("none", package=package) == "none"
