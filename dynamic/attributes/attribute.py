"""What an attribute must say of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from dynamic.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["convolution", "pool", "follower"]
"""Of a dynamic layer's modules: its convolution, its pool, and what beside them must make maps of the same size."""

DECIMAL = r"\d+(?:\.\d+)?"
"""An option as ids write it."""


class Call(NamedTuple):
    """The numbers a convolution or pool is called with; ``gaps``: with a gap after every pixel of its input."""

    stride: int = 1
    dilation: int = 1
    gaps: bool = False


class Kernel(NamedTuple):
    """A kernel (out, in, k, k), and the factor of the output (bias included) that goes with it."""

    weight: Tensor
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribute:
    """One attribute of dynamic layers. A module of this package, or a file of one's own, defines one as ``ATTRIBUTE``.

    Options are numbers that are not negative. What a network was built with is what it does as it was loaded; an attribute
    that no module is built with, such as a rotation, has one option at which nothing changes, its ``neutral``.

    Attributes:
        name: key in spaces and columns: lower-case letters and ``_``.
        letter: stands before its options in ids. Those of one's own appear only where an option is not the neutral one.
        word: in tables.
        right: which options are right, for error messages.
        valid: whether an option is.
        fractions: whether an option may be a fraction.
        neutral: the option of layers that it has no part in.
        built: of this package's: the option that a convolution or pool was built with. All are built neutral under others.
        taken_by: kinds of modules whose options it chooses.
        call: the numbers of a call under an option; unchanged unless given.
        kernel: the kernel under an option, from the one built; called for other options than the built one only. Kernels of
            frozen weights are kept.
        spaces: by name of a space, the combinations of options of so many layers that it varies.
        order: of this package's: the order in which they act, and in which configurations are sorted; one's own come after
            them, by name.

    Raises:
        UserError: a name or letter that cannot be in an id.
    """

    name: str
    letter: str
    right: str
    valid: Callable[[float], bool]
    word: str = ""
    fractions: bool = False
    neutral: float = 1
    built: Callable[[nn.Module], float] | None = None
    taken_by: frozenset[Kind] = frozenset({"convolution"})
    call: Callable[[Call, float], Call] | None = None
    kernel: Callable[[Tensor, float], Kernel] | None = None
    spaces: Mapping[str, Callable[[int], list[tuple[float, ...]]]] = field(default_factory=dict)
    order: int = 100

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z_]*", self.name) or not re.fullmatch("[a-z]", self.letter):
            raise UserError(
                f"attribute {self.name!r}, {self.letter!r}: a name has lower-case letters and _, a letter is one of them"
            )
        object.__setattr__(self, "word", self.word or self.name.replace("_", " "))

    def built_option(self, module: nn.Module) -> float:
        """What ``module`` was built with."""
        return self.neutral if self.built is None else self.built(module)

    @lru_cache(maxsize=10_000)  # noqa: B019 (attributes stay as long as the process)
    def checked(self, options: tuple[float, ...]) -> tuple[float, ...]:
        """The options of a configuration's layers, whole numbers as integers. Raises UserError where one is not right."""
        if not all(re.fullmatch(DECIMAL, str(option)) and self.valid(option) for option in options):
            raise UserError(f"{self.name} options {options} of a configuration: each must be {self.right}")
        return tuple(whole(option) for option in options)


def whole(option: float) -> float:
    """Whole numbers as integers, which ids write without a point."""
    return int(option) if option == int(option) else option


def side(value: int | tuple[int, ...]) -> int:
    """Of a square setting, as modules have it."""
    return value[0] if isinstance(value, tuple) else value
