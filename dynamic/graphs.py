"""A module as a graph of torch.fx: what the trace looks into, what it leaves whole, and what it cannot keep.

Convolutions, pools and batch norms stay whole, subclasses with a forward of their own included. So does any other module
that torch.fx cannot follow, or that has hooks, as long as no dynamic layer lies inside: it becomes one step, run as it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from dynamic.errors import UserError
from dynamic.shapes import first_line, in_mode

_WHOLE = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.MaxPool2d, nn.AvgPool2d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def graph_of(network: nn.Module, dynamic_modules: Sequence[str] = (), training: bool = False) -> fx.GraphModule:
    """Trace ``network`` in evaluation mode, or in training mode; its mode afterwards is what it was.

    Args:
        network: its modules are shared with the graph, not copied.
        dynamic_modules: names of modules that no step may swallow.
        training: which mode.

    Raises:
        UserError: torch.fx cannot follow ``forward`` around a dynamic module, or it does what a trace does not keep.
    """
    if has_hooks(network):
        raise UserError(f"{type(network).__name__} itself has hooks, which a traced network would not call: remove them")
    whole: set[str] = set()
    with in_mode(network, training):
        while True:
            tracer = _Tracer(whole, dynamic_modules, training)
            try:
                graph = tracer.trace(network)
            except UserError:
                raise
            except Exception as error:  # whatever a forward raises when it is given proxies
                where = tracer.entered if isinstance(error, _ContextError) else tracer.path[-1]
                if where in whole or not where or tracer.holds_dynamic(where):
                    place = type(network).__name__ + (f" (in {where})" if where else "")
                    raise UserError(f"torch.fx cannot trace {place}: {first_line(error)}") from error
                kind = type(network.get_submodule(where))
                alike = {name for name, module in network.named_modules() if type(module) is kind}
                whole |= {name for name in alike if name and not tracer.holds_dynamic(name)}
            else:
                return fx.GraphModule(tracer.root, graph, type(network).__name__)


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called before or after this module's ``forward`` or its gradient."""
    return any(getattr(module, name) for name in _HOOKS)


class _ContextError(Exception):
    """A forward that enters a context which no graph records."""


class _Tracer(fx.Tracer):
    """Leaves whole what it must, and remembers where it is.

    Args:
        whole: names of modules to leave whole.
        dynamic_modules: names of modules that must be steps of their own.
        training: whether gradients matter.

    Attributes:
        path: names of the modules whose forward is being followed, "" for the network's; where it failed, after an error.
    """

    def __init__(self, whole: set[str], dynamic_modules: Sequence[str], training: bool) -> None:
        super().__init__(autowrap_functions=_library_functions())
        self._names, self._dynamic, self._gradients = whole, dynamic_modules, training
        self.path = [""]
        self._contexts = [self._context()]

    @property
    def entered(self) -> str:
        """The module whose forward changed the context: the innermost one that began in the first context."""
        first = self._contexts[0]
        return [name for name, context in zip(self.path, self._contexts, strict=True) if context == first][-1]

    def holds_dynamic(self, name: str) -> bool:
        """Whether a dynamic module is this one or lies inside."""
        return any(module == name or module.startswith(f"{name}.") for module in self._dynamic)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """What ``forward`` is called with: the images are to be traced, the rest is at its default where it has one."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        parameters = inspect.signature(inspect.unwrap(root_fn)).parameters
        for position, arg in enumerate(args[2:], 2):
            parameter = parameters[str(arg.node.target).lstrip("*")]
            none_passed: dict[Any, Any] = {parameter.VAR_POSITIONAL: (), parameter.VAR_KEYWORD: {}}
            nothing = none_passed.get(parameter.kind, parameter.default)
            if nothing is not parameter.empty:
                args[position] = nothing
                self.graph.erase_node(arg.node)
        return function, args

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if super().is_leaf_module(m, module_qualified_name) or isinstance(m, _WHOLE) or module_qualified_name in self._names:
            return True
        if not has_hooks(m):
            return False
        if self.holds_dynamic(module_qualified_name):
            raise UserError(
                f"{module_qualified_name} has hooks and holds a dynamic layer; "
                "a traced network would not call them: remove them, or name other layers"
            )
        return True

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.path.append(self.path_of_module(m))
        self._contexts.append(self._context())
        made = super().call_module(m, forward, args, kwargs)
        self.path.pop()
        self._contexts.pop()
        return made

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if self._context() != self._contexts[0]:
            raise _ContextError(
                "its forward enters torch.autocast or torch.no_grad, which a trace does not keep; "
                "take that out, and give the network its dtype from outside"
            )
        return super().create_node(*args, **kwargs)

    def _context(self) -> tuple[Any, ...]:
        """What changes the meaning of a step without being one."""
        casts = [torch.get_autocast_dtype(d) if torch.is_autocast_enabled(d) else None for d in ("cpu", "cuda")]
        return (*casts, self._gradients and torch.is_grad_enabled())


def _library_functions() -> tuple[Callable[..., Any], ...]:
    """Functions that timm wants left whole; none where no module can be timm's, as it was not imported."""
    layers = sys.modules.get("timm.layers")
    return () if layers is None else tuple(layers.get_notrace_functions())
