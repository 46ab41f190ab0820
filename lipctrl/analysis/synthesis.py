"""Choosing the nominal gain K so that a policy u = -K y + φ(y) may have a large Lipschitz constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from lipctrl.analysis.arguments import positive_numbers, whole_number
from lipctrl.analysis.loop import nominal_loop, real_gain
from lipctrl.analysis.plant import Realization, as_realization


def max_lipschitz(sys: Any, gain: Any) -> float:
    """Return the largest proved ρ such that every φ with Lipschitz constant < ρ is safe in u = -K y + φ(y).

    1/‖T‖_∞ of the loop T = P(I + KP)⁻¹, the complex stability radius (Hinrichsen & Pritchard 1986); 0 when K does not
    provably stabilise the plant. `gain` is K (actions, observations), negative feedback as written.

    Examples
    --------
    >>> import control
    >>> round(max_lipschitz(control.tf([1], [1, -1]), [[3.0]]), 6)
    2.0
    """
    k = real_gain(gain)
    norm = nominal_loop(sys, -k).norm().value
    if not math.isfinite(norm):
        return 0.0
    return math.inf if norm == 0.0 else math.nextafter(1.0 / norm, 0.0)


@dataclass(frozen=True)
class GainChoice:
    """A gain K of u = -K y + φ(y), its proved Lipschitz budget and how it was found.

    `bound` is a limit that no linear controller, static or dynamic, can pass (H∞ optimum), or inf where it was not
    computed; it is a numerical value, not a proof. `limit` is the largest ‖K‖ that the search was allowed, inf where
    it had none: where `limited`, the gain used it up, and the budget grows with `max_gain`, perhaps up to `bound`.
    """

    gain: np.ndarray
    lipschitz: float
    cost: float
    method: str
    bound: float = math.inf
    limit: float = math.inf

    @property
    def limited(self) -> bool:
        """Whether the gain is as large as it was allowed to be."""
        return float(np.linalg.norm(self.gain, 2)) > 0.95 * self.limit

    def __str__(self) -> str:
        rows = np.array2string(self.gain, precision=6, separator=", ").replace("\n", "")
        text = f"K = {rows}: φ with Lipschitz constant < {self.lipschitz:.6g} ({self.method})"
        if math.isfinite(self.bound):
            text += (
                f"; the most that any linear controller leaves is about {self.bound:.6g}, a computed value"
            )
        if self.limited:
            text += (
                f"; ‖K‖ is at its limit {self.limit:.6g}, which decides here, not the plant: a larger max_gain may "
                "leave more"
            )
        return text


@dataclass(frozen=True)
class TradeOff:
    """Gains from cheap to expensive control: LQR cost against Lipschitz budget. Rows sorted by cost."""

    choices: tuple[GainChoice, ...] = field(repr=False)

    def pareto(self) -> tuple[GainChoice, ...]:
        """Return the choices that no other beats in both cost and budget."""
        front: list[GainChoice] = []
        for choice in self.choices:
            if not front or choice.lipschitz > front[-1].lipschitz:
                front.append(choice)
        return tuple(front)

    def __str__(self) -> str:
        front = {id(choice) for choice in self.pareto()}
        lines = [f"{'cost':>12}  {'Lipschitz <':>12}  {'‖K‖':>12}  method"]
        for choice in self.choices:
            size = float(np.linalg.norm(choice.gain, 2))
            beaten = "" if id(choice) in front else "  (beaten in cost and budget)"
            lines.append(
                f"{choice.cost:>12.6g}  {choice.lipschitz:>12.6g}  {size:>12.6g}  {choice.method}{beaten}"
            )
        return "\n".join(lines)


def _state_feedback(sys: Any) -> Realization:
    system = as_realization(sys, "sys")
    if system.D.any() or system.outputs != system.states or np.linalg.matrix_rank(system.C) < system.states:
        raise ValueError(
            f"the plant has {system.states} states and {system.outputs} outputs; expected one independent output per "
            "state and D = 0 for LQR gains. Use best_gain(start=K) with a stabilising output gain instead"
        )
    return system


def _lqr(system: Realization, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    a, b = system.A, system.B
    try:
        if system.is_discrete:
            x = scipy.linalg.solve_discrete_are(a, b, q, r)
            k = np.linalg.solve(r + b.T @ x @ b, b.T @ x @ a)
        else:
            x = scipy.linalg.solve_continuous_are(a, b, q, r)
            k = np.linalg.solve(r, b.T @ x)
    except np.linalg.LinAlgError:
        raise ValueError(
            "no LQR gain was found: the Riccati equation has no stabilising solution, so the plant has an unstable "
            "mode that its inputs do not reach, or is too near to one; expected a stabilisable plant"
        ) from None
    # The gain reads outputs: K C = K_x.
    return np.linalg.solve(system.C.T, k.T).T


def _cost(system: Realization, gain: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
    """Return the quadratic cost trace(X) of u = -K y from a random initial state of unit covariance."""
    if system.states == 0:
        return 0.0  # Nothing decays: there is no initial state.
    # u = -K(Cx + Du): the action reads the state through the feed-through's algebraic loop.
    k = np.linalg.solve(np.eye(system.inputs) + gain @ system.D, gain @ system.C)
    closed = system.A - system.B @ k
    weight = q + k.T @ r @ k
    poles = np.linalg.eigvals(closed)
    if system.is_discrete:
        if np.abs(poles).max() >= 1.0:
            return math.inf
        return float(np.trace(scipy.linalg.solve_discrete_lyapunov(closed.T, weight)))
    if poles.real.max() >= 0.0:
        return math.inf
    return float(np.trace(scipy.linalg.solve_continuous_lyapunov(closed.T, -weight)))


def trade_off(
    sys: Any,
    *,
    state_weights: Any = None,
    action_weights: Any = None,
    prices: Sequence[float] | None = None,
) -> TradeOff:
    """Return LQR gains over a range of prices of control, each with its proved Lipschitz budget.

    Parameters
    ----------
    sys : plant with one independent output per state and D = 0. state_weights, action_weights : diagonals of Q and R,
        or one number for all (ones by default). prices : factors of R (default 1e-4 … 1e4).

    Raises
    ------
    ValueError
        For plants whose states are not all measured or not all reached, or weights and prices that are not positive.

    Examples
    --------
    >>> import control
    >>> plant = control.ss([[0, 1], [1, 0]], [[0], [1]], [[1, 0], [0, 1]], 0)
    >>> [round(choice.lipschitz, 3) for choice in trade_off(plant, prices=[0.1, 1.0]).choices]
    [1.414, 3.317]
    """
    system = _state_feedback(sys)
    states, actions = (1.0 if weights is None else weights for weights in (state_weights, action_weights))
    q = np.diag(positive_numbers(states, system.states, "state_weights"))
    r = np.diag(positive_numbers(actions, system.inputs, "action_weights"))
    factors = np.geomspace(1e-4, 1e4, 17) if prices is None else positive_numbers(prices, None, "prices")
    choices = []
    for price in factors:
        gain = _lqr(system, q, price * r)
        choices.append(
            GainChoice(gain, max_lipschitz(system, gain), _cost(system, gain, q, r), f"LQR, R × {price:.3g}")
        )
    return TradeOff(tuple(sorted(choices, key=lambda c: c.cost)))


def _no_gain(system: Realization) -> np.ndarray:
    return np.zeros((system.inputs, system.outputs))


def best_gain(
    sys: Any, *, start: Any = None, max_gain: float | None = None, evaluations: int = 400
) -> GainChoice:
    """Search the static gain K that maximises the Lipschitz budget of φ in u = -K y + φ(y).

    Starts from the best LQR gain of `trade_off`, from `start`, or from no gain at all where the plant is stable and
    not all of its states are measured; improved by Nelder and Mead on the H∞ norm; the
    budget of the result is proved. `bound` is the H∞ optimum over all linear controllers where slycot is installed.

    Parameters
    ----------
    max_gain : largest singular value that K may have (default: ten times that of LQR with unit weights, or of
        `start`; from no gain, ten times the budget it leaves). In continuous time and with all states measured the
        budget grows with K without end.
    evaluations : of the H∞ norm, by the search.

    Raises
    ------
    ValueError
        For bad data, a start that does not provably stabilise or is beyond max_gain, or a plant without LQR gains and
        no start.

    Examples
    --------
    >>> import control
    >>> choice = best_gain(control.tf([1], [1, -1]), max_gain=3.0)
    >>> print(round(float(choice.gain[0, 0]), 3), round(choice.lipschitz, 3))     # |φ'| < K - 1
    3.0 2.0
    """
    system = as_realization(sys, "sys")
    if max_gain is not None:
        max_gain = float(positive_numbers(max_gain, 1, "max_gain")[0])
    whole_number(evaluations, 1, "evaluations")
    begin, limit = _beginning(system, start, max_gain)
    if begin.lipschitz <= 0.0:
        raise ValueError(
            "the starting gain does not provably stabilise the plant; expected start=K that does"
        )
    identity = np.eye(system.states), np.eye(system.inputs)
    if math.isinf(begin.lipschitz):
        # Nothing reaches the output.
        cost = _cost(system, begin.gain, *identity)
        return GainChoice(begin.gain, math.inf, cost, begin.method, math.inf, limit)
    gain, budget = _searched(system, begin, limit, evaluations)
    optimum = hinf_optimum(system)
    # A proved budget refutes a computed optimum below it: the routine has failed.
    bound = optimum if optimum >= budget * (1.0 - 1e-3) else math.inf
    cost = _cost(system, gain, *identity)
    return GainChoice(gain, budget, cost, f"search from {begin.method}", bound, limit)


def _beginning(system: Realization, start: Any, max_gain: float | None) -> tuple[GainChoice, float]:
    """Return the choice from which a search begins, and the largest ‖K‖ that it may use."""
    if start is not None:
        return _given(system, real_gain(start), max_gain)
    if system.outputs != system.states and max_lipschitz(system, _no_gain(system)) > 0.0:
        # Not all states are measured, but the plant is stable by itself: no gain at all is a start.
        return _given(system, _no_gain(system), max_gain)
    return _best_lqr(system, max_gain)


def _best_lqr(system: Realization, max_gain: float | None) -> tuple[GainChoice, float]:
    _state_feedback(system)
    unit = _lqr(system, np.eye(system.states), np.eye(system.inputs))
    limit = 10.0 * float(np.linalg.norm(unit, 2)) if max_gain is None else max_gain
    small = [c for c in trade_off(system).choices if np.linalg.norm(c.gain, 2) <= limit]
    if not small:
        raise ValueError(f"no LQR gain is below max_gain = {limit:.6g}; expected a larger limit, or start=K")
    return max(small, key=lambda c: c.lipschitz), limit


def _given(system: Realization, gain: np.ndarray, max_gain: float | None) -> tuple[GainChoice, float]:
    if not np.isfinite(gain).all():
        raise ValueError("start has NaN or infinite entries; expected finite gains")
    budget = max_lipschitz(system, gain)
    known = float(np.linalg.norm(gain, 2))
    limit = 10.0 * (known or budget) if max_gain is None else max_gain
    if known > limit:
        raise ValueError(
            f"the starting gain has ‖K‖ = {known:.6g}, beyond max_gain = {limit:.6g}; expected a smaller start or "
            "a larger limit"
        )
    return GainChoice(gain, budget, math.nan, "the given gain" if gain.any() else "no gain"), limit


def _searched(
    system: Realization, begin: GainChoice, limit: float, evaluations: int
) -> tuple[np.ndarray, float]:
    """Return a gain of no smaller budget than where it began, and that budget, by Nelder and Mead."""
    shape = begin.gain.shape
    # The search moves every entry on its own scale; from zero, on that of the budget it starts with.
    largest = float(np.abs(begin.gain).max()) or min(begin.lipschitz, limit)
    size = np.maximum(np.abs(begin.gain).ravel(), 1e-2 * max(largest, 1e-6) if begin.gain.any() else largest)

    def objective(v: np.ndarray) -> float:
        trial = (v * size).reshape(shape)
        if not np.linalg.norm(trial, 2) <= limit:
            return 1e3
        budget = max_lipschitz(system, trial)
        return -math.log(budget) if budget > 0.0 else 1e3

    result = scipy.optimize.minimize(
        objective, begin.gain.ravel() / size, method="Nelder-Mead",
        options={"maxfev": evaluations, "xatol": 1e-6, "fatol": 1e-8},
    )  # fmt: skip
    gain = (result.x * size).reshape(shape)
    budget = max_lipschitz(system, gain)
    return (gain, budget) if budget >= begin.lipschitz else (begin.gain, begin.lipschitz)


def hinf_optimum(sys: Any) -> float:
    """Return 1/γ*, the largest Lipschitz budget that any linear controller could leave (numerical), or inf.

    γ* is the H∞-optimal norm of T = P(I - K₀P)⁻¹ over dynamic K₀, by slycot's sb10ad; inf where slycot is absent, the
    plant is static or in discrete time, or the routine fails. The measurement noise and the control are weighted by
    1e-6 to make the problem regular, so that the value is high by about that much.

    Examples
    --------
    >>> import control, math
    >>> bound = hinf_optimum(control.tf([1], [1, -1]))
    >>> math.isinf(bound) or bound > best_gain(control.tf([1], [1, -1]), max_gain=3.0).lipschitz
    True
    """
    system = as_realization(sys, "sys")
    if system.is_discrete or system.D.any() or system.states == 0:
        return math.inf
    try:
        import slycot
        from slycot.exceptions import SlycotArithmeticError, SlycotParameterError
    except ImportError:
        return math.inf
    n, m, p = system.states, system.inputs, system.outputs
    best = math.inf
    for small in (1e-6, 1e-4, 1e-2):
        b = np.hstack([system.B, np.zeros((n, p)), system.B])
        c = np.vstack([system.C, np.zeros((m, n)), system.C])
        d = np.zeros((2 * p + m, 2 * m + p))
        d[p : p + m, m + p :] = small * np.eye(m)
        d[p + m :, m : m + p] = small * np.eye(p)
        try:
            out = slycot.sb10ad(n, 2 * m + p, 2 * p + m, m, p, 1e6, system.A, b, c, d, job=1, gtol=1e-6)
        except (SlycotArithmeticError, SlycotParameterError):
            continue
        best = min(best, float(out[0]))
    return 1.0 / best if 0.0 < best < math.inf else math.inf
