"""ONNX files: what is read is what onnxruntime runs."""

from __future__ import annotations

import numpy as np
import pytest

import lipctrl
from lipctrl.bounds import UnsupportedOperationError

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def save(path, nodes, initializers, features: int = 3):
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", features])],
        [helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(np.float32(v), k) for k, v in initializers.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def assert_read_as_run(path):
    runtime = pytest.importorskip("onnxruntime")
    cert = lipctrl.certify(path)
    x = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    (y,) = runtime.InferenceSession(str(path)).run(None, {"x": x})
    assert np.allclose(cert.evaluate(x), y, atol=1e-5)
    assert lipctrl.check(cert).ok
    assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain


def test_a_residual_graph_is_read_as_onnxruntime_runs_it(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("LeakyRelu", ["h"], ["r"], alpha=0.25),
        helper.make_node("MatMul", ["r", "v"], ["m"]),
        helper.make_node("Add", ["m", "c"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["s"]),
        helper.make_node("Mul", ["s", "k"], ["p"]),
        helper.make_node("Concat", ["p", "x"], ["y"], axis=-1),
    ]
    arrays = {"w": rng.normal(size=(5, 3)), "b": rng.normal(size=5), "v": rng.normal(size=(5, 3))}
    arrays |= {"c": rng.normal(size=3), "k": np.array(0.5)}
    assert_read_as_run(save(tmp_path / "m.onnx", nodes, arrays))


def test_normalisations_and_clips_are_read_as_onnxruntime_runs_them(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("BatchNormalization", ["x", "g", "h", "m", "v"], ["n"], epsilon=1e-3),
        helper.make_node("Gemm", ["n", "w"], ["a"], alpha=0.5),
        helper.make_node("Clip", ["a", "low", "high"], ["c"]),
        helper.make_node("PRelu", ["a", "s"], ["p"]),
        helper.make_node("Elu", ["p"], ["e"], alpha=0.4),
        helper.make_node("Sub", ["e", "c"], ["y"]),
    ]
    arrays = {k: rng.normal(size=3) for k in "ghms"} | {"v": rng.uniform(0.5, 2.0, 3)}
    arrays |= {"w": rng.normal(size=(3, 3)), "low": np.array(-0.25), "high": np.array(6.0)}
    assert_read_as_run(save(tmp_path / "m.onnx", nodes, arrays))


def test_gates_and_one_sided_clips_are_read_as_onnxruntime_runs_them(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["h", "s"], ["u"]),
        helper.make_node("Clip", ["u", "low"], ["p"]),
        helper.make_node("Clip", ["h", "", "high"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    arrays = {
        "w": rng.normal(size=(3, 3)),
        "b": rng.normal(size=3),
        "low": np.array(-0.1),
        "high": np.array(0.4),
    }
    assert_read_as_run(save(tmp_path / "m.onnx", nodes, arrays))


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [("Clip", ["x", "zero", "x"]), ("Mul", ["x", "x"]), ("Clip", ["x", "one", "zero"])],
)
def test_products_and_moving_ends_are_refused(tmp_path, kind, inputs):
    nodes = [helper.make_node(kind, inputs, ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"zero": np.array(0.0), "one": np.array(1.0)})
    with pytest.raises(UnsupportedOperationError, match=kind):
        lipctrl.certify(path)


@pytest.mark.parametrize("kind", ["Softmax", "Exp", "LayerNormalization", "Conv", "ReduceSum"])
def test_unknown_operators_are_refused_by_name(tmp_path, kind):
    path = save(tmp_path / "m.onnx", [helper.make_node(kind, ["x", "w"], ["y"])], {"w": np.eye(3)})
    with pytest.raises(UnsupportedOperationError, match=kind):
        lipctrl.certify(path)


@pytest.mark.parametrize(
    ("node", "arrays"),
    [
        # x + a column is a matrix, of gain √3; the sum of vectors that it looks like has gain 1.
        (("Add", ["x", "column"], {}), {"column": np.ones((3, 1))}),
        (("Mul", ["x", "column"], {}), {"column": np.ones((3, 1))}),
        (("Gemm", ["x", "w", "absent"], {}), {"w": np.eye(3)}),
        (("Clip", ["x", "absent", "one"], {}), {"one": np.array(1.0)}),
        (("Clip", ["x", "none"], {}), {"none": np.zeros(0)}),
        (("Dropout", ["x", "ratio", "training"], {}), {"ratio": np.array(0.5), "training": np.array(1.0)}),
        (("Dropout", ["x", "ratio", "x"], {}), {"ratio": np.array(0.5)}),
        (("Flatten", ["x"], {"axis": 0}), {}),
        (("Relu", ["x"], {"domain": "com.example"}), {}),
        (("BatchNormalization", ["x", "one"], {}), {"one": np.ones(3)}),
        (("Gemm", ["x", "w"], {"transA": 1}), {"w": np.eye(3)}),
    ],
)
def test_what_is_not_a_map_of_feature_vectors_is_refused(tmp_path, node, arrays):
    kind, inputs, attributes = node
    path = save(tmp_path / "m.onnx", [helper.make_node(kind, inputs, ["y"], **attributes)], arrays)
    with pytest.raises(UnsupportedOperationError):
        lipctrl.certify(path)


def test_operator_sets_of_another_meaning_are_refused(tmp_path):
    """Up to set 6 a Dropout without is_test is random, and an addition broadcasts along an axis of its own."""
    path = save(tmp_path / "m.onnx", [helper.make_node("Dropout", ["x"], ["y"])], {})
    model = onnx.load(str(path))
    model.opset_import[0].version = 6
    onnx.save(model, str(path))
    with pytest.raises(UnsupportedOperationError, match="operator set 6"):
        lipctrl.certify(path)


def test_defaults_are_the_single_precision_numbers_that_a_runtime_uses(tmp_path):
    nodes = [helper.make_node("LeakyRelu", ["x"], ["y"])]
    cert = lipctrl.certify(save(tmp_path / "m.onnx", nodes, {}), property="inverse")
    assert cert.gain <= float(np.float32(0.01)) < 0.01
    assert cert.params["activations"][0]["slope"] == float(np.float32(0.01))


def test_limits_as_max_and_min_are_read_as_onnxruntime_runs_them(tmp_path):
    """torch exports a clamp between tensors so."""
    nodes = [
        helper.make_node("Max", ["x", "low"], ["a"]),
        helper.make_node("Min", ["high", "a"], ["y"]),
    ]
    limits = {"low": [-0.3, -1.0, 0.1], "high": [0.5, 0.2, 0.4]}
    assert_read_as_run(save(tmp_path / "limits.onnx", nodes, limits))
    assert lipctrl.certify(tmp_path / "limits.onnx").gain <= 1.0 + 1e-6
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Max", ["x", "t"], ["y"])]
    with pytest.raises(UnsupportedOperationError, match="Max"):
        lipctrl.certify(save(tmp_path / "values.onnx", nodes, {}))
