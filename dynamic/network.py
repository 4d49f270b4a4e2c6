"""A dynamic network: a pre-trained CNN whose dynamic layers take their options from the call."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor, nn

from dynamic.attributes.registry import attributes
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.layers import DynamicConv2d
from dynamic.macs import CostModel
from dynamic.norms import PrefixNorms, Statistics
from dynamic.out_of_place import watch_writes
from dynamic.packing import pack
from dynamic.tracing import BatchNormMode, Program, trace
from dynamic.variation import stuck_strides
from dynamic.verification import verify
from dynamic.walk import Visit, comprehensive_plan, mixed_plan, walk


class DynamicNetwork(nn.Module):
    """Runs a network under one configuration for the batch, or one for each image.

    Args:
        original: any torch.fx-traceable CNN; put in eval mode, its parameters are shared, never changed.
        dynamic_layers: one to six module names, from input to output (``pool+conv`` for a layer of two modules).
        batch_norm: see :func:`dynamic.tracing.trace`; with ``by_prefix``, set ``norms`` before running it.
        resolution: side in pixels of images that the network takes; needed only where none of
            :data:`dynamic.shapes.SIZES` fits, for the check that the traced network computes what the original does.

    Attributes:
        original: the untouched nn.Module.
        default: the configuration the network was built with.
        channels: of the images that it takes.
        fixed: attributes that a layer cannot vary, by (layer, attribute), with the reason.
        norms: batch norms by prefix of options, None for the network's own.

    Raises:
        UserError: a network that cannot be traced, computes something else once traced or runs on no image tried, a layer
            name that is wrong (the candidates are listed), or layers none of which can vary anything.

    >>> import torchvision, torch
    >>> network = DynamicNetwork(torchvision.models.resnet18(), ["layer3.0.conv1", "layer4.0.conv1"])
    >>> network(torch.zeros(1, 3, 64, 64), network.default).shape
    torch.Size([1, 1000])
    """

    def __init__(
        self,
        original: nn.Module,
        dynamic_layers: Sequence[str],
        batch_norm: BatchNormMode = "kept",
        *,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        self.original = original.eval()
        self.dynamic_layers = tuple(dynamic_layers)
        self.program = trace(original, self.dynamic_layers, batch_norm)
        self._training_program: Program | None = None
        self._batch_norm = batch_norm
        self.default: Configuration = self.program.default
        self.norms: PrefixNorms | None = None
        # Registered so that .to() and .train() reach what only the traced copy holds.
        self._segments = nn.ModuleList(segment.module for segment in self.program.segments)
        self._sites = nn.ModuleList(site.module for site in self.program.sites)
        self.eval()
        self.channels, self.fixed = 3, self.program.fixed
        if batch_norm == "kept":
            with watch_writes(self._segments) as wrote:
                self.channels, side = verify(self.original, lambda images: self(images, self.default), resolution)
            if wrote:
                raise UserError(f"{wrote[0]} writes into its input, which other configurations read: let it work on a copy")
            self.fixed = self.fixed | stuck_strides(self.program, self.costs, side)
            if len(self.fixed) == len(self.dynamic_layers) * len(attributes()):
                raise UserError(f"no layer can vary anything: {'; '.join(dict.fromkeys(self.fixed.values()))}")

    def train(self, mode: bool = True) -> DynamicNetwork:
        """Training mode runs what the original's ``forward`` does there: dropout, stochastic depth, batch statistics.

        Raises:
            UserError: torch.fx cannot trace the network in training mode.
        """
        if mode and self._batch_norm == "kept" and self._training_program is None:
            program = trace(self.original, self.dynamic_layers, training=True)
            self._training_program = program
            self._training_segments = nn.ModuleList(segment.module for segment in program.segments)
            self._training_sites = nn.ModuleList(site.module for site in program.sites)
        return super().train(mode)

    def forward(self, images: Tensor, configuration: Configuration | Sequence[Configuration]) -> Tensor:
        """Classify.

        Args:
            images: (N, C, H, W), normalised.
            configuration: one for the batch, or N of them. Images that share a prefix of options run it together.

        Returns:
            (N, classes) logits. Under the default configuration they equal the original's to the last bit.
        """
        if isinstance(configuration, Configuration):
            configuration = [configuration] * len(images)
        if len(configuration) != len(images):
            raise UserError(f"{len(images)} images but {len(configuration)} configurations")
        for chosen in set(configuration):
            self.check(chosen)
        if len(images) == 0:
            return self.original(images)
        program = self._training_program if self.training and self._training_program is not None else self.program
        plan = mixed_plan(program, configuration)
        ends = list(walk(program, images, plan, len(images), self.norms))
        if len(ends) == 1:
            return ends[0][1]
        order = torch.cat([node.images for node, _ in ends]).argsort()
        return torch.cat([logits for _, logits in ends])[order.to(images.device)]

    def comprehensive(
        self, images: Tensor, configurations: Sequence[Configuration], max_rows: int = 256, visit: Visit | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Every image under every configuration, sharing all common prefixes.

        Args:
            images: (N, C, H, W), normalised.
            configurations: a space, or any sequence.
            max_rows: at most so many rows run as one batch where branches of a fork can be joined (memory against speed).
            visit: called with what every segment made; see :data:`dynamic.walk.Visit`.

        Yields:
            positions in ``configurations`` (several only if the network cannot tell them apart) and (N, classes) logits.
        """
        for configuration in configurations:
            self.check(configuration)
        plan = comprehensive_plan(self.program, configurations, len(images))
        for node, logits in walk(self.program, images, plan, max_rows, self.norms, visit):
            yield node.columns, logits

    def check(self, configuration: Configuration) -> None:
        """Raise UserError where ``configuration`` does not fit this network."""
        reason = self.objection(configuration)
        if reason is not None:
            raise UserError(f"{configuration.id} {reason}")

    def objection(self, configuration: Configuration) -> str | None:
        """Why ``configuration`` does not fit this network; None where it does."""
        if len(configuration.stride) != len(self.dynamic_layers):
            layers = len(self.dynamic_layers)
            return f"configures {len(configuration.stride)} layers, the network has {layers}"
        for site in self.program.sites:
            even = isinstance(site.module, DynamicConv2d) and site.option(configuration).kernel_size % 2 == 0
            if even and site.option(configuration)._replace(dilation=1) != site.module.default._replace(dilation=1):
                return f"gives {site.name} an even kernel, which has no centre: use odd sizes"
        for (layer, name), reason in self.fixed.items():
            if configuration.options(name)[layer] != self.default.options(name)[layer]:
                return f"changes the {name} of layer {'ABCDEF'[layer]}: {reason}"
        for name, _ in configuration.further:
            if not any(name in site.attributes for site in self.program.sites):
                return f"changes the {name}, which was registered after the network was loaded"
        return None

    def macs(self, configuration: Configuration, resolution: int | tuple[int, int]) -> int:
        """Multiply-accumulates of one image under ``configuration`` at ``resolution`` (pixels; height, width if two).

        Counted by ``torch.utils.flop_counter`` in convolutions and linear layers; one multiply-add is 1.
        """
        self.check(configuration)
        return self.costs.macs(configuration, resolution)

    @cached_property
    def costs(self) -> CostModel:
        """Counts MACs and memory without running images."""
        return CostModel(trace(self.original, self.dynamic_layers), self.channels)

    @property
    def digest(self) -> str:
        """Short hash of the original's weights, buffers included."""
        hashed = sha256()
        for name, tensor in sorted(self.original.state_dict().items()):
            hashed.update(name.encode())
            hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()[:16]

    def for_inference(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        statistics: Statistics | None = None,
        packed: bool = False,
    ) -> DynamicNetwork:
        """A copy for the fast paths: channels last, on ``device`` in ``dtype``, batch norms folded.

        Args:
            device, dtype: of the copy.
            statistics: recalibrated ones, used instead of the network's own; the copy then runs only configurations that
                they were estimated for.
            packed: hold every kernel a second time, as a CPU's convolutions want it (:mod:`dynamic.packing`): quicker where
                batches are small, as a service's are.

        Raises:
            UserError: ``statistics`` belong to other weights.
        """
        if statistics is not None and statistics.weights_digest != self.digest:
            raise UserError("the batch-norm statistics were estimated for other weights: recalibrate this network")
        network = self.copied("folded" if statistics is None else "by_prefix", device, dtype)
        if statistics is not None:
            network.norms = PrefixNorms(network.program, statistics, device, dtype)
        if packed:
            for segment in network.program.segments:
                pack(segment.module)
            for site in network.program.sites:
                if isinstance(site.module, DynamicConv2d):
                    site.module.pack()
        return network

    def copied(self, batch_norm: BatchNormMode, device: str | torch.device, dtype: torch.dtype) -> DynamicNetwork:
        """A frozen copy, channels last, on ``device`` in ``dtype``."""
        network = DynamicNetwork(copy.deepcopy(self.original), self.dynamic_layers, batch_norm)
        network.channels, network.fixed = self.channels, self.fixed
        return network.requires_grad_(False).to(device, dtype).to(memory_format=torch.channels_last)

    def extra_repr(self) -> str:
        """For ``print(network)``."""
        return f"dynamic_layers={list(self.dynamic_layers)}, default={self.default.id}"
