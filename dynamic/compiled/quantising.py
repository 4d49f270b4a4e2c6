"""Graphs in 8 bits, by ONNX Runtime's static quantisation: each stretch calibrated on the values that it really gets."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, MinMaxCalibrater, QDQQuantizer, QuantType

from dynamic.compiled.folder import WEIGHTS, CompiledNetwork
from dynamic.compiled.pieces import LOOK, Weights
from dynamic.compiled.record import GraphRecord
from dynamic.files import write_whole

_TOGETHER = 16
"""Images that are run at once."""

_QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "Clip"]
"""Kinds of operations in 8 bits."""


def quantise(compiled: CompiledNetwork, folder: Path, images: np.ndarray, progress: Callable[[int, int], None]) -> None:
    """Write every graph of ``compiled`` to ``folder`` in 8 bits, under the same name.

    Weights are signed, of 7 bits, and have a scale for each channel, activations are unsigned; inputs and outputs stay
    float32. The ranges of activations are those met on ``images``. With weights of 8 bits CPUs without 8-bit dot products
    (AVX2, AVX-512 without VNNI) would overflow, since they add two products in 16 bits.

    Args:
        compiled: float32, run by ONNX Runtime.
        folder: exists.
        images: (N, C, H, W) float32, normalised.
        progress: called with the number of graphs written and of all.
    """
    weights = Weights()
    for number, graph in enumerate(compiled.record.graphs):
        made = _quantised(compiled.folder / graph.file, _Batches(_inputs(compiled, graph, images)))
        write_whole(folder / graph.file, weights.moved(made, WEIGHTS).SerializeToString())
        progress(number + 1, len(compiled.record.graphs))
    write_whole(folder / WEIGHTS, bytes(weights.content))


def _inputs(compiled: CompiledNetwork, graph: GraphRecord, images: np.ndarray) -> Iterator[Mapping[str, np.ndarray]]:
    """What a stretch gets for some images, a few at a time."""
    before = None if graph.start is None else _maker(compiled, graph.start)
    for begin in range(0, len(images), _TOGETHER):
        some = {"images": images[begin : begin + _TOGETHER]}
        if before is None:
            yield some
        else:
            made = zip(before.outputs, compiled.run(before, some), strict=True)
            yield {output.name: value for output, value in made if (output.kind, output.node) == ("values", graph.start)}


def _maker(compiled: CompiledNetwork, node: int) -> GraphRecord:
    """A stretch from the images that gives the values of a node."""
    return next(
        graph
        for graph in compiled.record.graphs
        if graph.start is None and any(output.kind == "values" and output.node == node for output in graph.outputs)
    )


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
        self._batches = batches

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        """The next inputs, None behind the last."""
        return next(self._batches, None)


class _Ranges(MinMaxCalibrater):
    """The library's own sessions have pools of threads of their own, which a process with one pool for all refuses."""

    def create_inference_session(self) -> None:
        """See the base class."""
        self.infer_session = _session(self.augmented_model_path, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)


def _session(graph: str | bytes, level: onnxruntime.GraphOptimizationLevel, write: str = "") -> onnxruntime.InferenceSession:
    """A graph at some level of optimisation; what became of it is written to ``write``."""
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.graph_optimization_level = level
    options.optimized_model_filepath = write
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _quantised(graph: Path, batches: CalibrationDataReader) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as name, _quiet():
        folder = Path(name)
        # Batch norms go into the convolutions before them: quantised apart, they would be two roundings.
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        _session(onnx.load(graph).SerializeToString(), level, str(folder / "folded.onnx"))
        folded = onnx.shape_inference.infer_shapes(onnx.load(folder / "folded.onnx"))
        onnx.save(folded, folder / "shaped.onnx")
        ranges = _Ranges(folder / "shaped.onnx", _QUANTISED, str(folder / "augmented.onnx"))
        ranges.augment_graph()
        ranges.create_inference_session()
        ranges.collect_data(batches)
        quantiser = QDQQuantizer(
            folded,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges.compute_data(),
            nodes_to_quantize=[],
            nodes_to_exclude=[node.name for node in folded.graph.node if node.name.startswith(LOOK)],
            op_types_to_quantize=_QUANTISED,
            # Logits in 8 bits would often be equal.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantiser.quantize_model()
        made: onnx.ModelProto = quantiser.model.model
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library advises, on the root logger, what has been done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
