"""The CNN head as a graph of ONNX Runtime: in numpy its convolutions took five times as long."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
    from onnx import TensorProto, helper, numpy_helper

    # (map - mean) / scale goes into the first convolution, which reads single places and so no border.
    kernel = weights["reduce.weight"] / scales["map_scale"][:, None, None]
    shift = (kernel[:, :, 0, 0] * scales["map_mean"]).sum(axis=1)
    constants = {
        "reduce.weight": kernel,
        "reduce.bias": weights["reduce.bias"] - shift,
        **{name: value for name, value in weights.items() if not name.startswith("reduce")},
        "mean": scales["mean"],
        "scale": scales["scale"],
        "least": np.float32(-FARTHEST),
        "most": np.float32(FARTHEST),
    }
    nodes = [
        helper.make_node("Conv", ["maps", "reduce.weight", "reduce.bias"], ["reduced"]),
        helper.make_node("Relu", ["reduced"], ["inner"]),
        helper.make_node("Conv", ["inner", "see.weight", "see.bias"], ["seen"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["seen"], ["places"]),
        helper.make_node("ReduceMean", ["places", "sides"], ["means"], keepdims=0),
        helper.make_node("ReduceMax", ["places", "sides"], ["maxima"], keepdims=0),
        helper.make_node("Sub", ["vectors", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["standardised"]),
        helper.make_node("Clip", ["standardised", "least", "most"], ["known"]),
        helper.make_node("Concat", ["means", "maxima", "known"], ["joined"], axis=1),
        helper.make_node("Gemm", ["joined", "join.weight", "join.bias"], ["drawn"], transB=1),
        helper.make_node("Relu", ["drawn"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "out.weight", "out.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "head",
        [
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", kernel.shape[1], 6, 6]),
            helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["N", len(scales["mean"])]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(weights["out.bias"])])],
        [
            *(numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array([2, 3], np.int64), "sides"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return small_graph(bytes(model.SerializeToString()))
