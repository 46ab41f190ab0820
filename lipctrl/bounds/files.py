"""Front ends for sequential networks: lists of arrays and safetensors files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipctrl.bounds.graph import Builder, Network, UnsupportedOperationError


def read_layers(layers: Sequence[Any], activation: Any) -> Network:
    """Return the network W_K σ(… σ(W_1 x + b_1) …) + b_K of a list of (W, b) or W, with no σ after the last.

    `activation` is one specification for all hidden layers or a list with one for each.
    """
    if not len(layers):
        raise ValueError("the list of layers is empty; expected (W, b) pairs, W of shape (out, in)")
    pairs = [
        layer if isinstance(layer, tuple | list) and len(layer) == 2 else (layer, None) for layer in layers
    ]
    specs = list(activation) if isinstance(activation, list | tuple) else [activation] * (len(pairs) - 1)
    if len(specs) != len(pairs) - 1:
        raise ValueError(f"{len(specs)} activations for {len(pairs)} layers; expected {len(pairs) - 1}")
    first = np.asarray(pairs[0][0])
    if first.ndim != 2:
        raise ValueError(f"a weight has shape {first.shape}; expected (out, in)")
    builder = Builder(first.shape[1])
    x = builder.input()
    for l, (weight, bias) in enumerate(pairs):
        x = builder.linear(x, weight, bias)
        if l < len(specs):
            if specs[l] is None:
                raise ValueError('a list of layers needs activation=, e.g. activation="relu"')
            x = builder.activate(x, specs[l])
    return builder.finish(x)


def read_safetensors(path: Path, activation: Any) -> Network:
    """Return the sequential network of a safetensors file: tensors `….weight`, `….bias`, in natural order of names.

    Raises
    ------
    UnsupportedOperationError
        For a tensor that is neither a matrix `.weight` nor its `.bias`.
    ValueError
        For a file that is not in this format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    stems = []
    for name, value in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight" and value.ndim == 2:
            stems.append(stem)
        elif not (leaf == "bias" and f"{stem}.weight" in tensors and value.ndim == 1):
            raise UnsupportedOperationError(
                f"tensor {name!r} of shape {value.shape} is not the weight or bias of a linear layer"
            )

    def order(stem: str) -> list[tuple[int, int, str]]:
        return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in stem.split(".")]

    stems.sort(key=order)
    key = "{}.weight".format
    return read_layers([(tensors[key(s)], tensors.get(f"{s}.bias")) for s in stems], activation)
