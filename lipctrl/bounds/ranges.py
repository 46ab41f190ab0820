"""Ranges of a network's output over a box of inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipctrl.bounds.certification import as_box, read_network
from lipctrl.bounds.relaxation import ChosenSlopes
from lipctrl.rules.local import propagate
from lipctrl.rules.network import graph_of


def output_range(
    module: Any, lower: Any, upper: Any, method: str = "crown", *, activation: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high) with low ≤ f(x) ≤ high, entry by entry, for every x in the box [lower, upper].

    Rigorous for the real-arithmetic map of the given weights: all rounding is outward, by the code that
    `lipctrl.check` runs.

    Parameters
    ----------
    module : whatever `lipctrl.certify` takes.
    lower, upper : corners of the box, (in_features,) or scalars.
    method : "interval" (interval arithmetic, layer by layer) or "linear" (each neuron relaxed to a band around a
        line, the relaxation of CROWN (Zhang et al. 2018) and of DeepZ (Singh et al. 2018), propagated forward with
        one noise symbol a neuron and intersected with intervals: never worse), or "crown" (lines below and above each
        neuron substituted backwards from every layer to the input, Zhang et al. 2018, Theorem 3.2, intersected with
        both: never worse; time quadratic in depth).
    activation : of a list of layers.

    Examples
    --------
    >>> import numpy as np
    >>> low, high = output_range([(np.eye(2), [0.0, -1.0]), ([[1.0, -1.0]], None)], 0.0, 1.0, activation="relu")
    >>> float(low[0]) <= 0.0 and float(high[0]) >= 1.0
    True
    """
    if method not in ("interval", "linear", "crown"):
        raise ValueError(f'method is {method!r}; expected "interval", "linear" or "crown"')
    given = read_network(module, activation)
    box = as_box((lower, upper), given.in_features)
    assert box is not None
    graph = graph_of(given.layers, given.output, given.in_features)
    lines = ChosenSlopes() if method == "crown" else None
    _, (low, high) = propagate(graph, box, zonotopes=method != "interval", relaxation=lines)
    return low, high
