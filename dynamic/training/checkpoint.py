"""What a training leaves on disk: a checkpoint to go on from, a log of one JSON line an epoch, the weights."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.files import write_whole


def append_line(log: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON line to a log and wait until it is on the disk."""
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def trim_log(log: Path, epochs: int) -> dict[str, Any]:
    """Drop the lines of epochs that a checkpoint does not have behind it, and what is no whole line (a disk was full).

    Returns the last line left, or nothing.
    """
    if not log.exists():
        return {}
    lines = [line for line in _lines(log) if line.get("epoch", epochs + 1) <= epochs]
    write_whole(log, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return lines[-1] if lines else {}


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for text in log.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def stored_weights(network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors as they are stored: float16 kernels and matrices.

    Batch-norm statistics and biases are few and keep their precision.
    """
    return {
        name: tensor.detach().cpu().contiguous().half() if tensor.ndim > 1 else tensor.detach().cpu()
        for name, tensor in network.state_dict().items()
    }


def write_weights(stored: Mapping[str, Tensor], path: Path, settings: Mapping[str, Any], start: str = "") -> None:
    """Write tensors as safetensors, with the settings that made them and the digest of what they began with as metadata."""
    metadata = {"settings": json.dumps(settings, default=str)} | ({"start": start} if start else {})
    write_whole(path, _ordered(save(dict(stored), metadata=metadata)))


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its metadata in order of name, which the library writes in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def save_checkpoint(path: Path, identity: Mapping[str, Any], epoch: int, **parts: Any) -> None:
    """Store the state of every part (anything with ``state_dict``) after ``epoch`` epochs, whole or not at all."""
    state = {"settings": dict(identity), "epoch": epoch} | {name: part.state_dict() for name, part in parts.items()}
    written = io.BytesIO()  # torch.save hides why a disk did not take it
    torch.save(state, written)
    write_whole(path, written.getbuffer())


def resume(path: Path, identity: Mapping[str, Any], device: str, **parts: Any) -> int:
    """Load a checkpoint into the parts, if there is one; returns the number of epochs it has behind it.

    Raises:
        UserError: the checkpoint was made with other settings (the message names every difference), or cannot be read.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        stored, epoch = dict(state["settings"]), int(state["epoch"])
        states = {name: state[name] for name in parts}
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise _unreadable(path, error) from error
    if stored != identity:
        changed = [
            f"{key} {stored.get(key)!r} there, {identity[key]!r} here"
            for key in identity
            if identity[key] != stored.get(key)
        ]
        raise UserError(f"{path} belongs to another training ({'; '.join(changed)}): choose another --out or delete it")
    try:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    return epoch


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path} is damaged and cannot be gone on from ({reason}): delete it to train from the beginning")
