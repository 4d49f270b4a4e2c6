"""A network's portfolio compiled into a folder of static graphs. The one part of this package that needs PyTorch."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from dynamic.compiled.folder import RECORD, WEIGHTS, CompiledNetwork
from dynamic.compiled.needs import Needs
from dynamic.compiled.optimising import optimise
from dynamic.compiled.pieces import Weights
from dynamic.compiled.plan import Stretch, plan
from dynamic.compiled.quantising import quantise
from dynamic.compiled.record import CompiledRecord, GraphRecord
from dynamic.compiled.runtimes import PRECISIONS, Precision, open_runtime
from dynamic.compiled.stretches import Looks, StretchMaker
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.integrity import digest_of_file, write_record
from dynamic.lock import held
from dynamic.network import DynamicNetwork
from dynamic.packing import PackedConv2d
from dynamic.session import boundary

OWN_STATISTICS = "own"
"""Digest of the statistics of a network that is not recalibrated."""

EXAMPLES = 3
"""Images that every graph is tried on."""

TOLERANCE = 1e-4
"""Largest difference from the eager network that is taken for rounding, as a share of the largest value."""

_REASON = "part of the network reads the number of images, or is written wrongly; serve it uncompiled"


def compile_network(
    network: DynamicNetwork,
    folder: Path,
    *,
    configurations: Sequence[Configuration],
    resolution: int,
    needs: Needs,
    looks: Looks,
    precision: Precision = "float32",
    calibration: np.ndarray | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CompiledNetwork:
    """Compile a network's portfolio into ``folder``, which is written whole or not at all, and open it.

    Args:
        network: as :meth:`DynamicNetwork.for_inference` made it, unpacked, float32, on a CPU; with statistics, where the run
            has some.
        folder: ``RUN/compiled/PRECISION``; what is there is replaced.
        configurations: the portfolio; the network's default is added where it is missing.
        resolution: side of the images in pixels.
        needs: what policies will ask.
        looks: by kind, what makes a look: (N, ...) of a list of values in order of their names.
        precision: ``float32``; ``bfloat16``: the same graphs, run by OpenVINO in that precision; ``int8``.
        calibration: (images, C, H, W) float32 of the label split, normalised; for ``int8`` alone.
        runtime, threads: see :meth:`CompiledNetwork.open`.
        beside: records that the folder is to hold too, by file name.
        progress: called with the number of graphs made and of all; once more for those in 8 bits.

    Raises:
        UserError: a network that is packed or not float32, a part that cannot be written as a static graph or computes
            something else as one, a precision that this CPU lacks, or another process that compiles at the same place.
    """
    _check(network, precision, calibration, runtime, threads)
    with _unfinished(folder) as around:
        made = around / folder.name
        made.mkdir()
        compiled = _write(network, made, configurations, resolution, needs, looks, progress)
        if calibration is not None:
            made = around / "quantised"
            made.mkdir()
            quantise(compiled, made, calibration, progress)
        if precision != "float32":
            write_record(made / RECORD, replace(compiled.record, precision=precision, files=_digests(made)).to_json())
        if precision == "float32":
            optimise(made, compiled.record)
        for name, record in (beside or {}).items():
            write_record(made / name, record)
        if folder.exists():
            os.replace(folder, around / "before")
        os.replace(made, folder)
    return CompiledNetwork.open(folder, runtime, threads)


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``; what is around both is held, so that no two processes make the same one."""
    prefix = f".{folder.name}-"
    with held(folder.parent):
        for left in folder.parent.glob(f"{prefix}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as name:
            yield Path(name)


def _check(
    network: DynamicNetwork, precision: Precision, calibration: np.ndarray | None, runtime: str | None, threads: int | None
) -> None:
    if precision not in PRECISIONS:
        raise UserError(f"no precision is called {precision!r}: choose from {', '.join(PRECISIONS)}")
    if any(isinstance(module, PackedConv2d) for module in network.modules()):
        raise UserError("a packed network cannot be compiled: make it with for_inference(packed=False)")
    parameter = next(network.parameters(), None)
    if parameter is not None and (parameter.dtype != torch.float32 or parameter.device.type != "cpu"):
        raise UserError(f"a network is compiled from float32 on the cpu, not from {parameter.dtype} on {parameter.device}")
    open_runtime(precision, runtime, threads)  # raises where nothing here could run what is made
    if precision == "int8" and calibration is None:
        raise UserError("int8 needs images to calibrate on: pass those of the label split")
    if precision != "int8" and calibration is not None:
        raise UserError(f"{precision} is not calibrated: pass images for int8 alone")


@torch.no_grad()
def _write(
    network: DynamicNetwork,
    folder: Path,
    configurations: Sequence[Configuration],
    resolution: int,
    needs: Needs,
    looks: Looks,
    progress: Callable[[int, int], None],
) -> CompiledNetwork:
    """Float32 graphs, and their record; they were compared with the network."""
    portfolio = tuple(dict.fromkeys([*configurations, network.default]))
    for configuration in portfolio:
        network.macs(configuration, resolution)  # raises where it does not fit
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(EXAMPLES, network.channels, resolution, resolution, generator=generator)
    maker = StretchMaker(network, portfolio, images, looks)
    wanted = _wanted(maker, network, portfolio, needs)
    weights, graphs = Weights(), []
    for number, stretch in enumerate(wanted):
        builder, inputs, outputs = maker.graph(stretch)
        file = f"{number:03}.onnx"
        write_whole(folder / file, builder.model(weights, WEIGHTS).SerializeToString())
        graphs.append(GraphRecord(file=file, start=stretch.start, end=stretch.end, inputs=inputs, outputs=outputs))
        progress(number + 1, len(wanted))
    write_whole(folder / WEIGHTS, bytes(weights.content))
    record = CompiledRecord(
        precision="float32",
        weights=network.digest,
        statistics=OWN_STATISTICS if network.norms is None else network.norms.digest,
        configurations=tuple(configuration.id for configuration in portfolio),
        default=network.default.id,
        channels=network.channels,
        resolution=resolution,
        classes=maker.logits(maker.tree.paths[0][-1]).shape[1],
        depths=tuple(boundary(network, layer) for layer in range(len(network.dynamic_layers))),
        paths=maker.tree.paths,
        macs=_macs(network, portfolio, resolution, maker),
        graphs=tuple(graphs),
        files=_digests(folder),
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": version("onnxruntime")},
    )
    write_record(folder / RECORD, record.to_json())
    compiled = CompiledNetwork(folder, record, "onnxruntime", None)
    _verify(compiled, maker)
    return compiled


def _digests(folder: Path) -> dict[str, str]:
    """Of all files of a folder but the record."""
    return {path.name: digest_of_file(path) for path in sorted(folder.iterdir()) if path.name != RECORD}


def _wanted(
    maker: StretchMaker, network: DynamicNetwork, portfolio: Sequence[Configuration], needs: Needs
) -> tuple[Stretch, ...]:
    """What is needed, in terms of nodes."""
    paths = dict(zip(portfolio, maker.tree.paths, strict=True))
    for configuration in {c for ladder in needs.ladders for c in ladder} | {look.configuration for look in needs.looks}:
        if configuration not in paths:
            raise UserError(f"{configuration.id} is needed, but not in the portfolio that is compiled")
    return plan(
        maker.tree,
        [[paths[configuration][-1] for configuration in ladder] for ladder in needs.ladders],
        [(look.kind, paths[look.configuration][boundary(network, look.layer)]) for look in needs.looks],
        maker.bare,
    )


def _macs(
    network: DynamicNetwork, portfolio: Sequence[Configuration], resolution: int, maker: StretchMaker
) -> tuple[int, ...]:
    """Of each node: its site's and its segment's."""
    macs: dict[int, int] = {}
    for configuration, path in zip(portfolio, maker.tree.paths, strict=True):
        steps = network.costs.steps(configuration, resolution)
        for depth, node in enumerate(path):
            macs[node] = steps[2 * depth] + (steps[2 * depth - 1] if depth else 0)
    return tuple(macs[node] for node in range(len(macs)))


def _verify(compiled: CompiledNetwork, maker: StretchMaker) -> None:
    """Run graphs on one and on several images. Raises UserError where one gives something else than the network.

    Those that begin at the images and give most: the rest is made of the same pieces.
    """
    by_size = sorted(compiled.record.graphs, key=lambda graph: (graph.start is None, len(graph.outputs)))
    fullest = {graph.end: graph for graph in by_size}
    for graph in fullest.values():
        for count in (1, EXAMPLES):
            inputs = {"images": maker.images} if graph.start is None else maker.values(graph.start)
            try:
                made = compiled.run(graph, {name: value[:count].numpy() for name, value in inputs.items()})
            except Exception as error:  # whatever the runtime raises
                raise UserError(
                    f"compiled, the way to node {graph.end} does not run on {count} images: {_REASON}"
                ) from error
            for output, values in zip(graph.outputs, made, strict=True):
                _compare(values, maker.expected(output)[:count], f"{output.kind} of node {output.node}")


def _compare(made: np.ndarray, expected: Tensor, what: str) -> None:
    reference = expected.numpy()
    scale = max(float(np.abs(reference).max(initial=0.0)), 1.0)
    off = float(np.abs(made - reference).max(initial=0.0)) if made.shape == reference.shape else float("inf")
    if not off <= TOLERANCE * scale:
        raise UserError(f"compiled, the {what} differ by {off:.1e} from what the network computes: {_REASON}")
