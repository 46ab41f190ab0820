"""Regions of attraction beyond saturation: ellipsoids in which commands may exceed the actuator's limits.

About one equilibrium the saturated command s = sat(u) obeys (Δs - Δu)(Δs - GΔx) ≤ 0 wherever |GΔx| is within what the
actuator has left, for any comparison gain G: Δs lies between Δu and GΔx (Gomes da Silva & Tarbouriech 2005, Lemma
1). The dead zone Δu - Δs is then one more channel of slopes [0, 1] with the argument Δu - GΔx. Neurons and plant
enter by their sectors about the equilibrium (Yin, Seiler & Arcak 2021, §III-B), which are narrower than their
slopes. The statement is convergence to that equilibrium and nothing about pairs of trajectories: it is **not
incremental**.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lipctrl.analysis.ellipsoid import Limit, largest_ellipsoid, natural_widths, prove_limit
from lipctrl.analysis.lure_loop import LureLoop, offset_of, weighted_reach, widened
from lipctrl.analysis.policy_graph import assembled, zeros
from lipctrl.analysis.sectors import neuron_sectors, plant_sectors
from lipctrl.analysis.slope_loop import SlopeLoop, prove_loop
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError


@dataclass(frozen=True)
class SectorEllipsoid:
    """{x: (x - center)ᵀP(x - center) ≤ 1}, proved invariant: ‖x⁺ - center‖_P ≤ decay·‖x - center‖_P + residual.

    `sectors` of all channels (plant, neurons, dead zones), `multipliers` and the `comparison` gain G are the proof.
    `cage` bounds each state in the ellipsoid (inf: not limited), `offset` is how far from the centre trajectories
    end at most, in the norm of P, and `limits` are the multipliers of each limit.
    """

    shape: np.ndarray
    sectors: tuple[np.ndarray, np.ndarray]
    multipliers: np.ndarray
    comparison: np.ndarray
    offset: float
    cage: np.ndarray
    limits: tuple[np.ndarray, ...]

    @property
    def extent(self) -> np.ndarray:
        return np.sqrt(np.diag(np.linalg.inv(self.shape)))

    @property
    def size(self) -> float:
        """Return the volume up to a constant factor."""
        return 1.0 / math.sqrt(float(np.linalg.det(self.shape)))


@dataclass(frozen=True)
class SaturatedLoop:
    """The loop around `lure.state` with s = sat(u) between the policy and the plant.

    `loop` has the channels ψ, neurons, dead zones (`zones`: one for each limited action); `room` is what the actuator
    has left on the nearer side, `argument_rows` give Δz from (Δx, Δw).
    """

    lure: LureLoop
    form: Any
    loop: SlopeLoop
    argument_rows: Enclosure
    zones: np.ndarray
    room: np.ndarray
    swing: np.ndarray

    @classmethod
    def of(cls, lure: LureLoop, form: Any, limits: tuple[np.ndarray, np.ndarray]) -> SaturatedLoop:
        """Assemble the loop; every command at rest must be strictly inside the limits."""
        left, right = lure.action - limits[0], limits[1] - lure.action
        nearer = np.minimum(left, right) * (1.0 - 1e-15) - lure.rest.action
        limited = np.flatnonzero(np.isfinite(nearer))
        if not (nearer > 0.0).all():
            raise ValueError(
                f"at rest the action is {np.round(lure.action, 6).tolist()}, at or beyond the actuator limits; train a "
                "policy that rests inside them"
            )
        n, m = form.B.shape
        k, h, q = len(form.lower), lure.graph.neurons, len(limited)
        graph = lure.graph
        a, b, b_w, c_z, d_zu, c, d_w = (
            Enclosure.exact(np.asarray(x, dtype=np.float64))
            for x in (form.A, form.B, form.B_w, form.C_z, form.D_zu, form.C, form.D_w)
        )
        command = assembled([[graph.f0 @ c, graph.f0 @ d_w, graph.f1, zeros(m, q)]])
        zone = Enclosure.exact(np.hstack([np.zeros((m, n + k + h)), np.eye(m)[:, limited]]))
        applied = command - zone
        argument = assembled([[c_z, zeros(k, k + h + q)]]) + d_zu @ applied
        drive = assembled([[graph.g0 @ c, graph.g0 @ d_w, graph.g1, zeros(h, q)]])
        columns = np.arange(n + k + h + q)
        channels = assembled([[argument], [drive], [command.take(limited, columns)]])
        step = assembled([[a, b_w, zeros(n, h + q)]]) + b @ applied
        rows, states = np.arange(k + h + q), np.arange(n)
        p = c.shape[0]
        base = lure.loop
        loop = SlopeLoop(
            a=step.take(states, columns[:n]), b=step.take(states, columns[n:]),
            c=channels.take(rows, columns[:n]), d=channels.take(rows, columns[n:]),
            e=b, h=zeros(k + h + q, m), y=c, z=assembled([[d_w, zeros(p, h + q)]]), j=zeros(p, m),
            lower=np.concatenate([base.lower, np.zeros(q)]), upper=np.concatenate([base.upper, np.ones(q)]),
            owner=np.concatenate([base.owner, int(base.owner.max(initial=-1)) + 1 + np.arange(q)]).astype(int),
            sample_time=base.sample_time,
        )  # fmt: skip
        # How far the applied action can be from rest.
        swing = np.maximum(left, right) * (1.0 + 1e-15) + lure.rest.action
        return cls(lure, form, loop, argument, k + h + np.arange(q), nearer[limited], swing)

    def with_sectors(self, cage: np.ndarray) -> SaturatedLoop:
        """Return the loop with sectors that hold while |Δx| ≤ cage (inf: anywhere)."""
        form, lure = self.form, self.lure
        k = len(form.lower)
        # 0·inf is no reach at all.
        reach = weighted_reach(form.C_z, cage) + weighted_reach(form.D_zu, self.swing)
        within = np.minimum(reach, self.argument_room) * (1.0 + 1e-9)
        low, high = plant_sectors(form, lure.argument, within, lure.rest.argument)
        steep = np.maximum(np.abs(low), np.abs(high))
        change = np.where(steep > 0.0, steep * np.where(steep > 0.0, within, 0.0), 0.0)
        if np.isfinite(cage).all() and np.isfinite(change).all():
            neurons = neuron_sectors(lure, form, cage, change)
        else:
            neurons = lure.graph.lower, lure.graph.upper
        lower, upper = self.loop.lower.copy(), self.loop.upper.copy()
        lower[:k], upper[:k] = low, high
        first = k + lure.graph.neurons
        lower[k:first], upper[k:first] = neurons
        lower[:first], upper[:first] = widened(lower[:first], upper[:first])
        return replace(self, loop=self.loop.with_slopes(lower, upper))

    @property
    def argument_room(self) -> np.ndarray:
        """How far each argument of ψ may move before the form's region ends."""
        return (self.form.z_max - np.abs(self.lure.argument)) * (1.0 - 1e-15) - self.lure.rest.argument

    def limits(self, cage: np.ndarray) -> list[Limit]:
        """Return the limits that the sectors rely on: states in the cage, arguments in the form's region."""
        found: list[Limit] = []
        columns = np.arange(self.argument_rows.shape[1])
        for i, room in enumerate(self.argument_room):
            if np.isfinite(room):
                if not room > 0.0:
                    raise ValueError(
                        "at rest the plant is outside the region of its Lur'e form; widen the region"
                    )
                found.append(
                    Limit(self.argument_rows.take(np.array([i]), columns), float(room), "slope region")
                )
        eye = np.eye(self.loop.states, len(columns))
        for i in np.flatnonzero(np.isfinite(cage)):
            found.append(Limit(Enclosure.exact(eye[i : i + 1]), float(cage[i]), "state limits"))
        return found

    def compared(self, gain: np.ndarray) -> SlopeLoop:
        """Return the loop whose dead zones have the argument Δu - GΔx."""
        shift = np.zeros((self.loop.channels, self.loop.states))
        shift[self.zones] = gain
        return replace(self.loop, c=self.loop.c - Enclosure.exact(shift))

    def prove(self, found: SectorEllipsoid, limit_multipliers: list[np.ndarray], decay: float) -> None:
        """Prove the ellipsoid from its stored numbers, or raise NotProvedError."""
        checked = self.with_sectors(found.cage)
        loop = checked.compared(found.comparison).with_slopes(*found.sectors)
        if (loop.lower > checked.loop.lower).any() or (loop.upper < checked.loop.upper).any():
            raise NotProvedError("a sector is narrower than what was derived")
        prove_loop(loop, found.shape, found.multipliers, decay)
        limits = self.limits(found.cage)
        if len(limits) != len(limit_multipliers):
            raise NotProvedError("a limit has no multipliers")
        for limit, row in zip(limits, limit_multipliers, strict=True):
            prove_limit(loop, limit, found.shape, row)
        n, none = loop.states, np.zeros(loop.channels)
        for gain, room in zip(found.comparison, self.room, strict=True):
            row = Enclosure.exact(np.concatenate([gain, none])[None, :])
            prove_limit(loop, Limit(row, float(room), "comparison gain"), found.shape, none)
        if found.comparison.shape != (len(self.zones), n):
            raise NotProvedError("the comparison gain has the wrong shape")


def search(
    problem: SaturatedLoop, cage: np.ndarray, decay: float, scale: np.ndarray
) -> SectorEllipsoid | str:
    """Search and prove an ellipsoid in a cage; a string says why there is none."""
    local = problem.with_sectors(cage)
    limits = local.limits(cage)
    reason = "the search found no ellipsoid"
    for reserve in (1e-7, 1e-6, 1e-5, 1e-4):
        guess = largest_ellipsoid(
            local.loop, limits, decay * (1.0 - 1e-7), reserve, scale, dead_zones=local.zones, room=local.room
        )
        if guess is None:
            continue
        p = guess.shape
        offset = 0.0
        if not is_exact(problem.lure, problem.form):
            offset = offset_of(problem.lure, p, decay)
        found = SectorEllipsoid(
            p, (local.loop.lower, local.loop.upper), guess.multipliers, guess.comparison, offset, cage,
            tuple(guess.limit_multipliers),
        )  # fmt: skip
        try:
            problem.prove(found, guess.limit_multipliers, decay)
        except NotProvedError as error_:
            reason = f"an ellipsoid was found but not proved ({error_})"
            continue
        if not offset < 0.5:
            return "no equilibrium of the loop was found near the origin"
        return found
    return reason


def is_exact(lure: LureLoop, form: Any) -> bool:
    """Whether the equilibrium is the origin with no action, free of rounding: no bias, all channels zero at 0.

    Biases whose products only round to zero are known up to a slack, and leave the equilibrium open.
    """
    graph = lure.graph
    rest = [lure.state, lure.action, lure.argument, lure.residual, form.psi(np.zeros(len(form.lower)))]
    rest += [sigma.value(np.zeros(stop - start)) for start, stop, sigma in graph.layers if sigma is not None]
    biases = (form.y_0, graph.f_bias, graph.g_bias, graph.f_slack, graph.g_slack)
    return not any(np.any(part) for part in (*rest, *biases))


def _natural_cage(problem: SaturatedLoop) -> np.ndarray | None:
    """Return half-widths of an ellipsoid of the linearised loop on whose boundary a limit is met; None if unstable."""
    n = problem.loop.states
    tiny = problem.with_sectors(np.full(n, 1e-4)).loop
    slopes = 0.5 * (tiny.lower + tiny.upper)
    slopes[problem.zones] = 0.0
    room = np.full(tiny.channels, np.inf)
    room[: len(problem.argument_room)] = problem.argument_room
    room[problem.zones] = problem.room
    met = np.isfinite(room) & (room > 0.0)
    drive = np.hstack([tiny.c.middle(), tiny.d.middle()])
    return natural_widths(tiny, slopes, drive[met] / room[met, None])


def largest_saturated(problem: SaturatedLoop, top: np.ndarray, decay: float) -> SectorEllipsoid | str:
    """Search the largest proved ellipsoid over cages up to `top` (inf: free); a string says why there is none."""
    natural = _natural_cage(problem)
    if natural is None:
        return "the loop about its equilibrium is not stable"
    best: SectorEllipsoid | None = None
    reason = "no cage was tried"
    cages = [top, *(np.minimum(top, t * natural) for t in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0))]
    if np.isfinite(top).any():
        cages += [np.minimum(t * top, 50.0 * natural) for t in (0.7, 0.5, 0.35, 0.2)]
    # Clips inside the policy may be met long before the actuator's limits.
    small = [np.minimum(top, t * natural) for t in (0.06, 0.015, 0.004)]
    for attempts in (cages, small):
        for cage in attempts:
            found = search(problem, cage, decay, np.where(np.isfinite(cage), cage, natural))
            if isinstance(found, str):
                reason = found
            elif best is None or found.size > best.size:
                best = found
        if best is not None:
            break
    return reason if best is None else _refined(problem, best, top, decay)


def _refined(problem: SaturatedLoop, best: SectorEllipsoid, top: np.ndarray, decay: float) -> SectorEllipsoid:
    """Search on in cages of the shape of what was found: their sectors are no wider than needed."""
    for growth in (2.0, 1.4, 1.1, 1.02):
        for _ in range(4):
            cage = np.minimum(top, growth * best.extent)
            found = search(problem, cage, decay, cage)
            if isinstance(found, str) or not found.size > 1.001 * best.size:
                break
            best = found
    return best
