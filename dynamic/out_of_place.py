"""Steps of a traced network that write into their operands, made to work out of place.

What one branch of the walk writes, another may still have to read.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dynamic.errors import UserError

_OUT_OF_PLACE: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


def work_out_of_place(root: fx.GraphModule) -> None:
    """Replace what writes into its operand, which several branches may share, by what makes a new tensor.

    Later readers of the operand read the new tensor instead, as they would have seen the change.
    """
    order = {node: position for position, node in enumerate(root.graph.nodes)}
    for node in root.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"  # the same, but for memory formats that cannot be viewed so
        if not _functional(root, node):
            continue
        changed = node.args[0]
        assert isinstance(changed, fx.Node)
        for reader in list(changed.users):
            if order[reader] > order[node]:
                reader.replace_input_with(changed, node)


def _functional(root: fx.GraphModule, node: fx.Node) -> bool:
    """Make one node work out of place; False where it did already, or where nobody can see that it does not."""
    if node.op == "call_function" and node.target in _OUT_OF_PLACE:
        node.target = _OUT_OF_PLACE[node.target]
        return True
    if node.op == "call_function" and _function_out_of_place(node):
        return True
    target = str(node.target)
    if node.op == "call_method" and target.endswith("_") and not target.endswith("__"):
        node.target = target[:-1]
        return True
    if node.op == "call_module" and getattr(module := root.get_submodule(str(node.target)), "inplace", False):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        made = root.get_submodule(str(source.target)) if source.op == "call_module" else None
        if isinstance(made, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and len(source.users) == 1:
            return False  # the operand is fresh and has no other reader; writing into it saves memory
        separate: Any = copy.copy(module)
        separate.inplace = False
        name = f"{node.name}_out_of_place"
        root.add_submodule(name, separate)
        node.target = name
        return True
    return False


def _function_out_of_place(node: fx.Node) -> bool:
    """Make a function work out of place, such as ``F.relu(x, True)``, ``torch.relu_(x)`` or ``torch.add(x, y, out=x)``."""
    if node.kwargs.get("out") is not None:
        written = node.kwargs["out"]
        if not node.args or written is not node.args[0]:
            raise UserError(f"{node.name} writes into a tensor given as out=: write this step out of place")
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
        return True
    name = getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        homes = (torch, F)
        found = next((getattr(home, name[:-1]) for home in homes if getattr(home, name, None) is node.target), None)
        if found is None:
            raise UserError(f"{node.name} calls {name}, which writes into its operand: write this step out of place")
        node.target = found
        return True
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # built in, without a signature
        return False
    if not bound.arguments.get("inplace"):
        return False
    bound.arguments["inplace"] = False
    node.args, node.kwargs = bound.args, bound.kwargs
    return True


@contextmanager
def watch_writes(root: nn.Module) -> Iterator[list[str]]:
    """While a traced network runs, collect the names of modules with a forward of their own that write into their inputs.

    torch.nn's own are left out: they work out of place already.
    """
    wrote: list[str] = []
    handles = []
    for name, module in root.named_modules():
        if type(module).__module__.startswith(("torch.", "dynamic.")):
            continue
        before: list[int] = []

        def remember(module: nn.Module, inputs: Any, before: list[int] = before) -> None:
            before[:] = _versions(inputs)

        def compare(module: nn.Module, inputs: Any, made: Any, before: list[int] = before, name: str = name) -> None:
            if _versions(inputs) != before:
                wrote.append(name)

        handles += [module.register_forward_pre_hook(remember), module.register_forward_hook(compare)]
    try:
        yield wrote
    finally:
        for handle in handles:
            handle.remove()


def _versions(inputs: Any) -> list[int]:
    return [x._version for x in inputs if isinstance(x, Tensor) and not x.is_inference()]
