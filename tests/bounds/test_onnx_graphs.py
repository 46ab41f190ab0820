"""ONNX graphs of unusual form: what is read is what onnxruntime runs, and the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest

import lipctrl
from lipctrl.bounds import UnsupportedOperationError
from tests.bounds.test_onnx import assert_read_as_run, helper, onnx, save


def _integers(path, arrays):
    """Turn initializers into 64-bit integers, as indices are."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            values = np.int64(onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(path))
    return path


def test_sums_slices_and_splits_are_read_as_onnxruntime_runs_them(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["k"], value_floats=[1.0, -2.0, 0.5]),
        helper.make_node("Cast", ["x"], ["f"], to=1),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("Sum", ["k", "r", "x"], ["s"]),
        helper.make_node("Split", ["s", "sizes"], ["p", "q"], axis=-1),
        helper.make_node("Slice", ["q", "from", "to", "axis"], ["t"]),
        helper.make_node("Concat", ["t", "p", "q"], ["y"], axis=1),
    ]
    arrays = {"sizes": [1, 2], "from": [-1], "to": [2**31], "axis": [1]}
    assert_read_as_run(_integers(save(tmp_path / "m.onnx", nodes, arrays), arrays))


@pytest.mark.parametrize(
    ("node", "dims", "word"),
    [
        # Channels stand on the second axis: here they are rows, not features.
        (("BatchNormalization", ["x", *"vvvv"], {}), ["n", 3, 3], "BatchNormalization"),
        (("Gemm", ["x", "w"], {}), [3], "Gemm"),
        (("Clip", ["x", "v", ""], {}), ["n", 3], "Clip"),
        (("Cast", ["x"], {"to": 7}), ["n", 3], "Cast"),
        (("Split", ["x", "v"], {"axis": 0}), ["n", 3], "Split"),
        (("Slice", ["x", "one", "one", "one"], {}), [3, 3, 3], "Slice"),
    ],
)
def test_features_are_where_the_rank_says(tmp_path, node, dims, word):
    kind, inputs, attributes = node
    nodes = [helper.make_node(kind, inputs, ["y"], **attributes)]
    path = save(tmp_path / "m.onnx", nodes, {"v": np.ones(3), "w": np.eye(3), "one": np.ones(1)})
    model = onnx.load(str(path))
    whole = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims)
    model.graph.input[0].CopyFrom(whole)
    onnx.save(model, str(path))
    with pytest.raises(UnsupportedOperationError, match=word):
        lipctrl.certify(path)


def test_a_name_has_one_value_and_an_operator_one_meaning(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["a"])]
    path = save(tmp_path / "m.onnx", [*nodes, helper.make_node("Relu", ["a"], ["y"])], {})
    with pytest.raises(ValueError, match="computed twice"):
        lipctrl.certify(path)
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {})
    model = onnx.load(str(path))
    square = [helper.make_node("Mul", ["u", "u"], ["v"])]
    model.functions.append(
        helper.make_function("", "Relu", ["u"], ["v"], square, [helper.make_opsetid("", 17)])
    )
    onnx.save(model, str(path))
    with pytest.raises(UnsupportedOperationError, match="another meaning"):
        lipctrl.certify(path)
