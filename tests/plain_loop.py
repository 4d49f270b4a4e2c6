"""The slow reference: the original torchvision module with ``conv.stride`` and friends set by hand, over and over.

Written apart from ``dynamic/`` and sharing no code with it; the benchmarks time it too.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic import Configuration


class InsertZeros(nn.Module):
    """A zero after every pixel, in both directions."""

    def forward(self, x: Tensor) -> Tensor:
        spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        spread[:, :, ::2, ::2] = x
        return spread


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class ClippedPool(nn.Module):
    """A pool whose window shrinks to the feature map."""

    keeps_ceil_mode = True

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, stride: int) -> None:
        super().__init__()
        self.pool = pool
        self.kernel, self.padding = (
            value[0] if isinstance(value, tuple) else value for value in (pool.kernel_size, pool.padding)
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        kernel = min(self.kernel, x.shape[-1] + 2 * self.padding)
        pool = copy.copy(self.pool)
        pool.kernel_size, pool.stride = kernel, self.stride
        pool.ceil_mode = pool.ceil_mode and self.keeps_ceil_mode
        return pool(x)


def replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)


class Crop(nn.Module):
    """Leaves out a border."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.pixels : x.shape[2] - self.pixels, self.pixels : x.shape[3] - self.pixels]


def set_convolution(
    root: nn.Module, name: str, stride: float, dilation: int, size: int, *, pads_itself: bool = False
) -> None:
    conv = root.get_submodule(name)
    native = conv.kernel_size[0]
    centred = conv.dilation[0] * (native // 2)
    built = {"same": centred, "valid": 0}[conv.padding] if isinstance(conv.padding, str) else conv.padding[0]
    beyond_centred = 0 if pads_itself else built - centred
    parts: list[nn.Module] = [conv]
    if size != native:
        conv.weight = nn.Parameter(
            F.interpolate(conv.weight.detach(), size=(size, size), mode="bilinear"), requires_grad=False
        )
        parts.append(Scale(native**2 / size**2))
    conv.kernel_size, conv.dilation, conv.stride = (size, size), (dilation, dilation), (int(max(stride, 1)),) * 2
    if not pads_itself:
        padding = dilation * (size // 2) + (0 if stride == 0.5 else beyond_centred)
        if padding < 0:
            parts.insert(0, Crop(-padding))
        conv.padding = (max(padding, 0),) * 2
        conv._reversed_padding_repeated_twice = [max(padding, 0)] * 4  # what torch pads with in modes other than zeros
    if stride == 0.5:
        parts.insert(0, InsertZeros())
    if len(parts) > 1:
        replace(root, name, nn.Sequential(*parts))


def set_pool(root: nn.Module, name: str, stride: float) -> None:
    pool = root.get_submodule(name)
    if stride == 0.5:  # a 2 x 2 window over gaps holds one pixel, so their average is that pixel
        assert isinstance(pool, nn.AvgPool2d)
        assert pool.kernel_size == 2
        replace(root, name, nn.Upsample(scale_factor=2, mode="nearest"))
    else:
        replace(root, name, ClippedPool(pool, int(stride)))


class PlainLoop:
    """One of the paper's four networks, set to one configuration after the other.

    Args:
        original: a torchvision network, full size or slim; copied.
        name: which architecture.
        stem: of a ResNet, whether its first convolution is a layer before the four.
    """

    def __init__(self, original: nn.Module, name: str, stem: bool = False) -> None:
        self.network = copy.deepcopy(original).eval()
        self.name, self.stem = name, ["conv1"] if stem else []
        self._pristine = {site: self.network.get_submodule(site) for site in [*self.stem, *self._sites()]}

    def _sites(self) -> list[str]:
        if self.name.startswith(("resnet", "resnext")):
            return [f"layer{stage}.0.{part}" for stage in (1, 2, 3, 4) for part in ("conv2", "downsample.0")]
        if self.name.startswith("mobilenet"):
            return [f"features.{block}.conv.1.0" for block in (2, 4, 7, 14)]
        pools = ["features.pool0", *(f"features.transition{block}.pool" for block in (1, 2, 3))]
        return [name for i, pool in enumerate(pools) for name in (pool, f"features.denseblock{i + 1}.denselayer1.conv2")]

    def set(self, configuration: Configuration) -> nn.Module:
        """The network, running ``configuration`` and nothing else."""
        for site, module in self._pristine.items():
            fresh = copy.copy(module)
            fresh._parameters = dict(module._parameters)  # a shallow copy would share the dictionary
            replace(self.network, site, fresh)
        options = list(zip(configuration.stride, configuration.dilation, configuration.kernel_size, strict=True))
        for name in self.stem:
            set_convolution(self.network, name, *options.pop(0))
        sites = self._sites()
        for layer, (stride, dilation, size) in enumerate(options):
            if self.name.startswith(("resnet", "resnext")):
                set_convolution(self.network, sites[2 * layer], stride, dilation, size)
                set_convolution(self.network, sites[2 * layer + 1], stride, 1, 1)
            elif self.name.startswith("mobilenet"):
                set_convolution(self.network, sites[layer], stride, dilation, size)
            else:
                set_pool(self.network, sites[2 * layer], stride)
                set_convolution(self.network, sites[2 * layer + 1], 1, dilation, size)
        return self.network


class GappedPool(nn.Module):
    """A pool at stride 1/2: gaps, which are NaN here, count neither for the maximum nor for the average."""

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d) -> None:
        super().__init__()
        self.is_max, self.window = isinstance(pool, nn.MaxPool2d), max(pool.kernel_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        before, after = self.window // 2, self.window - 1 - self.window // 2
        spread = x.new_full((*x.shape[:2], height + before + after, width + before + after), float("nan"))
        spread[:, :, before : before + height : 2, before : before + width : 2] = x
        windows = spread.unfold(2, self.window, 1).unfold(3, self.window, 1).flatten(4)
        return windows.nan_to_num(nan=float("-inf")).amax(4) if self.is_max else windows.nanmean(4)


class FollowingPool(ClippedPool):
    """A pool that makes ceil(side / stride) windows, on a border repeated as far as its last window needs."""

    keeps_ceil_mode = False

    def forward(self, x: Tensor) -> Tensor:
        pixels = tuple(x.shape[2:])
        sides = [-(-side // self.stride) for side in pixels]
        kernel = min(self.kernel, pixels[-1] + 2 * self.padding)
        reach = [(count - 1) * self.stride + kernel - 2 * self.padding for count in sides]
        needed = [max(far - side, 0) for far, side in zip(reach, pixels, strict=True)]
        x = torch.cat([x] + [x[:, :, -1:]] * needed[0], dim=2)
        x = torch.cat([x] + [x[..., -1:]] * needed[1], dim=3)
        return super().forward(x)[:, :, : sides[0], : sides[1]]


class SitesLoop:
    """Any network, the modules of its dynamic layers set to one configuration after the other.

    Args:
        original: copied.
        sites: for every module that takes options: its name, its layer, the attributes that it takes from the configuration,
            and whether it must make maps as large as a convolution beside it.
        pads_itself: names of convolutions that work out their padding in their forward.
    """

    def __init__(
        self,
        original: nn.Module,
        sites: list[tuple[str, int, tuple[str, ...], bool]],
        pads_itself: frozenset[str] = frozenset(),
    ) -> None:
        self.original, self.sites, self.pads_itself = original, sites, pads_itself

    def set(self, configuration: Configuration) -> nn.Module:
        """A copy of the network that runs ``configuration`` and nothing else."""
        network = copy.deepcopy(self.original).eval()
        for name, layer, attributes, follows in self.sites:
            module = network.get_submodule(name)
            option = {attribute: getattr(configuration, attribute)[layer] for attribute in attributes}
            if isinstance(module, nn.Conv2d):
                stride, dilation, size = (
                    option.get(key, getattr(module, key)[0]) for key in ("stride", "dilation", "kernel_size")
                )
                set_convolution(network, name, stride, dilation, size, pads_itself=name in self.pads_itself)
            elif option["stride"] == 0.5:
                replace(network, name, GappedPool(module))
            else:
                kind = FollowingPool if follows and option["stride"] != module.stride else ClippedPool
                replace(network, name, kind(module, int(option["stride"])))
        return network


@torch.inference_mode()
def plain_loop(original: nn.Module, name: str, configurations: list[Configuration], images: Tensor) -> Tensor:
    """Logits (configurations, images, classes), nothing shared. Five layers of a ResNet are its stem and the paper's."""
    loop = PlainLoop(original, name, stem=len(configurations[0].stride) == 5)
    return torch.stack([loop.set(configuration)(images) for configuration in configurations])
