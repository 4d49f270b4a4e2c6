"""The CNN head as a graph of ONNX Runtime: in numpy its convolutions took five times as long."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dynamic.compiled.models import Node, small_model
from dynamic.compiled.runtimes import Graph, small_graph

FARTHEST = 5.0
"""Standard deviations beyond which a vector's value counts as that many."""


def head_graph(weights: Mapping[str, np.ndarray], scales: Mapping[str, np.ndarray]) -> Graph:
    """The evaluated :class:`selector.policies.head_training.HeadNet` behind its standardisation.

    Args:
        weights: of the net, by its parameters' names.
        scales: ``map_mean`` and ``map_scale`` (channels,), ``mean`` and ``scale`` (features,), float32.

    Returns:
        A graph from ``maps`` (N, channels, 6, 6) and ``vectors`` (N, features) to (N, K) logits of being right, all
        float32.
    """
    # (map - mean) / scale goes into the first convolution, which reads single places and so no border.
    kernel = weights["reduce.weight"] / scales["map_scale"][:, None, None]
    shift = (kernel[:, :, 0, 0] * scales["map_mean"]).sum(axis=1)
    numbers = {
        "reduce.weight": kernel,
        "reduce.bias": weights["reduce.bias"] - shift,
        **{name: value for name, value in weights.items() if not name.startswith("reduce")},
        "mean": scales["mean"],
        "scale": scales["scale"],
        "least": -FARTHEST,
        "most": FARTHEST,
    }
    constants = {name: np.asarray(value, np.float32) for name, value in numbers.items()} | {"sides": np.array([2, 3])}
    nodes = [
        Node(operation="Conv", inputs=["maps", "reduce.weight", "reduce.bias"], outputs=["reduced"]),
        Node(operation="Relu", inputs=["reduced"], outputs=["inner"]),
        Node(
            operation="Conv",
            inputs=["inner", "see.weight", "see.bias"],
            outputs=["seen"],
            attributes={"pads": [1, 1, 1, 1]},
        ),
        Node(operation="Relu", inputs=["seen"], outputs=["places"]),
        Node(operation="ReduceMean", inputs=["places", "sides"], outputs=["means"], attributes={"keepdims": 0}),
        Node(operation="ReduceMax", inputs=["places", "sides"], outputs=["maxima"], attributes={"keepdims": 0}),
        Node(operation="Sub", inputs=["vectors", "mean"], outputs=["centred"]),
        Node(operation="Div", inputs=["centred", "scale"], outputs=["standardised"]),
        Node(operation="Clip", inputs=["standardised", "least", "most"], outputs=["known"]),
        Node(operation="Concat", inputs=["means", "maxima", "known"], outputs=["joined"], attributes={"axis": 1}),
        Node(operation="Gemm", inputs=["joined", "join.weight", "join.bias"], outputs=["drawn"], attributes={"transB": 1}),
        Node(operation="Relu", inputs=["drawn"], outputs=["hidden"]),
        Node(operation="Gemm", inputs=["hidden", "out.weight", "out.bias"], outputs=["logits"], attributes={"transB": 1}),
    ]
    inputs = {"maps": np.float32, "vectors": np.float32}
    return small_graph(small_model(nodes, inputs, {"logits": np.float32}, constants))
