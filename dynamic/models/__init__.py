"""Networks by name: what there is, their weights, their dynamic layers."""

from dynamic.models.checkpoints import read_checkpoint
from dynamic.models.loading import LoadedNetwork, ModelInfo, class_names, identity_of, load, restore
from dynamic.models.names import DYNAMIC_LAYERS, SLIM, build, embedded_weights, folder_name, known
from dynamic.models.presets import Pictures
from dynamic.models.settings import NetworkSettings, load_network

__all__ = [
    "DYNAMIC_LAYERS",
    "SLIM",
    "LoadedNetwork",
    "ModelInfo",
    "NetworkSettings",
    "Pictures",
    "build",
    "class_names",
    "embedded_weights",
    "folder_name",
    "identity_of",
    "known",
    "load",
    "load_network",
    "read_checkpoint",
    "restore",
]
