"""Slim networks: torchvision's graphs and layer names at a fraction of the width, for 96-pixel scenes of 10 classes.

They are small stand-ins, trained by ``python -m dynamic.train``; numbers measured on them say nothing about ImageNet.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import DenseNet, MobileNetV2, ResNet
from torchvision.models.resnet import Bottleneck

CLASSES = 10


class SlimResNet(ResNet):
    """torchvision's ResNet with every stage, and the stem, at a quarter of the width.

    Args:
        num_classes: of the last layer.
        width: channels of the stem, 64 at full width; the stages follow.
    """

    def __init__(self, num_classes: int = CLASSES, width: int = 16, **kwargs: Any) -> None:
        self.width = width
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=num_classes, **kwargs)
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(8 * width * Bottleneck.expansion, num_classes)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        if planes == 64:  # the first stage follows the stem
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // 64, blocks, stride, dilate)


def resnet50_slim(num_classes: int = CLASSES) -> nn.Module:
    """ResNet-50 at a quarter of the width: 1.5 M parameters."""
    return SlimResNet(num_classes)


def resnext50_32x4d_slim(num_classes: int = CLASSES) -> nn.Module:
    """ResNeXt-50 at a quarter of the width: 8 groups of 4 channels in the first stage (32 of 4 at full size)."""
    return SlimResNet(num_classes, groups=8, width_per_group=16)


def mobilenet_v2_slim(num_classes: int = CLASSES) -> nn.Module:
    """MobileNetV2 at half of the width: a quarter of this already thin network would be 8 channels wide."""
    return MobileNetV2(num_classes, width_mult=0.5)


def densenet121_slim(num_classes: int = CLASSES) -> nn.Module:
    """DenseNet-121 with growth rate 8 (32 at full size) and a stem of 16 channels (64)."""
    return DenseNet(8, (6, 12, 24, 16), 16, num_classes=num_classes)
