"""A plant in Lur'e form and a policy as one loop of slope-restricted channels around an operating point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.activations import Activation
from lipctrl.analysis.policy_graph import PolicyGraph, assembled, zeros
from lipctrl.analysis.rest import Rest, enclosed_rest
from lipctrl.analysis.slope_loop import SlopeLoop
from lipctrl.arithmetic import Enclosure
from lipctrl.rules.ranges import Interval, slope_range
from lipctrl.wrappers import require_raw_units

_ARRAYS = ("A", "B", "B_w", "C_z", "D_zu", "lower", "upper", "z_max", "C", "D_w", "y_0")


@dataclass(frozen=True)
class LureLoop:
    """x⁺ = Ax + Bu + B_wψ(z), z = C_zx + D_zu u, y = y₀ + Cx + D_wψ(z), u = π(y), around the point `state`.

    `loop` has the channels of ψ first, then the policy's neurons. `action_rows` (m, n + channels) give Δu and
    `argument_rows` (k, n + channels) give Δz from (Δx, Δw). `action`, `argument` and `residual` were evaluated in
    float64; `rest` bounds what that leaves open.
    """

    loop: SlopeLoop
    action_rows: Enclosure
    argument_rows: Enclosure
    state: np.ndarray
    action: np.ndarray
    argument: np.ndarray
    residual: np.ndarray
    rest: Rest
    plant_channels: int
    graph: PolicyGraph


def read_form(plant: Any) -> Any:
    """Return the Lur'e form of a plant, environment or form, checked.

    Raises
    ------
    ValueError
        When there is no form, it holds NaN, or its own algebraic loop (D_w and D_zu both non-zero) is not covered.
    """
    require_raw_units(plant)
    form: Any = plant
    for path in (("unwrapped", "plant"), ("plant",)):
        found: Any = plant
        for name in path:
            found = getattr(found, name, None)
        if hasattr(found, "lure_form"):
            form = found
            break
    if hasattr(form, "lure_form"):
        form = form.lure_form()
    if not all(hasattr(form, name) for name in (*_ARRAYS, "dt")):
        raise ValueError(
            f"plant is a {type(plant).__name__}; expected a Lur'e form (A, B, B_w, C_z, D_zu, lower, upper, z_max, C, "
            "D_w, y_0, dt) or an object with lure_form(), such as an environment of lipctrl_envs"
        )
    for name in _ARRAYS:
        value = np.asarray(getattr(form, name), dtype=np.float64)
        finite = np.isfinite(value) | ((name == "z_max") & (value == np.inf))
        if not finite.all():
            raise ValueError(
                f"{name} of the Lur'e form holds NaN or infinite entries; expected finite numbers"
            )
    if np.any(np.asarray(form.lower) > np.asarray(form.upper)):
        raise ValueError(
            f"the Lur'e form has lower slopes {form.lower} above upper ones {form.upper}; expected lower ≤ upper"
        )
    if not form.dt > 0.0:
        raise ValueError(f"dt of the Lur'e form is {form.dt!r}; expected a positive sampling time [s]")
    if np.any(form.D_w) and np.any(form.D_zu):
        raise ValueError(
            "D_w and D_zu are both non-zero, an algebraic loop; add one sample of actuator delay"
        )
    return form


def action_of(
    form: Any,
    graph: PolicyGraph,
    state: np.ndarray,
    actuator: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (u, z, x⁺) of the loop at states (..., n), in float64; u is clipped to `actuator` (low, high) if given."""
    if form.psi is None:
        raise ValueError(
            f"this Lur'e form only bounds the plant's Jacobian ({form.note}); a region of attraction needs the exact "
            "form with its ψ"
        )
    z = state @ form.C_z.T
    if not np.any(form.D_zu):
        u = graph.values(form.y_0 + state @ form.C.T + form.psi(z) @ form.D_w.T)[0]
    else:
        u = graph.values(form.y_0 + state @ form.C.T)[0]
    if actuator is not None:
        u = np.clip(u, *actuator)
    if np.any(form.D_zu):
        z = z + u @ form.D_zu.T
    return u, z, state @ form.A.T + u @ form.B.T + form.psi(z) @ form.B_w.T


def equilibrium_of(form: Any, graph: PolicyGraph, start: np.ndarray) -> np.ndarray:
    """Return a fixed point of the loop near `start` by Newton's method (unverified: its residual counts later)."""
    return fixed_point(lambda x: action_of(form, graph, x)[2], state_units(form, graph), start)


def state_units(form: Any, graph: PolicyGraph) -> np.ndarray:
    """Return sizes of the states that balance their equations; some argument of a nonlinearity is then of order one."""
    linear = form.A + form.B @ graph.f0.middle() @ form.C
    _, (sizes, _) = scipy.linalg.matrix_balance(linear, permute=False, separate=True)
    arguments = np.abs(np.vstack([form.C_z, graph.g0.middle() @ form.C])) @ sizes
    reach = float(arguments.max(initial=0.0))
    return sizes / reach if reach > 0.0 else sizes


def fixed_point(step: Callable[[np.ndarray], np.ndarray], units: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Search a fixed point of x⁺ = step(x) by Newton's method in units of the states, unverified."""
    x = np.asarray(start, dtype=np.float64)
    eye = np.eye(len(x))
    for _ in range(60):
        residual = step(x) - x
        if not np.isfinite(residual).all() or (np.abs(residual) < 1e-15 * (units + np.abs(x))).all():
            break
        moves = 1e-6 * np.diag(units)
        jacobian = ((step(x + moves) - step(x - moves)) / 2e-6).T / units[:, None]
        x = x - units * np.linalg.lstsq(jacobian - eye, residual / units, rcond=None)[0]
    return x


def offset_of(lure: LureLoop, p: np.ndarray, decay: float) -> float:
    """Return how far in the norm of P the equilibrium is at most from the centre of a contraction at rate `decay`."""
    error = lure.rest.residual
    return math.sqrt(float(error @ np.abs(p) @ error)) / (1.0 - decay) * (1.0 + 1e-12)


def weighted_reach(matrix: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Return |matrix|·bound where 0·inf = 0."""
    weights = np.abs(matrix)
    product = np.where(weights > 0.0, weights * np.where(weights > 0.0, bound, 0.0), 0.0)
    return product.sum(axis=1)


def lure_loop(form: Any, graph: PolicyGraph, state: np.ndarray) -> LureLoop:
    """Assemble the loop of a Lur'e form and a policy graph around a state, with global slopes of the neurons."""
    u, z, after = action_of(form, graph, state)
    a, b, b_w, c_z, d_zu, c, d_w = (
        Enclosure.exact(np.asarray(m, dtype=np.float64))
        for m in (form.A, form.B, form.B_w, form.C_z, form.D_zu, form.C, form.D_w)
    )
    k, h = len(form.lower), graph.neurons
    by_x, by_psi, by_n = graph.f0 @ c, graph.f0 @ d_w, graph.f1
    action = assembled([[by_x, by_psi, by_n]])
    argument = assembled([[c_z, zeros(k, k), zeros(k, h)]]) + d_zu @ action
    drive = assembled([[graph.g0 @ c, graph.g0 @ d_w, graph.g1]])
    n = form.A.shape[0]
    channels = assembled([[argument], [drive]]) if h else argument
    columns = np.arange(n + k + h)
    rows = np.arange(k + h)
    step = assembled([[a, b_w, zeros(n, h)]]) + b @ action
    owner = np.concatenate([np.arange(k), k + graph.owner]).astype(int)
    m, p = b.shape[1], c.shape[0]
    loop = SlopeLoop(
        a=step.take(np.arange(n), columns[:n]),
        b=step.take(np.arange(n), columns[n:]),
        c=channels.take(rows, columns[:n]),
        d=channels.take(rows, columns[n:]),
        e=b,
        h=assembled([[d_zu], [zeros(h, m)]]) if h else d_zu,
        y=c,
        z=assembled([[d_w, zeros(p, h)]]),
        j=zeros(p, m),
        lower=np.concatenate([form.lower, graph.lower]),
        upper=np.concatenate([form.upper, graph.upper]),
        owner=owner,
        sample_time=float(form.dt),
    )
    rest = enclosed_rest(form, graph, state)
    return LureLoop(loop, action, argument, state, u, z, after - state, rest, k, graph)


def neuron_slopes(lure: LureLoop, form: Any, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes of all channels that hold while |Δx| ≤ radius, entry by entry, around the operating point."""
    steep = np.maximum(np.abs(form.lower), np.abs(form.upper))
    reach_y = np.abs(form.C) @ radius + np.abs(form.D_w) @ (steep * (np.abs(form.C_z) @ radius))
    lower, upper = bounded_neurons(
        lure, form, reach_y, lambda s, v, r, e: slope_range(s, v - r - e, v + r + e)
    )
    k, loop = lure.plant_channels, lure.loop
    return np.concatenate([loop.lower[:k], lower]), np.concatenate([loop.upper[:k], upper])


def bounded_neurons(
    lure: LureLoop,
    form: Any,
    reach_y: np.ndarray,
    bound: Callable[[Activation, np.ndarray, np.ndarray, np.ndarray], Interval],
) -> Interval:
    """Return bounds of the policy's neurons, within their global slopes, for |Δy| ≤ reach_y about the operating point.

    Pre-activations are bounded by |Δv| ≤ |G₀||Δy| + |G₁||Δw| layer by layer; outward by a part in 1e9 for rounding.
    `bound` takes an activation, the pre-activations at the operating point, their reach and their rounding.
    """
    graph = lure.graph
    y = form.y_0 + form.C @ lure.state + form.D_w @ form.psi(lure.argument)
    _, v, _ = graph.values(y)
    lower, upper = graph.lower.copy(), graph.upper.copy()
    change = np.zeros(graph.neurons)
    g0, g1 = (np.abs(g.middle()) + g.radius for g in (graph.g0, graph.g1))
    for start, stop, sigma in graph.layers:
        cut = slice(start, stop)
        reach = (g0[cut] @ reach_y + g1[cut] @ change) * (1.0 + 1e-9) + 1e-12
        if sigma is not None and sigma.group == 1:
            low, high = bound(sigma, v[cut], reach, lure.rest.neurons[cut])
            lower[cut], upper[cut] = np.maximum(low, lower[cut]), np.minimum(high, upper[cut])
        change[cut] = largest_changes(graph.owner[cut], lower[cut], upper[cut], reach)
    return lower, upper


def largest_changes(owner: np.ndarray, lower: np.ndarray, upper: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return bounds of |Δw| for |Δv| ≤ reach, entry by entry; coupled channels pass changes on to one another."""
    _, group, count = np.unique(owner, return_inverse=True, return_counts=True)
    # Of coupled channels only ‖Δw‖ ≤ max(|lower|, |upper|)·‖Δv‖ is known.
    together = np.sqrt(np.bincount(group, reach**2, len(count)))[group] * (1.0 + 1e-9)
    return np.maximum(np.abs(lower), np.abs(upper)) * np.where(count[group] == 1, reach, together)


def widened(lower: np.ndarray, upper: np.ndarray, least: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals of at least some width: a slope that is a point would need an infinite multiplier."""
    return np.minimum(lower, upper - least), upper
