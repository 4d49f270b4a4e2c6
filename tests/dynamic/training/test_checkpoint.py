"""What a training leaves on disk, and what a full disk or a pulled plug may leave of it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from dynamic import UserError
from dynamic.files import write_whole
from dynamic.training.checkpoint import append_line, resume, save_checkpoint, trim_log, write_weights

IDENTITY = {"model": "tiny", "epochs": 3}


def saved(folder: Path) -> Path:
    save_checkpoint(folder / "checkpoint.pt", IDENTITY, 2, network=nn.Linear(3, 2))
    return folder / "checkpoint.pt"


def test_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_checkpoint(tmp_path / "checkpoint.pt", IDENTITY, 2, network=network)
    assert resume(tmp_path / "checkpoint.pt", IDENTITY, "cpu", network=other) == 2
    assert torch.equal(network.weight, other.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert resume(tmp_path / "none.pt", IDENTITY, "cpu", network=other) == 0


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_torn_checkpoint_is_refused_in_one_line(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"checkpoint.pt is damaged .*: delete it") as raised:
        resume(path, IDENTITY, "cpu", network=nn.Linear(3, 2))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [[], {"epoch": 1}, {"settings": IDENTITY, "epoch": 1}, {"settings": IDENTITY, "epoch": 1, "network": {"a": 1}}],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint.pt is damaged .*: delete it"):
        resume(tmp_path / "checkpoint.pt", IDENTITY, "cpu", network=nn.Linear(3, 2))


@pytest.mark.parametrize("torn", ['{"epoch": 3, "lo', '{"epoch": 3', "\0\0\0", "3", "\ufffd"])
def test_a_torn_log_line_is_dropped(tmp_path: Path, torn: str) -> None:
    log = tmp_path / "log.jsonl"
    for epoch in (1, 2):
        append_line(log, {"epoch": epoch, "loss": 0.5})
    with log.open("a") as file:
        file.write(torn)
    assert trim_log(log, 2) == {"epoch": 2, "loss": 0.5}
    append_line(log, {"epoch": 3})
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2, 3]
    assert trim_log(log, 1) == {"epoch": 1, "loss": 0.5}


def test_a_log_of_bytes_that_are_no_text_is_trimmed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"epoch": 1}\n\xff\xfe\x80')
    assert trim_log(tmp_path / "log.jsonl", 2) == {"epoch": 1}


@pytest.mark.parametrize("write", [lambda path: write_whole(path, b"whole"), lambda path: saved(path.parent)])
def test_files_are_on_the_disk_before_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        size = os.fstat(descriptor).st_size
        done.append(f"fsync {'folder' if name == tmp_path.name else name} {'empty' if size == 0 else 'full'}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append(f"rename {source.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write(tmp_path / "checkpoint.pt")
    new = "checkpoint.pt.new"
    assert done == [f"fsync {new} full", f"rename {new}", "fsync folder full"]


def test_a_full_disk_leaves_the_former_file_and_no_part_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: saved(tmp_path), lambda: write_whole(path, b"other")):
        with pytest.raises(OSError, match="No space left"):
            write()
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    path, stored = tmp_path / "weights.safetensors", {"b": torch.arange(3.0), "a": torch.ones(2, 2).half()}
    written = set()
    for _ in range(30):
        write_weights(stored, path, {"model": "ä net"}, "digest")
        written.add(path.read_bytes())
    assert len(written) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"settings": json.dumps({"model": "ä net"}), "start": "digest"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in stored.items())
