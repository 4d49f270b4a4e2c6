"""Files that tell when they were damaged: JSON with a checksum of itself, tensors with a digest of their content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dynamic.errors import UserError
from dynamic.files import write_whole

_CHECKSUM = "checksum"


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        hashed = sha256()
        while chunk := file.read(2**20):
            hashed.update(chunk)
    return hashed.hexdigest()


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object with the checksum of its content as its last entry.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "record.json"
    >>> write_record(path, {"images": 3})
    >>> read_record(path)
    {'images': 3}
    """
    content = json.loads(json.dumps(dict(record), default=str))
    write_whole(path, json.dumps(content | {_CHECKSUM: _checksum(content)}, indent=1).encode())


def read_record(path: Path) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Raises:
        UserError: no such file, not JSON, not an object, an earlier version's, or changed since it was written.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({_reason(error)}): restore it from a copy or make it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: a JSON {type(content).__name__} where an object belongs; restore a copy")
    if _CHECKSUM not in content:
        raise UserError(f"{path} has no checksum: an earlier version made it, or it is something else; make it again")
    checksum = content.pop(_CHECKSUM)
    if checksum != _checksum(content):
        raise UserError(f"{path} is damaged, or was changed by hand: its checksum differs; restore it from a copy")
    return content


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors, with the digest of their content as metadata."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    write_whole(path, save(contiguous, metadata={"digest": _digest_of_arrays(contiguous)}))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote. Raises UserError where the file is missing, damaged or something else."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({_reason(error)}): delete it, and what made it makes it again") from error
    if metadata.get("digest") != _digest_of_arrays(arrays):
        raise UserError(f"{path} is damaged: its content differs from its digest; delete it, and it is made again")
    return arrays


def _checksum(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    hashed = sha256()
    for name, value in sorted(arrays.items()):
        hashed.update(f"{name} {value.dtype} {value.shape} ".encode())
        hashed.update(np.ascontiguousarray(value).tobytes())
    return hashed.hexdigest()


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
