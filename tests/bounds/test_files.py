"""Safetensors files keep no order: layers stand in that of their numbers, or in the only one that fits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import lipctrl

save_file = pytest.importorskip("safetensors.numpy").save_file


def _saved(path, names, sizes, seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(m, n)) for n, m in itertools.pairwise(sizes)]
    save_file({f"{name}.weight": w for name, w in zip(names, weights, strict=True)}, path)
    return path, weights


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        ([f"layer{i}" for i in range(1, 13)], [3] * 13),
        ([f"net.{i}.fc" for i in range(0, 22, 2)], [3] * 12),
        (["0.0", "0.2", "1", "10"], [3] * 5),
        (["fc1", "fc2", "out"], [3, 5, 5, 2]),
        (["input", "hidden", "output"], [3, 5, 4, 2]),
    ],
)
def test_layers_stand_in_their_order(tmp_path, names, sizes):
    path, weights = _saved(tmp_path / "n.safetensors", names, sizes)
    cert = lipctrl.certify(path, "product", activation="tanh")
    x = np.random.default_rng(1).normal(size=(9, 3))
    y = x @ weights[0].T
    for w in weights[1:]:
        y = np.tanh(y) @ w.T
    np.testing.assert_allclose(cert.evaluate(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("names", "sizes", "word"),
    [
        (["input", "hidden", "output"], [3, 3, 3, 3], "several"),
        (["encoder.0", "encoder.2", "decoder.0"], [3, 3, 3, 3], "several"),
        (["a", "b"], [3, 4, 3], "several"),
    ],
)
def test_an_order_that_nobody_gave_is_not_guessed(tmp_path, names, sizes, word):
    """Products of norms would not care; tighter bounds of another order are no bounds of this one."""
    path, _ = _saved(tmp_path / "n.safetensors", names, sizes)
    with pytest.raises(ValueError, match=word):
        lipctrl.certify(path, activation="tanh")
    save_file({"a.weight": np.ones((2, 3)), "b.weight": np.ones((2, 4))}, path)
    with pytest.raises(ValueError, match="no order"):
        lipctrl.certify(path, activation="tanh")


def test_numbers_that_numpy_does_not_have_are_refused_in_words(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    save_tensors({"0.weight": torch.eye(2, dtype=torch.bfloat16)}, tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match="float32"):
        lipctrl.certify(tmp_path / "n.safetensors")
