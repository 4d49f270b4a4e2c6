"""Putting the tensors of a checkpoint into a network: names, number of classes, what may be left out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.models.names import Built, build_any


def fitted(name: str, stored: Mapping[str, Tensor], source: str, classes: int | None) -> Built:
    """The network called ``name`` with the tensors of a file; raises UserError where they do not fit."""
    built = build_any(name, classes)
    head = _head(built.original)
    found = stored.get(f"{head}.weight")
    if found is not None and found.shape[0] != built.original.state_dict()[f"{head}.weight"].shape[0]:
        if classes is not None:
            raise UserError(f"{source} has {found.shape[0]} classes, not the {classes} asked for")
        built = build_any(name, found.shape[0])
    fill(built.original, stored, source, name)
    return built


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


def _head(network: nn.Module) -> str:
    """Name of the last linear layer, which is the classifier in every classification network we know."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else ""


def _listed(word: str, names: list[str]) -> str:
    return f"it {word} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}; " if names else ""
