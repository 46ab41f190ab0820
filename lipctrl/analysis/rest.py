"""A loop at one state with every rounding counted: how far its image is from it, what reaches plant and actuator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.analysis.policy_graph import PolicyGraph
from lipctrl.arithmetic import Enclosure
from lipctrl.rules.lines import ends, outward
from lipctrl.rules.ranges import value_range

# numpy's sin, cos, tanh and products of a few of them, relative to 1 + |ψ|: an assumption about ψ's evaluation.
LIBRARY = 2.0**-48


@dataclass(frozen=True)
class Rest:
    """Upper bounds at a state x: |F(x) - x|, and by how much float64 may miss the command, z and pre-activations."""

    residual: np.ndarray
    action: np.ndarray
    argument: np.ndarray
    neurons: np.ndarray


def enclosed_rest(form: Any, graph: PolicyGraph, state: np.ndarray) -> Rest:
    """Bound what float64 leaves open of a loop without saturation at `state`; ψ is trusted to `LIBRARY`."""
    exact = Enclosure.exact
    x = exact(state[:, None])
    late = bool(np.any(form.D_zu))
    z, y = exact(form.C_z) @ x, exact(form.y_0[:, None]) + exact(form.C) @ x
    if not late:
        psi = _psi(form, z)
        y = y + exact(form.D_w) @ psi
    w, v_radius = exact(np.zeros((graph.neurons, 1))), np.zeros(graph.neurons)
    for start, stop, sigma in graph.layers:
        rows = np.arange(start, stop)
        g0, g1 = (g.take(rows, np.arange(g.shape[1])) for g in (graph.g0, graph.g1))
        v = g0 @ y + g1 @ w + Enclosure(graph.g_bias[rows, None], graph.g_slack[rows, None])
        v_radius[rows] = v.radius[:, 0]
        if sigma is None:
            raise ValueError(
                "a map is known by its gain alone, so that its rest is unknown; expected neurons"
            )
        low, high = value_range(sigma, *(side.T for side in ends(v)))
        value = outward(low.T, high.T)
        middle, radius = w.middle().copy(), w.radius.copy()
        middle[rows], radius[rows] = value.middle(), value.radius
        w = Enclosure(middle, radius)
    u = graph.f0 @ y + graph.f1 @ w + Enclosure(graph.f_bias[:, None], graph.f_slack[:, None])
    if late:
        z = z + exact(form.D_zu) @ u
        psi = _psi(form, z)
    image = exact(form.A) @ x + exact(form.B) @ u + exact(form.B_w) @ psi
    gap = image - x
    # Twice: the middles here and the values in float64 are sums in another order.
    return Rest(
        (np.abs(gap.middle()) + gap.radius)[:, 0] * (1.0 + 1e-12),
        2.0 * u.radius[:, 0],
        2.0 * z.radius[:, 0],
        2.0 * v_radius,
    )


def _psi(form: Any, z: Enclosure) -> Enclosure:
    value = form.psi(z.middle().T).T
    steep = np.maximum(np.abs(form.lower), np.abs(form.upper))[:, None]
    return Enclosure(value, LIBRARY * (1.0 + np.abs(value)) + (1.0 + 1e-12) * steep * z.radius)
