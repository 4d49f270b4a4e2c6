"""The slim ResNet-50, narrower: what people would train and deploy instead of choosing among configurations.

python -m dynamic.train --model benchmarks/narrow.py:two_fifths --epochs 16 --out trained/narrow
"""

from __future__ import annotations

from torch import nn

from dynamic.models.slim import SlimResNet


def two_fifths() -> nn.Module:
    """Ten channels in the stem instead of 16: two fifths of the slim ResNet-50's multiply-accumulates."""
    return SlimResNet(width=10)


def one_fifth() -> nn.Module:
    """Seven channels in the stem: a fifth of them."""
    return SlimResNet(width=7)
