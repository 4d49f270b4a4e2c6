"""Networks by name: what there is, their weights, their dynamic layers."""

from dynamic.models.checkpoints import read_checkpoint
from dynamic.models.loading import LoadedNetwork, ModelInfo, class_names, load, restore
from dynamic.models.names import DYNAMIC_LAYERS, SLIM, build, embedded_weights

__all__ = [
    "DYNAMIC_LAYERS",
    "SLIM",
    "LoadedNetwork",
    "ModelInfo",
    "build",
    "class_names",
    "embedded_weights",
    "load",
    "read_checkpoint",
    "restore",
]
