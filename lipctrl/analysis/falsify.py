"""Attacks on loops: slopes, pairs of trajectories and equilibria that separate; absence of a find proves nothing."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import finite_number, positive_numbers, whole_number
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.policy_graph import PolicyGraph, policy_certificate, policy_graph
from lipctrl.analysis.slope_loop import SlopeLoop, require_fit, slope_loop


@dataclass(frozen=True)
class SlopeAttack:
    """A periodic sequence of admissible slopes whose period map has spectral radius `growth` a sample.

    `growth` ≥ 1 refutes incremental stability of the class of policies with these slopes (time-varying ones
    included, which is what an incremental statement speaks about). `slopes` is (period, channels).
    """

    growth: float
    slopes: np.ndarray = field(repr=False)

    @property
    def separates(self) -> bool:
        return self.growth >= 1.0

    def __str__(self) -> str:
        said = "refutes incremental stability of the class" if self.separates else "nothing separates"
        return f"slopes of period {len(self.slopes)}: growth {self.growth:.6g} a sample, {said}"


@dataclass(frozen=True)
class PairAttack:
    """Two trajectories of the actual loop under the same inputs and how far apart they end.

    `growth` is the geometric mean growth a sample of ‖Δx‖ over the second half of the run; `separates` says that the
    pair was farther apart at the end than at the start. `first` and `second` are (steps + 1, n).
    """

    growth: float
    first: np.ndarray = field(repr=False)
    second: np.ndarray = field(repr=False)

    @property
    def separates(self) -> bool:
        start = float(np.linalg.norm(self.first[0] - self.second[0]))
        return bool(np.linalg.norm(self.first[-1] - self.second[-1]) > start)

    @property
    def distance(self) -> np.ndarray:
        """‖Δx‖ at every step (steps + 1,)."""
        return np.linalg.norm(self.first - self.second, axis=1)

    def __str__(self) -> str:
        said = "separates" if self.separates else "does not separate, which proves nothing"
        return (
            f"the pair {said}: ‖Δx‖ from {self.distance[0]:.3g} to {self.distance[-1]:.3g} in "
            f"{len(self.first) - 1} steps (growth {self.growth:.6g} a step)"
        )

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the distance of the pair over time (`lipctrl.plots.pair_plot`); returns the axes."""
        return importlib.import_module("lipctrl.plots.pair").pair_plot(self, ax=ax)


def _discrete(sys: Any) -> Any:
    system = as_realization(sys, "sys")
    if not system.is_discrete:
        raise ValueError(
            "the plant is in continuous time; expected discrete time (control.c2d at the controller's rate)"
        )
    if system.D.any():
        raise ValueError("the plant has direct feed-through; expected D = 0")
    return system


def _frozen(loop: SlopeLoop, slopes: np.ndarray) -> np.ndarray:
    matrix = loop.frozen(slopes)
    return matrix if np.isfinite(matrix).all() else np.full(matrix.shape, 1e6)


def periodic_slopes(
    sys: Any, policy: Any, *, period: int = 4, tries: int = 20, sweeps: int = 6, seed: int = 0
) -> SlopeAttack:
    """Search a periodic sequence of slopes of the policy's neurons under which the loop grows fastest.

    Coordinate ascent over the vertices of the slope box from random starts. The worst case over *constant* slopes is
    the case period = 1. Discrete time; u = π(y), positive feedback. Coupled neurons keep one slope per group.

    Raises
    ------
    ValueError
        For continuous plants, feed-through, or numbers below 1.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> plant = control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True)
    >>> attack = periodic_slopes(plant, rules.series(rules.elementwise("tanh", 1), rules.linear([[-0.6]])))
    >>> print(round(attack.growth, 6))            # tanh may be flat
    1.1
    """
    for name, count in {"period": period, "tries": tries, "sweeps": sweeps}.items():
        whole_number(count, 1, name)
    system = _discrete(sys)
    graph = policy_graph(policy_certificate(policy))
    loop = slope_loop(system, graph)
    assert loop is not None
    rng = np.random.default_rng(seed)
    owners = int(graph.owner.max(initial=-1)) + 1

    def radius(choice: np.ndarray) -> float:
        product = np.eye(loop.states)
        for row in choice:
            weight = row[loop.owner] if owners else np.zeros(0)
            product = _frozen(loop, loop.lower + weight * (loop.upper - loop.lower)) @ product
        return float(np.abs(np.linalg.eigvals(product)).max(initial=0.0)) ** (1.0 / len(choice))

    best, best_choice = -math.inf, np.zeros((period, owners))
    for attempt in range(tries):
        choice = rng.integers(0, 2, (period, owners)).astype(float)
        if attempt < 2:
            choice[:] = attempt
        value = _ascended(choice, radius, sweeps)
        if value > best:
            best, best_choice = value, choice
    weights = best_choice[:, loop.owner] if owners else np.zeros((period, 0))
    return SlopeAttack(best, loop.lower + weights * (loop.upper - loop.lower))


def _ascended(choice: np.ndarray, objective: Callable[[np.ndarray], float], sweeps: int) -> float:
    """Flip entries between 0 and 1, in place, while the objective grows; return it."""
    value = objective(choice)
    for _ in range(sweeps):
        improved = False
        for place in np.ndindex(choice.shape):
            choice[place] = 1.0 - choice[place]
            trial = objective(choice)
            if trial > value * (1.0 + 1e-12):
                value, improved = trial, True
            else:
                choice[place] = 1.0 - choice[place]
        if not improved:
            break
    return value


def separating_pair(
    step: Callable[[np.ndarray, np.ndarray], np.ndarray],
    states: int,
    *,
    disturbances: int = 0,
    steps: int = 200,
    tries: int = 30,
    scale: float = 1.0,
    distance: float = 1e-3,
    seed: int = 0,
) -> PairAttack:
    """Search two initial states and a shared disturbance sequence whose trajectories separate.

    Random starts are improved by power iteration on the pair's difference (what separates most at the end becomes the
    direction at the start, by finite differences) and by random changes of the disturbance that are kept when
    they help. `step(x, d)` maps states (count, n) and disturbances (count, k) to the next states. Finding nothing
    proves nothing.

    Parameters
    ----------
    scale : size of initial states and disturbances. distance : initial ‖Δx‖.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> plant = control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True)
    >>> policy = rules.series(rules.elementwise("tanh", 1), rules.linear([[-0.6]]))     # far away it saturates
    >>> separating_pair(loop_step(plant, policy), 1, distance=1.0, scale=5.0, steps=60).separates
    True
    """
    least = {
        "states": (states, 1),
        "disturbances": (disturbances, 0),
        "steps": (steps, 2),
        "tries": (tries, 1),
    }
    for name, (count, fewest) in least.items():
        whole_number(count, fewest, name)
    for name, size in {"scale": scale, "distance": distance}.items():
        positive_numbers(size, 1, name)
    rng = np.random.default_rng(seed)
    basis = np.eye(states)

    def run(x: np.ndarray, d: np.ndarray) -> np.ndarray:
        path = [x]
        with np.errstate(over="ignore", invalid="ignore"):
            for t in range(steps):
                path.append(
                    np.nan_to_num(step(path[-1], np.broadcast_to(d[t], (len(x), disturbances))), posinf=1e150)
                )
        return np.array(path)

    def attack(x: np.ndarray, d: np.ndarray) -> tuple[float, np.ndarray]:
        path = run(np.vstack([x[None], x + distance * basis]), d)
        response = (path[-1, 1:] - path[-1, :1]).T / distance
        if not np.isfinite(response).all():
            return math.inf, basis[0]
        _, values, right = np.linalg.svd(response)
        return float(values[0]), right[0]

    best = (-math.inf, np.zeros(states), basis[0], np.zeros((steps, disturbances)))
    for _ in range(tries):
        x, d = scale * rng.standard_normal(states), scale * rng.standard_normal((steps, disturbances))
        value, direction = attack(x, d)
        for _ in range(5):
            trial_x = x + 0.3 * scale * rng.standard_normal(states)
            trial_d = d + 0.3 * scale * rng.standard_normal(d.shape)
            trial, turned = attack(trial_x, trial_d)
            if trial > value:
                x, d, value, direction = trial_x, trial_d, trial, turned
        if value > best[0]:
            best = (value, x, direction, d)
    _, x, direction, d = best
    path = run(np.vstack([x, x + distance * direction]), d)
    gaps = np.maximum(np.linalg.norm(path[:, 1] - path[:, 0], axis=1), 1e-300)
    half = steps // 2
    return PairAttack(float((gaps[-1] / gaps[half]) ** (1.0 / (steps - half))), path[:, 0], path[:, 1])


def loop_step(sys: Any, policy: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return x⁺ = Ax + B(π(Cx) + d) of a discrete LTI plant under an actual policy, for `separating_pair`.

    States (count, n) and d (count, m), or d of width 0 for none, to the next states. Sign: u = π(y).

    Raises
    ------
    ValueError
        For plants in continuous time, or a ball that carries no policy.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> step = loop_step(control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True), rules.linear([[-0.6]]))
    >>> step(np.array([[2.0]]), np.array([[0.5]])).round(6).tolist()        # 1.1 · 2 - 0.6 · 2 + 0.5
    [[1.5]]
    """
    system = _discrete(sys)
    source = policy_certificate(policy)
    run = getattr(source, "evaluate", None) or getattr(source, "policy", None)
    if run is None:
        raise ValueError("this ball carries no actual policy; expected a Certificate or a policy object")
    a, b, c = system.A.T, system.B.T, system.C.T

    def step(x: np.ndarray, d: np.ndarray) -> np.ndarray:
        u = run(x @ c)
        return x @ a + (u + d if d.shape[-1] else u) @ b

    return step


@dataclass(frozen=True)
class UnstablePoint:
    """An equilibrium of the actual loop, held by a constant input, at which its linearisation is unstable.

    `growth` is the spectral radius there, `state` the equilibrium and `offset` the constant input r of u = π(y) + r.
    """

    growth: float
    state: np.ndarray
    offset: np.ndarray
    factor: float

    def __str__(self) -> str:
        return (
            f"k = {self.factor:.6g}: the equilibrium {np.round(self.state, 6).tolist()}, held by the constant input "
            f"{np.round(self.offset, 6).tolist()}, is unstable (spectral radius {self.growth:.6g})"
        )


def unstable_equilibrium(
    sys: Any, policy: Any, *, factor: float = 1.0, tries: int = 200, scale: float = 3.0, seed: int = 0
) -> UnstablePoint | None:
    """Search a constant input whose equilibrium is unstable for u = k·π(y) + r; None when none was found.

    A found point refutes incremental stability of the loop with that very policy at gain k = `factor`. Discrete time.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> plant = control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True)
    >>> found = unstable_equilibrium(plant, rules.series(rules.elementwise("tanh", 1), rules.linear([[-0.6]])))
    >>> print(round(found.growth, 3))
    1.1
    """
    factor, (scale,) = finite_number(factor, "factor"), positive_numbers(scale, 1, "scale")
    whole_number(tries, 1, "tries")
    system = _discrete(sys)
    graph = policy_graph(policy_certificate(policy))
    require_fit(system, graph)
    rng = np.random.default_rng(seed)
    n = system.states
    # Equilibria: (I - A)x in the range of B.
    outside = np.eye(n) - system.B @ np.linalg.pinv(system.B)
    _, values, right = np.linalg.svd(outside @ (np.eye(n) - system.A))
    free = right[(values < 1e-9 * max(values.max(initial=0.0), 1.0)).nonzero()[0]]
    if len(free) == 0:
        return None
    worst: UnstablePoint | None = None
    for attempt in range(tries):
        x = (scale * rng.standard_normal(len(free)) * (attempt > 0)) @ free
        jacobian = factor * _policy_jacobian(graph, system.C @ x)
        growth = float(np.abs(np.linalg.eigvals(system.A + system.B @ jacobian @ system.C)).max())
        if growth > 1.0 + 1e-9 and (worst is None or growth > worst.growth):
            held = np.linalg.pinv(system.B) @ (np.eye(n) - system.A) @ x
            worst = UnstablePoint(growth, x, held - factor * graph.values(system.C @ x)[0], factor)
    return worst


def _policy_jacobian(graph: PolicyGraph, y: np.ndarray, step: float = 1e-6) -> np.ndarray:
    columns = [
        (graph.values(y + step * e)[0] - graph.values(y - step * e)[0]) / (2.0 * step) for e in np.eye(len(y))
    ]
    return np.column_stack(columns)


def falsified_gains(
    sys: Any, policy: Any, *, limit: float = 100.0, seed: int = 0
) -> tuple[UnstablePoint | None, UnstablePoint | None]:
    """Return the nearest gains k below and above 1 at which the actual policy k·π was seen to lose stability.

    Bisection on `unstable_equilibrium`; each returned point is a counter-example at its `factor`. None: nothing found
    between 1 and `limit` (or 0).

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> plant = control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True)
    >>> below, above = falsified_gains(plant, rules.linear([[-0.6]]), limit=10.0)     # |1.1 - 0.6k| < 1
    >>> print(round(below.factor, 3), round(above.factor, 3))
    0.167 3.5
    """
    found: list[UnstablePoint | None] = []
    for far in (0.0, finite_number(limit, "limit")):
        near, bad = 1.0, unstable_equilibrium(sys, policy, factor=far, seed=seed)
        edge = far
        for _ in range(25):
            if bad is None:
                break
            middle = math.sqrt(near * edge) if near * edge > 0.0 else 0.5 * (near + edge)
            point = unstable_equilibrium(sys, policy, factor=middle, seed=seed, tries=60)
            if point is None:
                near = middle
            else:
                edge, bad = middle, point
        found.append(bad)
    return found[0], found[1]
