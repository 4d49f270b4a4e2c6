"""Configurations: one option of stride, dilation and kernel size for each dynamic layer, and ordered spaces of them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args, overload

from dynamic.errors import UserError

Attribute = Literal["stride", "dilation", "kernel_size"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)

MAX_LAYERS = 6
MAX_CONFIGURATIONS = 500_000

STRIDES = (1, 2, 3, 4)
STRIDES_FROM_C = (0.5, *STRIDES)
"""Layers A and B never run at stride 1/2 (paper, section 3.3)."""
DILATIONS = (1, 2, 3, 4, 5)
KERNEL_SIZES = (1, 3, 5, 7, 9)


@dataclass(frozen=True, order=True)
class Configuration:
    """One option for each dynamic layer, from input to output; hashable, and ordered by stride, dilation, kernel size.

    Args:
        stride: 0.5 or a positive integer a layer.
        dilation: a positive integer a layer.
        kernel_size: an odd positive integer a layer (a layer without a kernel of its own carries the one it was built with).

    Raises:
        UserError: an option out of range, or tuples of different lengths.

    >>> Configuration((1, 2, 2, 0.5), (1, 1, 1, 1), (3, 3, 3, 3)).id
    's1-2-2-0.5_d1-1-1-1_k3-3-3-3'
    """

    stride: tuple[float, ...]
    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.stride) <= MAX_LAYERS or not len(self.stride) == len(self.dilation) == len(self.kernel_size):
            lengths = ", ".join(f"{len(getattr(self, name))} of {name}" for name in ATTRIBUTES)
            raise UserError(f"a configuration has one to {MAX_LAYERS} layers, each with all three options; got {lengths}")
        for name, right in (("stride", "0.5 or 1, 2, 3, …"), ("dilation", "1, 2, 3, …"), ("kernel_size", "1, 2, 3, …")):
            options = getattr(self, name)
            if not all(
                (option == 0.5 and name == "stride") or (option >= 1 and float(option).is_integer()) for option in options
            ):
                raise UserError(f"{name} options {options} of a configuration: each must be {right}")
            object.__setattr__(self, name, tuple(option if option == 0.5 else int(option) for option in options))

    def __str__(self) -> str:
        return self.id

    @cached_property
    def id(self) -> str:
        """Stable name, the same in every space, for every network and resolution."""
        return "_".join(f"{name[0]}{'-'.join(map(str, getattr(self, name)))}" for name in ATTRIBUTES)

    @classmethod
    def parse(cls, text: str) -> Configuration:
        """Read an id back. Raises UserError where ``text`` is none."""
        match = re.fullmatch(r"s((?:0\.5|\d+)(?:-(?:0\.5|\d+))*)_d(\d+(?:-\d+)*)_k(\d+(?:-\d+)*)", text)
        if match is None:
            raise UserError(f"{text!r} is not a configuration id; one looks like s1-2-2-0.5_d1-1-1-1_k3-3-3-3")
        stride, dilation, kernel_size = (tuple(map(float, group.split("-"))) for group in match.groups())
        return cls(stride, tuple(map(int, dilation)), tuple(map(int, kernel_size)))


class Space(Sequence[Configuration]):
    """The ordered list of configurations that a study runs; no configuration is in it twice.

    Order is the configurations' own order, so that "lower id" means "earlier in the space".
    """

    def __init__(self, name: str, configurations: Iterable[Configuration]) -> None:
        self.name = name
        self._configurations = tuple(sorted(set(configurations)))
        if not self._configurations:
            raise UserError(f"the configuration space {name!r} is empty")
        if len({len(configuration.stride) for configuration in self._configurations}) > 1:
            raise UserError(f"the configuration space {name!r} mixes configurations of different numbers of layers")

    @overload
    def __getitem__(self, index: int) -> Configuration: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Configuration]: ...
    def __getitem__(self, index: int | slice) -> Configuration | Sequence[Configuration]:
        return self._configurations[index]

    def __len__(self) -> int:
        return len(self._configurations)

    def __iter__(self) -> Iterator[Configuration]:
        return iter(self._configurations)

    def __repr__(self) -> str:
        return f"Space({self.name!r}, {len(self)} configurations)"

    @cached_property
    def ids(self) -> list[str]:
        """The id of every configuration, in order."""
        return [configuration.id for configuration in self]

    @property
    def digest(self) -> str:
        """Short hash of the ordered ids."""
        return sha256("\n".join(self.ids).encode()).hexdigest()[:16]


# The paper runs 361 of the 400 stride configurations and gives no rule beyond memory. We leave out the 39 that cost most
# MACs on the full ResNet-50 at 224 x 224 (tests/dynamic/test_configuration.py derives them), for every network.
_COSTLIEST_STRIDES = frozenset(
    tuple(map(float, strides.split("-")))
    for strides in """
    1-1-0.5-0.5 1-1-0.5-1 1-1-0.5-2 1-1-0.5-3 1-1-0.5-4 1-1-1-0.5 1-1-1-1 1-1-1-2 1-1-1-3 1-1-1-4 1-1-2-0.5 1-1-2-1
    1-1-3-0.5 1-2-0.5-0.5 1-2-0.5-1 1-2-0.5-2 1-2-0.5-3 1-2-0.5-4 1-2-1-0.5 1-2-1-1 1-3-0.5-0.5 1-3-0.5-1 1-3-1-0.5
    1-4-0.5-0.5 1-4-0.5-1 2-1-0.5-0.5 2-1-0.5-1 2-1-0.5-2 2-1-0.5-3 2-1-0.5-4 2-1-1-0.5 2-1-1-1 2-2-0.5-0.5
    2-3-0.5-0.5 3-1-0.5-0.5 3-1-0.5-1 3-1-1-0.5 3-2-0.5-0.5 4-1-0.5-0.5
    """.split()
)


def named_options(name: str, layers: int) -> list[dict[Attribute, tuple[float, ...]]]:
    """The combinations of options that a space's name stands for; attributes it does not vary are missing.

    Raises:
        UserError: an unknown name.
    """
    strides = [STRIDES if layer < 2 else STRIDES_FROM_C for layer in range(layers)]
    match name:
        case "stride":
            return [{"stride": options} for options in itertools.product(*strides) if options not in _COSTLIEST_STRIDES]
        case "stride-all":
            return [{"stride": options} for options in itertools.product(*strides)]
        case "dilation":
            return [{"dilation": options} for options in itertools.product(DILATIONS, repeat=layers)]
        case "size":
            return [{"kernel_size": options} for options in itertools.product(KERNEL_SIZES, repeat=layers)]
        case "efficiency":
            sizes = list(itertools.product((1, 3), repeat=layers))
            return [
                {"stride": stride, "kernel_size": size}
                for stride in itertools.product(STRIDES, repeat=layers)
                for size in sizes
            ]
    raise UserError(
        f"unknown configuration space {name!r}: choose from {', '.join(SPACES)}, join two with +, or name a file"
    )


SPACES = ("stride", "stride-all", "dilation", "size", "efficiency")


def make_space(name: str, default: Configuration) -> Space:
    """The configuration space called ``name`` for a network whose default configuration is ``default``.

    Args:
        name: one of :data:`SPACES`; several joined by ``+`` for all their combinations (each attribute once); or a file.
            The file is JSON: a list of configuration ids, or options per attribute and layer, of which all combinations
            are run: ``{"stride": [[1, 2], [1, 2], [2], [2]], "dilation": [[1], [1], [1, 2], [1, 2]]}``.
        default: gives the options of the attributes that the space does not vary.

    Raises:
        UserError: unknown name, unreadable file, options out of range, or more than 500,000 configurations.
    """
    if Path(name).suffix:
        if Path(name).stem in SPACES:
            raise UserError(f"rename {name}: {Path(name).stem!r} is the name of a space that is defined already")
        return _space_from_file(Path(name), default)
    parts = [named_options(part, len(default.stride)) for part in name.split("+")]
    varied = [attribute for part in parts for attribute in part[0]]
    if len(set(varied)) < len(varied):
        raise UserError(f"{name!r} varies {', '.join(sorted({a for a in varied if varied.count(a) > 1}))} twice")
    _check_count(name, [len(part) for part in parts])
    combined = (dict(item for options in chosen for item in options.items()) for chosen in itertools.product(*parts))
    return Space(name, [_with_options(default, options) for options in combined])


def _with_options(default: Configuration, options: Mapping[Attribute, tuple[float, ...]]) -> Configuration:
    return replace(default, **options)  # type: ignore[arg-type]


def _check_count(name: str, counts: Sequence[int]) -> None:
    total = 1
    for count in counts:
        total *= count
    if total > MAX_CONFIGURATIONS:
        raise UserError(
            f"the space {name!r} has {total:,} configurations, more than {MAX_CONFIGURATIONS:,}: "
            "list the ones you want in a file (--space FILE.json)"
        )


def _space_from_file(path: Path, default: Configuration) -> Space:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the configuration space {path}: {error}") from error
    layers = len(default.stride)
    if isinstance(content, list) and all(isinstance(item, str) for item in content):
        space = Space(path.stem, map(Configuration.parse, content))
        if len(space[0].stride) != layers:
            raise UserError(f"{path} configures {len(space[0].stride)} layers, the network has {layers}")
        return space
    if isinstance(content, dict) and content and set(content) <= set(ATTRIBUTES):
        for attribute, options in content.items():
            right = isinstance(options, list) and len(options) == layers and all(isinstance(o, list) and o for o in options)
            if not right or not all(isinstance(v, int | float) for o in options for v in o):
                raise UserError(
                    f"{path}: {attribute} must be a list of {layers} lists of options, one for each dynamic layer"
                )
        per_attribute = {attribute: list(itertools.product(*options)) for attribute, options in content.items()}
        _check_count(path.name, [len(options) for options in per_attribute.values()])
        combined = (dict(zip(per_attribute, chosen, strict=True)) for chosen in itertools.product(*per_attribute.values()))
        return Space(path.stem, [_with_options(default, options) for options in combined])
    raise UserError(f"{path} must hold a list of configuration ids, or lists of options by {', '.join(ATTRIBUTES)}")
