import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dynamic.errors import UserError
from dynamic.lock import LOCK, held

HOLD = """
    import sys, time
    from pathlib import Path
    from dynamic.lock import held
    with held(Path(sys.argv[1]), lease=float(sys.argv[2])):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds ``tmp_path / "run"``."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "run"), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _elsewhere(folder: Path, lease: float) -> None:
    """What a process on another machine leaves that was killed there, or that lives there."""
    folder.mkdir()
    facts = f"mode=lease\npid={os.getpid()}\nhost=another-machine\ntoken=abc\nduration={lease!r}\n"
    (folder / LOCK).write_text(f"filelock/2\n{facts}")


def test_another_process_is_refused_in_one_line_that_names_the_holder(tmp_path, holder):
    message = rf"run is in use by process {holder.pid}, which runs since 20\S+ \S+: wait"
    with pytest.raises(UserError, match=message), held(tmp_path / "run"):
        pass
    assert holder.poll() is None


def test_a_holder_killed_here_is_superseded_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with held(tmp_path / "run"):
        assert f"pid={os.getpid()}\n" in (tmp_path / "run" / LOCK).read_text()
    assert not (tmp_path / "run" / LOCK).exists()


def test_in_a_container_a_holder_beside_it_is_refused_at_once_and_one_in_another_is_not(tmp_path, monkeypatch, capsys):
    spaces = {"here": f"{os.stat('/proc/self/ns/pid').st_ino:x}", "another": "abc"}
    for name, space in spaces.items():
        _elsewhere(tmp_path / name, 1.0)
        marker = tmp_path / name / LOCK
        marker.write_text(marker.read_text().replace("another-machine", f"{socket.gethostname()}?pidns-{space}"))
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}, which runs"), held(tmp_path / "here", lease=1.0):
        pass
    assert capsys.readouterr().err == "", "it did not wait for a sign of life"
    with held(tmp_path / "another", lease=1.0):
        assert "waiting" in capsys.readouterr().err


def test_a_silent_holder_elsewhere_is_waited_for_and_superseded(tmp_path, capsys):
    _elsewhere(tmp_path / "run", 1.0)
    with held(tmp_path / "run", lease=1.0):
        assert f"host={socket.gethostname()}\n" in (tmp_path / "run" / LOCK).read_text()
    assert f"in use by process {os.getpid()} on another-machine, last seen at 20" in capsys.readouterr().err


def test_a_living_holder_elsewhere_is_waited_for_and_refused(tmp_path):
    _elsewhere(tmp_path / "run", 1.0)
    beat = f"import os, time\nfor _ in range(200):\n    os.utime({str(tmp_path / 'run' / LOCK)!r}); time.sleep(0.05)"
    with subprocess.Popen([sys.executable, "-c", beat]) as heart:
        with pytest.raises(UserError, match=r"in use by process .* on another-machine"), held(tmp_path / "run", lease=1.0):
            pass
        heart.kill()


def test_one_process_may_hold_a_folder_twice_and_lets_go_at_the_end(tmp_path):
    with held(tmp_path / "run"):
        with held(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / LOCK).exists()
    assert not (tmp_path / "run" / LOCK).exists()


LOSE = """
    import signal, sys, time
    from pathlib import Path
    from dynamic.lock import LOCK, held
    signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[2] == "ignored" else signal.default_int_handler)
    with held(Path(sys.argv[1]), lease=0.3):
        (Path(sys.argv[1]) / LOCK).unlink()
        time.sleep(60)
"""


@pytest.mark.parametrize("interrupts", ["taken", "ignored"])
def test_who_loses_the_folder_is_stopped(tmp_path, interrupts):
    """``script &`` starts processes that ignore interrupts."""
    command = [sys.executable, "-c", textwrap.dedent(LOSE), str(tmp_path / "run"), interrupts]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "was taken over by another process (marker-missing); stopping here" in result.stderr
    assert ("KeyboardInterrupt" in result.stderr) == (interrupts == "taken")
    assert result.returncode == (-signal.SIGINT if interrupts == "taken" else -signal.SIGTERM)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write in .*file \(File exists\): copy it"),
        held(tmp_path / "file", "copy it"),
    ):
        pass
