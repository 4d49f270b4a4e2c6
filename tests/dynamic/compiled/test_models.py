from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dynamic.compiled.models import Node, element_type, small_model
from dynamic.compiled.runtimes import small_graph


def test_a_small_model_is_what_the_package_onnx_reads() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    node = Node(
        operation="Conv",
        inputs=["x", "w"],
        outputs=["y"],
        attributes={"pads": [1, 1, -1, 300], "group": 2**40, "modes": np.zeros(3, np.uint8)},
        domain="ai.onnx.ml",
    )
    model = onnx.load_from_string(small_model([node], {"x": np.float32}, {"y": np.float64}, {"w": weights}))
    read = model.graph.node[0]
    assert (read.op_type, list(read.input), list(read.output), read.domain) == ("Conv", ["x", "w"], ["y"], "ai.onnx.ml")
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in read.attribute}
    assert (attributes["pads"], attributes["group"]) == ([1, 1, -1, 300], 2**40)
    np.testing.assert_array_equal(numpy_helper.to_array(attributes["modes"]), np.zeros(3, np.uint8))
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), weights)
    assert model.graph.initializer[0].name == "w"
    values = [(value.name, value.type.tensor_type.elem_type) for value in (*model.graph.input, *model.graph.output)]
    assert values == [("x", onnx.TensorProto.FLOAT), ("y", onnx.TensorProto.DOUBLE)]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "ai.onnx.ml": 5}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_element_types_are_those_of_onnx(dtype: type[np.generic]) -> None:
    assert element_type(dtype) == helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def test_a_small_model_runs() -> None:
    node = Node(operation="Gemm", inputs=["x", "w"], outputs=["y"], attributes={"transB": 1})
    weights = np.array([[1, 2], [3, 4]], np.float32)
    graph = small_graph(small_model([node], {"x": np.float32}, {"y": np.float32}, {"w": weights}))
    np.testing.assert_array_equal(graph({"x": np.array([[1, 10]], np.float32)})[0], [[21, 43]])
