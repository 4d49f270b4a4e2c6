"""Checkpoint files: reading their tensors by name, whatever program wrote them around its own things."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dynamic.errors import UserError
from dynamic.models.inert import StandIn, load_inert, named_in

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "network",
    "net",
    "module",
    "weights",
    "params",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema",
    "params_ema",
)
"""Under which programs keep a network's tensors; where several are there, the first is taken."""

_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""With which torch's format of before 1.6 begins, behind a few bytes of pickle."""

_SAVE = "torch.save(module.state_dict(), 'weights.pth')"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, as they are called in the file.

    Nothing from the file is run. What a training script wrote beside them is left out; where the file holds several sets
    of tensors, which one was taken is said on stderr.

    Args:
        path: .safetensors, or what ``torch.save`` wrote: a state dict, or a dictionary that has one.

    Raises:
        UserError: no such file, truncated, or not a checkpoint; what it is instead, and how to make one of it.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: pass an existing .safetensors or .pth file")
    _refuse_others(path)
    try:
        stored: Any = load_file(path) if _is_safetensors(path) else load_inert(path)
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise UserError(_unreadable(path, error)) from error
    return _tensors(stored, path)


def _refuse_others(path: Path) -> None:
    """Raise UserError where the first bytes tell that the file is something else."""
    with path.open("rb") as file:
        start = file.read(200)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not the file itself: fetch it with git lfs pull")
    if not start:
        raise UserError(f"{path} is empty")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not a checkpoint: download the file itself")
    if _is_text(start):
        raise UserError(f"{path} is a text file, not a checkpoint: store one with {_SAVE}")
    if start[8:9] == b"{":
        return  # a safetensors file begins with the length of its header, which may look like anything
    if path.suffix == ".safetensors" and start.startswith((b"PK", b"\x80")):
        raise UserError(f"{path} is no safetensors file, but what torch.save or pickle wrote: rename it to {path.stem}.pth")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is truncated: a zip archive without its end; copy or download it again")
    if start.startswith(b"\x80") and start[1:2] <= b"\x05" and _LEGACY not in start:
        raise UserError(
            f"{path} was written by pickle, not by torch.save, and was not opened, since that runs code that it names: if "
            f"you trust it, store its tensors once with {_SAVE}"
        )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise UserError(
                f"{path} is a TorchScript archive, a compiled network: store its tensors once with "
                f"torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pth')"
            )


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _unreadable(path: Path, error: Exception) -> str:
    """One line: what is in the way."""
    said = str(error)
    again = f"torch.save(torch.load({path.name!r}, weights_only=False).state_dict(), 'weights.pth')"
    if "Only persistent_load of storage" in said:
        return (
            f"{path} holds a whole module, in torch's format of before 1.6, which can be opened only by running its code: "
            f"where that code is, run once {again}"
        )
    if "Unsupported operand" in said and zipfile.is_zipfile(path):
        return f"{path} was pickled in another protocol than torch.save's: store its tensors with {_SAVE}"
    foreign = sorted(name for name in named_in(path) if not name.startswith(("torch.", "collections.")))
    if foreign and any(word in said for word in ("whose module", "Can only ", "stand-in for ", "unrecognized function")):
        return (
            f"{path} cannot be read without running code that it names ({', '.join(foreign[:3])}), and was not opened: "
            f"if you trust it, store its tensors once with {_SAVE}"
        )
    # torch's advice, to read the file with weights_only off, would run what is in it.
    advises = "weights" in said.lower() and "only" in said.lower()
    reason = f" ({said.splitlines()[0] if said else type(error).__name__})" if not advises else ""
    return f"{path} is truncated or not a checkpoint{reason}: store one with {_SAVE}"


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r" for byte in start) and start.isascii()


def _tensors(stored: Any, path: Path, within: str = "") -> dict[str, Tensor]:
    """The tensors in what a file holds, or in one of its entries."""
    place = f"{path}{f' under {within}' if within else ''}"
    if isinstance(stored, StandIn):
        raise UserError(_whole(stored, place, within))
    if not isinstance(stored, Mapping):
        raise UserError(f"{place} holds no tensors by name: store one with {_SAVE}")
    inner = {key: value for key, value in stored.items() if isinstance(value, Mapping) and _has_tensors(value)}
    modules = {key: value for key, value in stored.items() if isinstance(value, StandIn) and value.is_module}
    found = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    named = [key for key in _WRAPPERS if key in inner]
    if not named and not found and not modules:
        named = [key for key in inner if not any(word in str(key).lower() for word in ("optim", "sched", "scaler"))]
        if len(named) > 1:
            raise UserError(
                f"{place} holds several sets of tensors ({', '.join(map(str, named))}): store the network's alone with "
                f"{_SAVE}"
            )
    if named:
        if len(named) > 1:
            print(f"{place}: took the tensors of {named[0]}, not those of {', '.join(named[1:])}", file=sys.stderr)
        return _tensors(inner[named[0]], path, f"{within}/{named[0]}" if within else str(named[0]))
    if modules:
        key, module = next(iter(modules.items()))
        raise UserError(_whole(module, f"{place} under {key}", f"{within}/{key}" if within else str(key)))
    if not found:
        raise UserError(f"{place} holds no tensors by name: store one with {_SAVE}")
    others = [str(key) for key, value in stored.items() if isinstance(value, StandIn)]
    if others:
        kind = next(value.kind for value in stored.values() if isinstance(value, StandIn))
        raise UserError(f"{place} holds {others[0]}, a {kind}, which is no tensor: store tensors alone with {_SAVE}")
    return found


def _has_tensors(value: Mapping[Any, Any], depth: int = 8) -> bool:
    """Whether tensors by name are in it, or in one of its entries."""
    return any(
        (isinstance(entry, Tensor) and isinstance(key, str))
        or (depth > 0 and isinstance(entry, Mapping) and _has_tensors(entry, depth - 1))
        or (depth > 0 and isinstance(entry, StandIn) and entry.is_module)
        for key, entry in value.items()
    )


def _whole(stored: StandIn, place: str, within: str) -> str:
    """One line: a whole object was saved."""
    entry = "".join(f"[{key!r}]" for key in within.split("/")) if within else ""
    file = place.partition(" under ")[0]
    if not stored.is_module:
        return f"{place} holds a {stored.kind}, not tensors by name: store them with {_SAVE}"
    return (
        f"{place} is a whole module, a {stored.kind}, which can be opened only by running its code: where that code is, "
        f"run once torch.save(torch.load({Path(file).name!r}, weights_only=False){entry}.state_dict(), 'weights.pth')"
    )
