"""Batch norms of a traced network: which ones it may have, those fused with an activation, and folding into convolutions."""

from __future__ import annotations

import sys

import torch
from torch import fx, nn

from dynamic.errors import UserError
from dynamic.graphs import has_hooks
from dynamic.own_convolution import is_plain


def check_norms(root: fx.GraphModule) -> None:
    """Refuse batch norms without running statistics: the walk would normalise branches together that have to be apart."""
    for node in root.graph.nodes:
        for name, module in root.get_submodule(str(node.target)).named_modules() if node.op == "call_module" else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
                place = ".".join(part for part in (str(node.target), name) if part)
                raise UserError(f"{place} has no running statistics, so every image changes the others' answers")


def norm_alone(module: nn.Module | None) -> bool:
    """Whether a module is a batch norm that does nothing else, so that another way of computing it may take its place."""
    return type(module) is nn.BatchNorm2d and not has_hooks(module)


def split_fused(root: fx.GraphModule) -> None:
    """Put a batch norm and an activation in the place of timm's module that is both; for evaluation.

    They share its tensors and compute the same, to the last bit.
    """
    layers = sys.modules.get("timm.layers")
    if layers is None:
        return
    for node in list(root.graph.nodes):
        fused = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(fused, nn.BatchNorm2d) or type(fused) is not layers.BatchNormAct2d or has_hooks(fused):
            continue
        (source,), name = node.args, f"{node.name}_norm"
        root.add_submodule(name, _norm_of(fused))
        with root.graph.inserting_before(node):
            made = root.graph.call_module(name, (source,))
            for part in ("drop", "act"):
                made = root.graph.call_module(f"{node.target}.{part}", (made,))
        node.replace_all_uses_with(made)
        root.graph.erase_node(node)


def _norm_of(fused: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(fused.num_features, fused.eps, device="meta").eval()
    for name in ("weight", "bias"):
        setattr(norm, name, getattr(fused, name))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(norm, name, getattr(fused, name))
    return norm


def fold(root: fx.GraphModule) -> set[fx.Node]:
    """Fold batch norms into copies of the convolutions before them; return the nodes whose bias is now a shift.

    Only torch.nn's own convolutions: a subclass may do to its weights what a folded norm would not survive.
    """
    folded = set()
    for node in list(root.graph.nodes):
        norm = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not norm_alone(norm):
            continue
        source = node.args[0]
        assert isinstance(source, fx.Node)
        assert isinstance(norm, nn.BatchNorm2d)
        conv = root.get_submodule(str(source.target)) if source.op == "call_module" else None
        if type(conv) is not nn.Conv2d or not is_plain(conv) or has_hooks(conv):
            continue
        if conv.bias is not None or len(source.users) > 1:
            continue
        if sum(other.target in (source.target, f"{source.target}.weight") for other in root.graph.nodes) > 1:
            continue  # called elsewhere too, or its weight is read there, as by a tied layer
        parent, _, name = str(source.target).rpartition(".")
        setattr(root.get_submodule(parent), name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(source)
        root.graph.erase_node(node)
        folded.add(source)
    return folded
