"""Checkpoint files: reading their tensors, and putting them into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.models.names import build


def from_checkpoint(name: str, path: Path, classes: int | None) -> nn.Module:
    """The network called ``name`` with the tensors of a file; raises UserError where they do not fit."""
    stored = read_checkpoint(path)
    original = build(name, classes)
    head = _head(original)
    found = stored.get(f"{head}.weight")
    if found is not None and found.shape[0] != original.state_dict()[f"{head}.weight"].shape[0]:
        if classes is not None:
            raise UserError(f"{path} has {found.shape[0]} classes, not the {classes} asked for")
        original = build(name, found.shape[0])
    fill(original, stored, str(path), name)
    return original


def fill(original: nn.Module, stored: Mapping[str, Tensor], source: str, name: str) -> None:
    """Put tensors into a network.

    Args:
        original: changed in place.
        stored: every tensor of it by name.
        source: where they come from, for the error.
        name: of the network, for the error.

    Raises:
        UserError: some are missing, unknown or of another shape.
    """
    expected = original.state_dict()
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        raise UserError(
            f"{source} is not a checkpoint of {name}: " + _listed("lacks", missing) + _listed("has unknown", unknown)
        )
    for key, tensor in stored.items():
        if tensor.shape != expected[key].shape:
            raise UserError(
                f"{source} is not a checkpoint of {name}: {key} is {tuple(tensor.shape)}, not {tuple(expected[key].shape)}"
            )
    original.load_state_dict(dict(stored), strict=False)


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


def _head(network: nn.Module) -> str:
    """Name of the last linear layer, which is the classifier in every classification network we know."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else ""


def _listed(word: str, names: list[str]) -> str:
    return f"it {word} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}; " if names else ""
