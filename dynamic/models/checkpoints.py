"""Checkpoint files: reading their tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dynamic.errors import UserError


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; unwraps ``state_dict``/``model`` and DistributedDataParallel's ``module.``.

    Raises:
        UserError: no such file, truncated, or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: pass an existing .safetensors or .pth file")
    try:
        stored: Any = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged file makes torch raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is truncated or not a checkpoint ({reason}): store one with torch.save(module.state_dict(), …)"
        ) from error
    for wrapper in ("state_dict", "model", "network"):
        if isinstance(stored, dict) and isinstance(stored.get(wrapper), dict):
            stored = stored[wrapper]
    if not isinstance(stored, dict) or not stored or not all(isinstance(value, Tensor) for value in stored.values()):
        raise UserError(f"{path} holds no tensors by name: store one with torch.save(module.state_dict(), …)")
    return {str(key).removeprefix("module."): value for key, value in stored.items()}
