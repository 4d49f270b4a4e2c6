"""Which networks load, and whether they run right: python -m benchmarks.networks --out docs/networks.md

Every classifier of torchvision and thirty CNNs of timm, with random weights and the layers that are proposed for them: the
default against the original, and the engine against the plain loop, which sets the original's modules by hand. What is
refused says why. A line is written as soon as it is known, so that a second call goes on where the first one ended.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import dynamic
from dynamic import Configuration, DynamicNetwork, UserError
from dynamic.command import run_command
from dynamic.layers import DynamicPool2d
from dynamic.preprocessing import Preprocessing
from dynamic.shapes import SIZES
from tests.plain_loop import SitesLoop

TIMM = tuple(
    f"timm/{name}"
    for name in """
    convmixer_768_32 convnextv2_atto cspresnet50 densenetblur121d dla34 dpn68 eca_nfnet_l0 ese_vovnet19b_dw ghostnet_100
    hgnetv2_b0 hrnet_w18_small inception_resnet_v2 inception_v4 mixnet_s mobilenetv3_small_100 mobilenetv4_conv_small
    nasnetalarge pnasnet5large regnety_002 repvgg_a0 res2net50_26w_4s resnest14d resnetv2_50x1_bit rexnet_100 selecsls42
    skresnet18 tf_efficientnet_b0 tf_efficientnetv2_b0 tresnet_m xception41
    """.split()
)
"""One of each family, where there are several a small one."""

TRANSFORMERS = ("vit_", "swin_")
"""How the names of torchvision's classifiers begin that are no CNNs."""

PAD_THEMSELVES = ("Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame")
"""Convolutions of timm's whose forward works out its padding."""

CONFIGURATIONS = 4
"""Beside the default, for each network."""

HEAVY = 150_000_000
"""Parameters of networks that stay as they were made, in float32: three copies of them are in memory at once."""

NOTES = """

## What a trace makes of a network

- Convolutions with a forward of their own (TensorFlow's "same" padding, standardised weights) are dynamic as any other;
  pools with one are not, and what lies beside them keeps its stride.
- timm's `BatchNormAct2d`, a batch norm with its activation, is folded into the convolution before it and recalibrated as a
  plain batch norm is. Other subclasses of `BatchNorm2d` stay whole: exact, not folded, and not recalibrated.
- What torch.fx cannot follow, and modules with hooks, are left whole and run as they are, as long as no dynamic layer lies
  inside; so are modules that enter `torch.autocast` in their forward. Else the network is refused.
- Training runs a trace of its own, made in training mode: dropout, stochastic depth and batch statistics do what they do
  in the original. Of a network that returns auxiliary logits in training, the first output is trained.
- A space leaves out options that a layer cannot change and configurations that do not fit the resolution, and says so. Where
  nothing but the default is left, that is an error.
"""


@dataclass(frozen=True, kw_only=True)
class NetworksSettings:
    """What is tried, and where it goes."""

    out: Path = Path("docs/networks.md")
    """The page."""
    names: str = ""
    """Networks, separated by commas; unless given, all of torchvision's classifiers and thirty of timm's."""
    results: Path = Path("networks.jsonl")
    """One line a network, as soon as it is known; networks that are in it are not tried again."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one network.

    Attributes:
        name: as for :func:`dynamic.load`.
        refused: why it did not load; empty where it did.
        layers: dynamic layers that were proposed.
        fixed: what they cannot vary, such as ``A stride``.
        side: of the images, in pixels.
        exact: the default's logits equal the original's to the last bit.
        tried: configurations that were compared with the plain loop.
        difference: the largest of the engine's logits from the plain loop's, as a share of the logits' range over images and
            configurations.
    """

    name: str
    refused: str = ""
    layers: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    side: int = 0
    exact: bool = False
    tried: int = 0
    difference: float = 0.0

    @property
    def right(self) -> bool:
        """Loaded, exact, and the engine within rounding of the plain loop under at least one other configuration."""
        return not self.refused and self.exact and self.tried > 1 and self.difference < 1e-3


def all_names() -> list[str]:
    """All networks of the table."""
    return [*torchvision.models.list_models(module=torchvision.models), *TIMM]


@torch.inference_mode(False)
def try_network(name: str) -> Outcome:
    """Load a network with random weights and compare it with its original and with the plain loop."""
    torch.manual_seed(0)
    small = pictures(96 if "ception" in name or "nasnet" in name else 64)
    try:
        network: DynamicNetwork = dynamic.load(name, weights=None, preprocessing=small)
    except UserError as error:
        return Outcome(name=name, refused=str(error))
    network.requires_grad_(False)
    layers, fixed = network.dynamic_layers, network.fixed
    side = next(side for side in (64, 96, *SIZES) if network.costs.failure(network.default, side) is None)
    light = sum(parameter.numel() for parameter in network.parameters()) < HEAVY
    if light:
        settle(network.original, torch.randn(4, 3, side, side))
    images = torch.randn(2, 3, side, side)
    exact = torch.equal(network(images, network.default), network.original(images))
    if light:  # random networks so settled magnify rounding: in float64 a wrong pixel is not lost in it
        network, images = DynamicNetwork(network.original.double(), network.dynamic_layers), images.double()
    drawn = draw(network, side)
    expected = plain_logits(network, drawn, images)
    found = torch.full_like(expected, float("nan"))
    for columns, logits in network.comprehensive(images, drawn):
        found[columns] = logits
    differences = [(found - expected).abs().max()]
    for first, second in itertools.pairwise(range(len(drawn))):  # each image under its own
        mixed = network(images, [drawn[first], drawn[second]])
        differences.append((mixed - torch.stack([expected[first, 0], expected[second, 1]])).abs().max())
    # By how much logits differ from image to image and from configuration to configuration: a dead network has no spread.
    spread = (expected.amax(dim=(0, 1)) - expected.amin(dim=(0, 1))).max()
    cannot = tuple(f"{'ABCDEF'[layer]} {attribute}" for layer, attribute in sorted(fixed))
    return Outcome(
        name=name,
        layers=layers,
        fixed=cannot,
        side=side,
        exact=exact,
        tried=len(drawn),
        difference=float(torch.stack(differences).max() / spread),
    )


def pictures(side: int) -> Preprocessing:
    """Small ones; where a network needs others, the check at loading finds them."""
    return Preprocessing(colour="rgb", resize=side, crop=side, mean=(0.5,) * 3, std=(0.5,) * 3)


def settle(original: nn.Module, images: Tensor) -> None:
    """Give batch norms statistics that fit the random weights, so that logits depend on the images."""
    for module in original.modules():  # those alone: auxiliary heads may not fit small images
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = None
    with torch.no_grad():
        original(images)
    original.eval()


def draw(network: DynamicNetwork, side: int) -> list[Configuration]:
    """The default and a few others that fit, as different as they come."""
    stream, found = random.Random(0), [network.default]
    choices = {"stride": (0.5, 1, 2, 3), "dilation": (1, 2, 3), "kernel_size": (1, 3, 5, 7)}
    for _ in range(200):
        options: dict[str, tuple[float, ...]] = {}
        for attribute, values in choices.items():
            built = network.default.options(attribute)
            options[attribute] = tuple(
                built[layer] if (layer, attribute) in network.fixed or stream.random() < 0.5 else stream.choice(values)
                for layer in range(len(built))
            )
        configuration = network.default.changed(options)
        fits = network.objection(configuration) is None and network.costs.failure(configuration, side) is None
        if fits and configuration not in found:
            found.append(configuration)
        if len(found) > CONFIGURATIONS:
            break
    return found


def plain_logits(network: DynamicNetwork, configurations: Sequence[Configuration], images: Tensor) -> Tensor:
    """Logits (configurations, images, classes) of the original with its modules set by hand."""
    sites = [
        (site.name, site.layer, site.attributes, isinstance(site.module, DynamicPool2d) and site.module.follows)
        for site in network.program.sites
    ]
    modules = network.original.named_modules()
    loop = SitesLoop(
        network.original, sites, frozenset(n for n, module in modules if type(module).__name__ in PAD_THEMSELVES)
    )
    return torch.stack([loop.set(configuration)(images) for configuration in configurations])


def page(outcomes: Sequence[Outcome]) -> str:
    """The Markdown page."""
    timm = [outcome for outcome in outcomes if outcome.name.startswith("timm/")]
    transformers = [outcome for outcome in outcomes if outcome.name.startswith(TRANSFORMERS)]
    cnns = [outcome for outcome in outcomes if outcome not in timm and outcome not in transformers]
    right = [sum(outcome.right for outcome in group) for group in (cnns, timm)]
    loaded = [outcome for outcome in outcomes if not outcome.refused]
    refused = [outcome for outcome in outcomes if outcome.refused]
    lines = [
        "# Networks that were tried",
        "",
        f"Made by `python -m benchmarks.networks` with random weights: {right[0]} of {len(cnns)} CNNs of torchvision and "
        f"{right[1]} of {len(timm)} of timm load with the layers that are proposed for them and run right.",
        "",
        "Exact: under the default configuration the logits equal the original's to the last bit. Engine: the largest",
        "difference from the plain loop, which sets the original's modules by hand, as a share of the logits' range, under",
        "so many configurations: together, sharing prefixes, and each of two images under its own. Fixed: what cannot vary.",
        "",
        "| network | side | dynamic layers A, B, … | fixed | exact | engine |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in loaded:
        layers = ", ".join(f"`{layer}`" for layer in outcome.layers)
        engine = f"{outcome.difference:.0e} ({outcome.tried})"
        exact = "yes" if outcome.exact else "**no**"
        fixed = ", ".join(outcome.fixed) or "–"
        lines.append(f"| {outcome.name} | {outcome.side} | {layers} | {fixed} | {exact} | {engine} |")
    lines += ["", "Refused:", "", "| network | why |", "|---|---|"]
    lines += [f"| {outcome.name} | {outcome.refused} |" for outcome in refused]
    return "\n".join(lines) + NOTES


def main(settings: NetworksSettings) -> None:
    """Try what has no line yet, and write the page."""
    warnings.simplefilter("ignore")  # timm's, of names that changed
    names = settings.names.split(",") if settings.names else all_names()
    known: dict[str, Outcome] = {}
    if settings.results.exists():
        for line in settings.results.read_text().splitlines():
            content: Any = json.loads(line)
            lists = {key: tuple(content[key]) for key in ("layers", "fixed")}
            known[content["name"]] = Outcome(**(content | lists))
    for name in names:
        if name not in known:
            known[name] = outcome = try_network(name)
            print(outcome, file=sys.stderr)
            with settings.results.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            gc.collect()
    settings.out.write_text(page([known[name] for name in names]))
    print(f"page: {settings.out}")


if __name__ == "__main__":
    run_command(main, NetworksSettings, __doc__ or "")
