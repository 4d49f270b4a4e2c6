"""Configurations: one option of every attribute for each dynamic layer, and ordered spaces of them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import overload

from dynamic.attributes.attribute import DECIMAL
from dynamic.attributes.registry import attributes, built_in, digest_of
from dynamic.errors import UserError

MAX_LAYERS = 6
MAX_CONFIGURATIONS = 500_000

_OPTIONS = f"{DECIMAL}(?:-{DECIMAL})*"
_ID = re.compile(rf"s({_OPTIONS})_d({_OPTIONS})_k({_OPTIONS})((?:_[a-z]{_OPTIONS})*)")

Further = tuple[tuple[str, tuple[float, ...]], ...]
"""Options of attributes of one's own, by name."""


@dataclass(frozen=True, order=True)
class Configuration:
    """One option for each dynamic layer, from input to output; hashable, and ordered by stride, dilation, kernel size.

    Args:
        stride: 0.5 or a positive integer a layer.
        dilation: a positive integer a layer.
        kernel_size: an odd positive integer a layer (a layer without a kernel of its own carries the one it was built with).
        further: of attributes of one's own, in their order; those that are neutral in all layers are left out.

    Raises:
        UserError: an option out of range, or tuples of different lengths.

    >>> Configuration((1, 2, 2, 0.5), (1, 1, 1, 1), (3, 3, 3, 3)).id
    's1-2-2-0.5_d1-1-1-1_k3-3-3-3'
    """

    stride: tuple[float, ...]
    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]
    further: Further = ()

    def __post_init__(self) -> None:
        known = attributes()
        options = {name: tuple(getattr(self, name)) for name in built_in()} | {name: tuple(o) for name, o in self.further}
        unknown = ", ".join(options.keys() - known.keys())
        if unknown:
            raise UserError(f"no attribute is called {unknown}: register its file first (--attributes FILE.py)")
        if not 1 <= len(self.stride) <= MAX_LAYERS or len(set(map(len, options.values()))) > 1:
            lengths = ", ".join(f"{len(chosen)} of {name}" for name, chosen in options.items())
            raise UserError(f"a configuration has one to {MAX_LAYERS} layers, each with an option of all; got {lengths}")
        for name in built_in():
            object.__setattr__(self, name, known[name].checked(options[name]))
        own = ((name, known[name].checked(options[name])) for name in known if name in options and name not in built_in())
        further = tuple((name, chosen) for name, chosen in own if set(chosen) != {known[name].neutral})
        object.__setattr__(self, "further", further)

    @classmethod
    def of(cls, options: Mapping[str, tuple[float, ...]]) -> Configuration:
        """From the options of attributes by name: all of this package's, and any of one's own."""
        further = tuple((name, chosen) for name, chosen in options.items() if name not in built_in())
        return cls(**{name: options[name] for name in built_in()}, further=further)  # type: ignore[arg-type]

    def options(self, attribute: str) -> tuple[float, ...]:
        """The options of one attribute, one a layer.

        >>> Configuration((1, 2), (1, 1), (3, 3)).options("kernel_size")
        (3, 3)
        """
        if attribute in built_in():
            chosen: tuple[float, ...] = getattr(self, attribute)
            return chosen
        return dict(self.further).get(attribute, (attributes()[attribute].neutral,) * len(self.stride))

    def changed(self, options: Mapping[str, tuple[float, ...]]) -> Configuration:
        """With other options of some attributes."""
        return self.of({name: self.options(name) for name in attributes()} | dict(options))

    def __str__(self) -> str:
        return self.id

    @cached_property
    def id(self) -> str:
        """Stable name, the same in every space, for every network and resolution."""
        named = [(name, self.options(name)) for name in built_in()] + list(self.further)
        return "_".join(f"{attributes()[name].letter}{'-'.join(map(str, chosen))}" for name, chosen in named)

    @classmethod
    def parse(cls, text: str) -> Configuration:
        """Read an id back. Raises UserError where ``text`` is none."""
        match = _ID.fullmatch(text)
        if match is None:
            raise UserError(f"{text!r} is not a configuration id; one looks like s1-2-2-0.5_d1-1-1-1_k3-3-3-3")
        named = {attribute.letter: name for name, attribute in attributes().items()}
        options: dict[str, tuple[float, ...]] = {}
        for part in text.split("_"):
            if part[0] not in named:
                raise UserError(f"{text!r}: no attribute has the letter {part[0]!r}: name its file (--attributes FILE.py)")
            if named[part[0]] in options:
                raise UserError(f"{text!r} is not a configuration id: it has {part[0]!r} twice")
            options[named[part[0]]] = tuple(map(float, part[1:].split("-")))
        return cls.of(options)


def own_attributes(configurations: Iterable[Configuration]) -> list[str]:
    """Names of the attributes of one's own that configurations use, in order."""
    used = {name for configuration in configurations for name, _ in configuration.further}
    return [name for name in attributes() if name in used]


def identity_of_attributes(configurations: Iterable[Configuration]) -> dict[str, str]:
    """What must agree of them for a run to go on: the files of those that are used; nothing where none is."""
    used = own_attributes(configurations)
    return {"attributes": ", ".join(f"{name} {digest_of(name)}" for name in used)} if used else {}


def varied(configurations: Iterable[Configuration]) -> list[str]:
    """Names of the attributes in which configurations differ, in order."""
    configurations = list(configurations)
    return [name for name in attributes() if len({c.options(name) for c in configurations}) > 1]


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


def space_names() -> list[str]:
    """Names that spaces go by, each attribute's after another's.

    >>> space_names()[:5]
    ['stride', 'stride-all', 'efficiency', 'dilation', 'size']
    """
    return list(dict.fromkeys(name for attribute in attributes().values() for name in attribute.spaces))


def named_options(name: str, layers: int) -> list[dict[str, tuple[float, ...]]]:
    """The combinations of options that a space's name stands for; attributes it does not vary are missing.

    Raises:
        UserError: an unknown name.
    """
    varied = {key: attribute.spaces[name](layers) for key, attribute in attributes().items() if name in attribute.spaces}
    if not varied:
        raise UserError(
            f"unknown configuration space {name!r}: choose from {', '.join(space_names())}, join two with +, or name a file"
        )
    return [dict(zip(varied, chosen, strict=True)) for chosen in itertools.product(*varied.values())]


STATIC = "default"
"""Name of the space that is the default configuration alone."""


def make_space(name: str, default: Configuration) -> Space:
    """The configuration space called ``name`` for a network whose default configuration is ``default``.

    Args:
        name: one of :func:`space_names`; several joined by ``+`` for all their combinations (each attribute once);
            ``default`` for the default alone, the network run statically; or a file. The file is JSON: a list of
            configuration ids, or options per attribute and layer, of which all combinations are run:
            ``{"stride": [[1, 2], [1, 2], [2], [2]], "dilation": [[1], [1], [1, 2], [1, 2]]}``.
        default: gives the options of the attributes that the space does not vary.

    Raises:
        UserError: unknown name, unreadable file, options out of range, or more than 500,000 configurations.
    """
    if Path(name).suffix:
        if Path(name).stem in space_names():
            raise UserError(f"rename {name}: {Path(name).stem!r} is the name of a space that is defined already")
        return _space_from_file(Path(name), default)
    if name == STATIC:
        return Space(name, [default])
    parts = [named_options(part, len(default.stride)) for part in name.split("+")]
    varied = [attribute for part in parts for attribute in part[0]]
    if len(set(varied)) < len(varied):
        raise UserError(f"{name!r} varies {', '.join(sorted({a for a in varied if varied.count(a) > 1}))} twice")
    _check_count(name, [len(part) for part in parts])
    combined = (dict(item for options in chosen for item in options.items()) for chosen in itertools.product(*parts))
    return Space(name, [default.changed(options) for options in combined])


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
    if isinstance(content, dict) and content and set(content) <= set(attributes()):
        for attribute, options in content.items():
            right = isinstance(options, list) and len(options) == layers and all(isinstance(o, list) and o for o in options)
            if not right or not all(isinstance(v, int | float) for o in options for v in o):
                raise UserError(
                    f"{path}: {attribute} must be a list of {layers} lists of options, one for each dynamic layer"
                )
        per_attribute = {attribute: list(itertools.product(*options)) for attribute, options in content.items()}
        _check_count(path.name, [len(options) for options in per_attribute.values()])
        combined = (dict(zip(per_attribute, chosen, strict=True)) for chosen in itertools.product(*per_attribute.values()))
        return Space(path.stem, [default.changed(options) for options in combined])
    raise UserError(
        f"{path} must hold a list of configuration ids, or lists of options by {', '.join(attributes())}"
        " (another attribute: --attributes FILE.py)"
    )
