"""Putting the tensors of a checkpoint into a network: what they are called, how many classes, what may be left out."""

from __future__ import annotations

import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.models.names import AUXILIARY, TRANSFORMING, Built, build_any, drop_auxiliary
from dynamic.models.recognising import seems_to_be

_COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
"""Last part of names of tensors that no answer depends on: torch's and profilers' counters."""

_BESIDE = re.compile(
    r"(^|[._])(ema|teacher|momentum|target|criterion|loss|losses|metric|metrics|acc|accuracy)([._]|$)", re.IGNORECASE
)
"""In the names of what training keeps beside a network, before the network's own names."""

_OLD_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
"""Names in the DenseNets' files of 2017, in which a norm was called ``norm.1``; as torchvision's own loading has them."""


def fitted(name: str, stored: Mapping[str, Tensor], source: str, classes: int | None) -> Built:
    """The network called ``name`` with the tensors of a file, whose number of classes is read off them.

    What had to be guessed of names is said on stderr. Counters, batch norms' numbers of batches, auxiliary heads and what
    training keeps beside a network may be missing or left over; nothing else.

    Args:
        name: as for :func:`dynamic.models.names.build`.
        stored: tensors by name.
        source: the file, for people.
        classes: raise UserError where the file has another number; None takes that of the file.

    Raises:
        UserError: tensors are missing, unknown or of another shape; the line names some, and the network that they seem to
            be of.
    """
    built = build_any(name, classes, _last_count(stored))
    found = matched(stored, built.original.state_dict(), source, name)
    auxiliary = drop_auxiliary(name, built.original, found.tensors)
    expected = built.original.state_dict()
    count = _other_count(found.tensors, expected)
    if count is not None:
        if classes is not None:
            raise UserError(f"{source} has {count} classes, not the {classes} asked for")
        if not built.takes_classes:
            made = next(len(expected[key]) for key in expected if _differs(found.tensors, expected, key))
            raise UserError(
                f"{source} has {count} classes, {name} makes {made}: give the function an argument called classes"
            )
        built = build_any(name, count)
        drop_auxiliary(name, built.original, found.tensors)
    fill(built.original, found.tensors, source, name)
    notes = list(found.notes)
    if auxiliary:
        notes.append(f"without auxiliary heads, of which it has none ({', '.join(auxiliary)})")
    if name in TRANSFORMING:
        notes.append("inputs scaled anew in the network (transform_input), as torchvision's weights need")
    if notes:
        print(f"{source}: {'; '.join(notes)}", file=sys.stderr)
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
    expected: Any = original.state_dict()
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        raise UserError(_misfit(stored, source, name, _listed("lacks", missing) + _listed("has unknown", unknown)))
    for key, tensor in stored.items():
        if tensor.shape != expected[key].shape:
            different = f"{key} is {tuple(tensor.shape)}, not {tuple(expected[key].shape)}; "
            raise UserError(_misfit(stored, source, name, different))
    tensors = OrderedDict(stored)
    tensors._metadata = expected._metadata  # type: ignore[attr-defined]  # versions of the modules' formats: today's
    original.load_state_dict(tensors, strict=False)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Tensors of a file under a network's own names.

    Attributes:
        tensors: by name.
        notes: what was guessed or left out, for people.
    """

    tensors: dict[str, Tensor]
    notes: list[str]


def matched(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, name: str) -> Matched:
    """Give the tensors of a file the names that the network has for them.

    Args:
        stored: tensors by name, as the file has them.
        expected: the network's, by name; their shapes are not compared.
        source, name: of file and network, for the error.

    Raises:
        UserError: what there is fits in no way, or in several.
    """
    stored, notes = _present_names(stored, expected), []
    prefix = _prefix(stored, expected, source)
    taken = {key.removeprefix(prefix): key for key in stored if key.startswith(prefix)}
    taken = {ours: theirs for ours, theirs in taken.items() if ours in expected}
    left = [key for key in stored if key not in taken.values() and not _idle(key)]
    beside = [key for key in left if not (prefix and key.startswith(prefix)) and _BESIDE.search(key.rpartition(".")[0])]
    left = [key for key in left if key not in beside]
    if prefix:
        notes.append(f"stripped {prefix!r} from the names")
    lacking = _needed(expected) - taken.keys()
    head = _head(stored, expected, lacking, left)
    if head:
        taken, lacking, left = taken | head, set(), []
        notes.append(f"took {', '.join(head.values())} as {', '.join(head)}")
    if lacking or left:
        different = _listed("lacks", sorted(lacking)) + _listed("has unknown", sorted(left))
        if lacking and lacking == _last_layer(expected):
            different += "its last layer is another: name a function that builds the network, FILE.py:FUNCTION; "
        raise UserError(_misfit(stored, source, name, different))
    if beside:
        notes.append(f"left out {_some(beside)}")
    return Matched(tensors={ours: stored[theirs] for ours, theirs in taken.items()}, notes=notes)


def _present_names(stored: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    if any(_OLD_DENSE.match(key) for key in expected):
        return dict(stored)
    return {_OLD_DENSE.sub(r"\1\2", key): value for key, value in stored.items()}


def _needed(expected: Mapping[str, Tensor]) -> set[str]:
    """The names without which the network is not itself."""
    return {key for key in expected if not _idle(key) and key.partition(".")[0] not in AUXILIARY}


def _prefix(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> str:
    """What stands before the network's names in a file: nothing, or what programs that wrap a network put there."""
    needed = _needed(expected)
    if not needed - stored.keys():
        return ""
    counts: Counter[str] = Counter()
    for key in stored:
        for cut in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
            if key[cut:] in needed:
                counts[key[:cut]] += 1
    most = max(counts.values(), default=0)
    if 2 * most < len(needed):
        return ""  # another network: the error lists its names as they are
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) > 1:
        best = [prefix for prefix in best if not _BESIDE.search(prefix)] or best
    if len(best) > 1:
        raise UserError(
            f"{source} holds several networks ({', '.join(best)}): store the one you want alone with "
            "torch.save(module.state_dict(), 'weights.pth')"
        )
    return best[0]


def _head(
    stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], lacking: set[str], left: list[str]
) -> dict[str, str]:
    """Our names for the tensors of the last layer, and the file's, where what is left over is one layer that fits."""
    theirs = {key.rpartition(".")[0] for key in left}
    if not lacking or lacking != _last_layer(expected) or len(theirs) != 1:
        return {}
    pairs = {ours: f"{next(iter(theirs))}.{ours.rpartition('.')[2]}" for ours in sorted(lacking)}
    if set(pairs.values()) != set(left):
        return {}
    return pairs if all(stored[pairs[ours]].shape[1:] == expected[ours].shape[1:] for ours in pairs) else {}


def _last_layer(expected: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors of the last layer, the classifier in every network we know."""
    last = [key for key, value in expected.items() if value.ndim > 1 and key.partition(".")[0] not in AUXILIARY]
    return {key for key in expected if last and key.rpartition(".")[0] == last[-1].rpartition(".")[0]}


def _idle(key: str) -> bool:
    return key.rpartition(".")[2] in _COUNTERS


def _differs(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], key: str) -> bool:
    return key in stored and stored[key].shape != expected[key].shape


def _other_count(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int | None:
    """The number of classes that would make all shapes fit; None where they do, or no number would."""
    different = [key for key in expected if _differs(stored, expected, key)]
    if any(
        stored[key].ndim == 0 or expected[key].ndim == 0 or stored[key].shape[1:] != expected[key].shape[1:]
        for key in different
    ):
        return None
    theirs, ours = {len(stored[key]) for key in different}, {len(expected[key]) for key in different}
    return theirs.pop() if len(theirs) == len(ours) == 1 else None


def _last_count(stored: Mapping[str, Tensor]) -> int | None:
    """The first side of the last kernel or matrix: most often the number of classes."""
    return next((len(value) for value in reversed(list(stored.values())) if value.ndim > 1), None)


def _misfit(stored: Mapping[str, Tensor], source: str, name: str, different: str) -> str:
    other = seems_to_be(stored)
    likely = f"it seems to be one of {other}" if other is not None and other != name else ""
    return f"{source} is not a checkpoint of {name}: {different}{likely}".removesuffix("; ")


def _listed(word: str, names: list[str]) -> str:
    return f"it {word} {_some(names)}; " if names else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
