"""Front ends for sequential networks: lists of arrays and safetensors files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    """Return the sequential network of a safetensors file: tensors `….weight`, `….bias`, in the order of their numbers.

    Such a file keeps no order. Names of several kinds (`fc1`, `fc2`, `out`) stand in the one order that fits the sizes.

    Raises
    ------
    UnsupportedOperationError
        For a tensor that is neither a matrix `.weight` nor its `.bias`.
    ValueError
        For a file that is not in this format, or whose layers fit in several orders, or in none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    except (TypeError, AttributeError) as error:
        # numpy has no bfloat16 and no float8.
        raise ValueError(
            f"{path} holds numbers of a type unknown to numpy ({error}); save them as float32"
        ) from error
    stems = []
    for name, value in tensors.items():
        if value.dtype.kind not in "fiu":
            raise ValueError(
                f"{path} holds numbers of the type {value.dtype} ({name!r}); save them as float32"
            )
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight" and value.ndim == 2:
            stems.append(stem)
        elif not (leaf == "bias" and f"{stem}.weight" in tensors and value.ndim == 1):
            raise UnsupportedOperationError(
                f"tensor {name!r} of shape {value.shape} is not the weight or bias of a linear layer"
            )

    orders = _orders(stems, {stem: tensors[f"{stem}.weight"].shape for stem in stems})
    if len(orders) != 1:
        count = "several orders" if orders else "no order"
        raise ValueError(
            f"{path} holds the layers {sorted(stems)}, whose names and sizes allow {count}; "
            "number them, or pass a list of (W, b) in the order in which they run"
        )
    stems = orders[0]
    key = "{}.weight".format
    return read_layers([(tensors[key(s)], tensors.get(f"{s}.bias")) for s in stems], activation)


def _orders(stems: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Return the orders that keep layers of one kind of name in the order of their numbers and fit: two at most."""
    kinds: dict[str, list[str]] = {}
    for stem in sorted(stems, key=lambda stem: [int(n) for n in re.findall("[0-9]+", stem)]):
        kinds.setdefault(re.sub(r"[0-9]+(\.[0-9]+)*", "#", stem), []).append(stem)
    found: list[list[str]] = []
    partial: list[list[str]] = [[]]
    while partial and len(found) < 2:
        run = partial.pop()
        if len(run) == len(stems):
            found.append(run)
        for names in kinds.values():
            left = [name for name in names if name not in run]
            if left and (len(kinds) == 1 or not run or shapes[run[-1]][0] == shapes[left[0]][1]):
                partial.append([*run, left[0]])
    return found
