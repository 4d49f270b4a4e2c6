"""What one module of a dynamic layer runs with, and what that makes of its call and its kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from dynamic.attributes.attribute import Call, Kernel, whole
from dynamic.attributes.registry import attributes, built_in

if TYPE_CHECKING:
    from torch import Tensor, nn

KernelOptions = tuple[tuple[str, float], ...]
"""Options that change a kernel, by attribute, in order."""


class Option(NamedTuple):
    """What one module of a dynamic layer runs with; ``further``: options of attributes of one's own, neutral ones left out.

    >>> Option(2, 1, 3)
    Option(stride=2, dilation=1, kernel_size=3)
    """

    stride: float
    dilation: int
    kernel_size: int
    further: tuple[tuple[str, float], ...] = ()

    def of(self, attribute: str) -> float:
        """The option of one attribute."""
        if attribute in built_in():
            option: float = getattr(self, attribute)
            return option
        return dict(self.further).get(attribute, attributes()[attribute].neutral)

    def changed(self, options: Mapping[str, float]) -> Option:
        """With other options of some attributes."""
        own = {name: options.get(name, self.of(name)) for name in attributes() if name not in built_in()}
        further = tuple((name, whole(option)) for name, option in own.items() if option != attributes()[name].neutral)
        return self._replace(**{name: options[name] for name in built_in() if name in options}, further=further)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        # Digests of statistics hash this text.
        named = [f"{name}={self.of(name)}" for name in built_in()] + [f"{name}={option}" for name, option in self.further]
        return f"Option({', '.join(named)})"


def built_option(module: nn.Module) -> Option:
    """What a convolution or pool was built with."""
    return Option(**{name: attribute.built_option(module) for name, attribute in built_in().items()})  # type: ignore[arg-type]


def call_under(option: Option) -> Call:
    """The numbers that a module is called with."""
    call = Call()
    for name, attribute in attributes().items():
        if attribute.call is not None:
            call = attribute.call(call, option.of(name))
    return call


def kernel_options(option: Option, built: Option) -> KernelOptions:
    """Those of ``option`` under which the kernel is not the one built."""
    return tuple(
        (name, option.of(name))
        for name, attribute in attributes().items()
        if attribute.kernel is not None and option.of(name) != built.of(name)
    )


def kernel_under(weight: Tensor, options: KernelOptions) -> Kernel:
    """What attributes make of the kernel that was built (out, in, k, k), one after the other."""
    kernel = Kernel(weight)
    for name, option in options:
        change = attributes()[name].kernel
        assert change is not None
        made = change(kernel.weight, option)
        kernel = Kernel(made.weight, kernel.scale * made.scale)
    return kernel
