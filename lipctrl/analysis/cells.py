"""A sampled loop on many small boxes at once: enclosures of its step at their centres and of its slopes on them.

A pair of points of one box obeys Δx⁺ = JΔx with J in the product of the difference quotients of ψ, of the neurons and
of the clip on that box (mean-value form, Moore, Kearfott & Cloud 2009, §6.3). Pre-activations are enclosed in the same
form, v(m) + J_v(x - m), which is exact wherever a neuron is affine. All boxes are columns of one matrix, in `Enclosure`
arithmetic; sign u = π(y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.activations import Activation, activation
from lipctrl.analysis.policy_graph import PolicyGraph
from lipctrl.analysis.rest import LIBRARY
from lipctrl.analysis.sectors import sine_slopes
from lipctrl.arithmetic import Enclosure
from lipctrl.rules.lines import ends, outward
from lipctrl.rules.ranges import slope_range, value_range


@dataclass(frozen=True)
class Steps:
    """What is known of N boxes: F(m) (n, N), slopes J (N, n, n) on the box, whether it is in the plant's region.

    `saturated` tells on which boxes some command may be clipped.
    """

    image: Enclosure
    slopes: Enclosure
    inside: np.ndarray
    saturated: np.ndarray


@dataclass(frozen=True)
class CellLoop:
    """x⁺ = Ax + B sat(kπ(y)) + B_wψ(z), z = C_zx + D_zu u, y = y₀ + Cx + D_wψ(z), for a gain k in [low, high].

    `actuator` holds the limits (low, high) of what reaches the plant, infinite where there is none.
    """

    form: Any
    graph: PolicyGraph
    actuator: tuple[np.ndarray, np.ndarray]
    gain: tuple[float, float] = (1.0, 1.0)

    def step(self, x: np.ndarray, gain: float = 1.0) -> np.ndarray:
        """Return x⁺ at states (..., n), in float64."""
        form = self.form
        z = x @ form.C_z.T
        y = form.y_0 + x @ form.C.T
        if np.any(form.D_w):
            y = y + form.psi(z) @ form.D_w.T
        u = np.clip(gain * self.graph.values(y)[0], *self.actuator)
        if np.any(form.D_zu):
            z = z + u @ form.D_zu.T
        return x @ form.A.T + u @ form.B.T + form.psi(z) @ form.B_w.T

    def enclose(self, middle: np.ndarray, radius: np.ndarray) -> Steps:
        """Enclose step and slopes on the boxes |x - middle| ≤ radius, both (n, N)."""
        form = self.form
        n, count = middle.shape
        m, eye = _exact(middle), np.repeat(np.eye(n), count, axis=1)
        late = bool(np.any(form.D_zu))
        z, z_slopes = _exact(form.C_z) @ m, _exact(form.C_z) @ _exact(eye)
        y, y_slopes = _exact(form.y_0[:, None]) + _exact(form.C) @ m, _exact(form.C) @ _exact(eye)
        inside = np.ones(count, dtype=bool)
        if not late:
            psi, psi_slopes, inside = self._plant(z, z_slopes, radius)
            y, y_slopes = y + _exact(form.D_w) @ psi, y_slopes + _exact(form.D_w) @ psi_slopes
        u, u_slopes = self._policy(y, y_slopes, radius)
        u, u_slopes, saturated = self._actuated(u, u_slopes, radius)
        if late:
            z, z_slopes = z + _exact(form.D_zu) @ u, z_slopes + _exact(form.D_zu) @ u_slopes
            psi, psi_slopes, inside = self._plant(z, z_slopes, radius)
        image = _exact(form.A) @ m + _exact(form.B) @ u + _exact(form.B_w) @ psi
        slopes = _exact(form.A) @ _exact(eye) + _exact(form.B) @ u_slopes + _exact(form.B_w) @ psi_slopes
        return Steps(image, _stacked(slopes, n, count), inside, saturated)

    def _plant(
        self, z: Enclosure, z_slopes: Enclosure, radius: np.ndarray
    ) -> tuple[Enclosure, Enclosure, np.ndarray]:
        """Enclose ψ at the centres and its slopes in the states, and tell which boxes keep |z| ≤ z_max."""
        form = self.form
        low, high = _range(z, z_slopes, radius)
        inside = ((-form.z_max[:, None] <= low) & (high <= form.z_max[:, None])).all(axis=0)
        least, most = plant_slopes(form, low.T, high.T)
        slopes = outward(least.T, most.T)
        value = form.psi(z.middle().T).T
        # ψ moves by at most its slope where z is not known exactly.
        steep = np.maximum(np.abs(least), np.abs(most)).T
        slack = LIBRARY * (1.0 + np.abs(value)) + (1.0 + 1e-12) * steep * z.radius
        return Enclosure(value, slack), _repeated(slopes, z_slopes).times(z_slopes), inside

    def _policy(self, y: Enclosure, y_slopes: Enclosure, radius: np.ndarray) -> tuple[Enclosure, Enclosure]:
        """Enclose π at the centres and its slopes on the boxes."""
        graph = self.graph
        w = np.zeros((graph.neurons, y.shape[1]))
        w_slopes = np.zeros((graph.neurons, y_slopes.shape[1]))
        states = [_Growing(w), _Growing(w_slopes)]
        for start, stop, sigma in graph.layers:
            rows = np.arange(start, stop)
            before = np.arange(start)
            g0, g1 = (g.take(rows, np.arange(g.shape[1])) for g in (graph.g0, graph.g1))
            g1 = g1.take(np.arange(len(rows)), before)
            bias = Enclosure(graph.g_bias[rows, None], graph.g_slack[rows, None])
            v = g0 @ y + bias
            v_slopes = g0 @ y_slopes
            if start:
                v, v_slopes = v + g1 @ states[0].upto(start), v_slopes + g1 @ states[1].upto(start)
            low, high = _range(v, v_slopes, radius)
            value, slopes = _activated(sigma, v, v_slopes, low, high)
            states[0].put(start, stop, value)
            states[1].put(start, stop, slopes)
        bias = Enclosure(graph.f_bias[:, None], graph.f_slack[:, None])
        u, u_slopes = graph.f0 @ y + bias, graph.f0 @ y_slopes
        if graph.neurons:
            u = u + graph.f1 @ states[0].upto(graph.neurons)
            u_slopes = u_slopes + graph.f1 @ states[1].upto(graph.neurons)
        if self.gain != (1.0, 1.0):
            k = outward(np.full((1, 1), self.gain[0]), np.full((1, 1), self.gain[1]))
            u, u_slopes = k.times(u), k.times(u_slopes)
        return u, u_slopes

    def _actuated(
        self, u: Enclosure, u_slopes: Enclosure, radius: np.ndarray
    ) -> tuple[Enclosure, Enclosure, np.ndarray]:
        """Clip a command: its value at the centres, its slopes, and on which boxes a limit may be met."""
        bottom, top = self.actuator[0][:, None], self.actuator[1][:, None]
        low, high = _range(u, u_slopes, radius)
        free = np.logical_and(low >= bottom, high <= top)
        beyond = np.logical_or(low >= top, high <= bottom)
        slopes = outward(np.where(free, 1.0, 0.0), np.where(beyond, 0.0, 1.0))
        least, most = ends(u)
        value = outward(np.clip(least, bottom, top), np.clip(most, bottom, top))
        return value, _repeated(slopes, u_slopes).times(u_slopes), np.logical_not(free.all(axis=0))


class _Growing:
    """Enclosures of the neurons, filled layer by layer."""

    def __init__(self, zero: np.ndarray) -> None:
        self.middle, self.radius = zero, np.zeros_like(zero)

    def put(self, start: int, stop: int, value: Enclosure) -> None:
        self.middle[start:stop], self.radius[start:stop] = value.middle(), value.radius

    def upto(self, stop: int) -> Enclosure:
        return Enclosure(self.middle[:stop], self.radius[:stop])


def plant_slopes(form: Any, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enclose the difference quotients of a Lur'e form's ψ between points of [low, high], (N, k).

    From the form's own `psi_slopes`, from the derivative where ψ is sin or tanh; else the form's slopes of its region.
    """
    given = getattr(form, "psi_slopes", None)
    if given is not None:
        least, most = given(low, high)
    elif form.psi is np.sin:
        least, most = sine_slopes(low, high)
    elif form.psi is np.tanh:
        least, most = slope_range(activation("tanh"), low, high)
    else:
        return np.broadcast_to(form.lower, low.shape), np.broadcast_to(form.upper, low.shape)
    right = np.shape(least) == low.shape == np.shape(most)
    if not (right and np.isfinite(least).all() and np.isfinite(most).all() and (least <= most).all()):
        raise ValueError(
            "psi_slopes of the Lur'e form returned NaN, infinite or unordered bounds, or another shape; expected "
            f"lower ≤ upper of shape {low.shape}"
        )
    return least, most


def _activated(
    sigma: Activation | None, v: Enclosure, v_slopes: Enclosure, low: np.ndarray, high: np.ndarray
) -> tuple[Enclosure, Enclosure]:
    """Enclose a layer's outputs at the centres and their slopes in the states."""
    if sigma is None or (sigma.group > 1 and sigma.name != "groupsort"):
        name = "a map known by its gain alone" if sigma is None else sigma.name
        raise ValueError(f"the policy holds {name}, whose values on a box are not known; expected neurons")
    least, most = ends(v)
    if sigma.group > 1:
        # Sorting mixes the slopes of a group by a doubly stochastic matrix.
        value = outward(sigma.value(least.T).T, sigma.value(most.T).T)
        shape = (-1, sigma.group, v_slopes.shape[1])
        a, b = (side.reshape(shape) for side in ends(v_slopes))
        hull = (
            np.repeat(side, sigma.group, axis=1)
            for side in (a.min(1, keepdims=True), b.max(1, keepdims=True))
        )
        return value, outward(*(side.reshape(v_slopes.shape) for side in hull))
    if sigma.name == "clip" and not sigma.params:
        # A clip inside the policy, with limits of their own for each row.
        value = outward(sigma.value(least.T).T, sigma.value(most.T).T)
        slopes = outward(*(side.T for side in slope_range(sigma, low.T, high.T)))
    else:
        value = outward(*value_range(sigma, least, most))
        slopes = outward(*slope_range(sigma, low, high))
    return value, _repeated(slopes, v_slopes).times(v_slopes)


def _exact(values: np.ndarray) -> Enclosure:
    return Enclosure.exact(values)


def _range(value: Enclosure, slopes: Enclosure, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enclose rows v on the boxes: v(m) + J_v(x - m)."""
    rows, count = value.shape
    n = len(radius)
    reach = (np.abs(slopes.middle()) + slopes.radius).reshape(rows, n, count)
    total = np.einsum("rnc,nc->rc", reach, radius) * (1.0 + 1e-12) + value.radius
    return ends(Enclosure(value.middle(), total * (1.0 + 1e-12)))


def _repeated(factor: Enclosure, like: Enclosure) -> Enclosure:
    """Repeat columns (one a box) for each state."""
    times = like.shape[1] // factor.shape[1]
    return Enclosure(np.tile(factor.middle(), times), np.tile(factor.radius, times))


def _stacked(slopes: Enclosure, n: int, count: int) -> Enclosure:
    """Rearrange (n, n·N) with one block of boxes for each state into (N, n, n)."""
    middle, radius = (a.reshape(n, n, count).transpose(2, 0, 1) for a in (slopes.middle(), slopes.radius))
    return Enclosure(middle, radius)
