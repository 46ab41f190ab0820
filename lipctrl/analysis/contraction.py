"""Searches P and Λ of the structured loop inequality, then proves what it found."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from lipctrl.analysis.barrier import Terms, largest_margin
from lipctrl.analysis.slope_loop import SlopeLoop, prove_loop
from lipctrl.positivity import NotProvedError


@dataclass(frozen=True)
class Contraction:
    """A proved contraction: ‖Δx(t)‖_P falls at least like `decay`ᵗ (discrete) or exp(-decay·t) (continuous)."""

    decay: float
    lyapunov: np.ndarray
    multipliers: np.ndarray


@dataclass(frozen=True)
class _Scaled:
    """The data of the inequality in coordinates in which P ≈ I and λ ≈ 1 are sensible guesses."""

    step: np.ndarray
    state: np.ndarray
    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    to_state: np.ndarray
    guess: np.ndarray
    owners: int


def _scaled(loop: SlopeLoop, decay: float) -> _Scaled | None:
    """Scale by a Lyapunov matrix of the loop with middle slopes; None where that loop is not stable."""
    n, h = loop.states, loop.channels
    middle = loop.frozen(0.5 * (loop.lower + loop.upper))
    if not np.isfinite(middle).all():
        return None
    poles = np.linalg.eigvals(middle)
    edge = (
        np.abs(poles).max(initial=0.0) - decay
        if loop.is_discrete
        else poles.real.max(initial=-math.inf) + decay
    )
    if n and edge >= 0.0:
        return None
    root, back = lyapunov_coordinates(middle, decay, loop.is_discrete)
    if root is None:
        return None
    a, b = root @ loop.a.middle() @ back, root @ loop.b.middle()
    c, d = loop.c.middle() @ back, loop.d.middle()
    # What a channel must pay for its effect on the state and, through later channels, on everything else.
    steep = np.maximum(np.abs(loop.lower), np.abs(loop.upper))
    energy = (b * b).sum(axis=0)
    guess = energy + 1e-6 * energy.mean() if energy.any() else np.ones(h)
    if energy.any() and d.any():
        for _ in range(min(h, 64)):
            guess = energy + (steep[:, None] * d**2).T @ guess
            if not guess.max() < 1e12:
                break
        guess = np.minimum(guess, 1e12)
        guess = np.maximum(guess, 1e-8 * guess.max())
    owners = int(loop.owner.max(initial=-1)) + 1
    shared = np.array([guess[loop.owner == k].max() for k in range(owners)])
    if not all(np.isfinite(x).all() for x in (a, b, c, d, shared)):
        return None  # Beyond float64: a loop that near to instability is left undecided.
    v = np.hstack([c, d])
    w = np.eye(h, n + h, n)
    low, high = w - loop.lower[:, None] * v, w - loop.upper[:, None] * v
    weight = np.concatenate([np.ones(n), shared[loop.owner] if h else np.zeros(0)])
    return _Scaled(np.hstack([a, b]), np.eye(n, n + h), low, high, weight, root, shared, owners)


def lyapunov_coordinates(
    matrix: np.ndarray, decay: float, discrete: bool
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return R and R⁻¹ with RᵀR a Lyapunov matrix of a stable matrix at the given decay; None where that fails.

    Solved in balanced coordinates, so that the units of the states do not matter. A guess: warnings about its accuracy
    are of no consequence, because what comes of it is proved.
    """
    n = len(matrix)
    if n == 0:
        return np.eye(0), np.eye(0)
    balanced, (scale, _) = scipy.linalg.matrix_balance(matrix, permute=False, separate=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
            if discrete:
                p = scipy.linalg.solve_discrete_lyapunov((balanced / decay).T, np.eye(n))
            else:
                p = scipy.linalg.solve_continuous_lyapunov((balanced + decay * np.eye(n)).T, -np.eye(n))
            root = scipy.linalg.cholesky((p + p.T) / 2.0)
    except (np.linalg.LinAlgError, ValueError):
        return None, np.eye(n)
    return root / scale, scale[:, None] * scipy.linalg.solve_triangular(root, np.eye(n))


def _terms(loop: SlopeLoop, s: _Scaled, decay: float) -> tuple[Terms, Terms]:
    """Return M(P, Λ) and P as sums of rank-two terms; unknowns are the upper triangle of P, then Λ/guess."""
    n, h = loop.states, loop.channels
    rows, columns = np.triu_indices(n)
    pairs, diagonal = len(rows), rows == columns
    half = np.where(diagonal, 0.5, 1.0)
    state, step = np.arange(n), n + np.arange(n)
    low, high = 2 * n + np.arange(h), 2 * n + h + np.arange(h)
    own = np.arange(pairs)
    if loop.is_discrete:
        coefficient = [decay**2 * half, -half]
        left, right = [state[rows], step[rows]], [state[columns], step[columns]]
        owner = [own, own]
    else:
        coefficient = [-2.0 * decay * half, -half, -half]
        left, right = [state[rows], state[rows], state[columns]], [state[columns], step[columns], step[rows]]
        owner = [own, own, own]
    coefficient.append(s.guess[loop.owner] if h else np.zeros(0))
    left.append(low)
    right.append(high)
    owner.append(pairs + loop.owner)
    vectors = np.vstack([s.state, s.step, s.low, s.high]).T
    main = Terms(
        vectors,
        np.concatenate(owner),
        np.concatenate(coefficient),
        np.concatenate(left),
        np.concatenate(right),
    )
    return main, Terms(np.eye(n), own, half, rows, columns)


# What overflows ends in a matrix that is not finite, of which nothing is proved.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def find_contraction(loop: SlopeLoop, decay: float, *, tight: bool = False) -> Contraction | None:
    """Return a proved contraction of the loop at rate `decay` (√α, or β in 1/s), or None where none was proved.

    None is not a proof of the contrary. `tight` spends a few more steps on a well-centred certificate.
    """
    n = loop.states
    scaled = _scaled(loop, decay)
    if scaled is None:
        return None
    if n == 0:
        return Contraction(decay, np.zeros((0, 0)), np.zeros(loop.channels))
    main, positive = _terms(loop, scaled, decay)
    pairs = n * (n + 1) // 2
    rows, columns = np.triu_indices(n)
    size = pairs + scaled.owners
    start = np.zeros(size)
    start[:pairs][rows == columns] = 1.0
    start[pairs:] = 1.0
    budget = start / start.sum()
    budget[:pairs] *= 0.5 / budget[:pairs].sum()
    if scaled.owners:
        budget[pairs:] *= 0.5 / budget[pairs:].sum()
    start /= budget @ start
    if not (np.isfinite(main.value(start)).all() and scaled.weight.min() ** 2 > 0.0):
        return None  # Products beyond float64: undecided, too.
    found = largest_margin(
        main, positive, start, np.arange(pairs, size), scaled.weight, budget, enough=0.8 if tight else 0.3
    )
    if not found.margin > 0.0:
        return None
    p = np.zeros((n, n))
    p[rows, columns] = found.theta[:pairs]
    p = p + np.triu(p, 1).T
    p = scaled.to_state.T @ p @ scaled.to_state
    p = (p + p.T) / 2.0
    multipliers = (scaled.guess * found.theta[pairs:])[loop.owner] if loop.channels else np.zeros(0)
    try:
        prove_loop(loop, p, multipliers, decay)
    except NotProvedError:
        return None
    return Contraction(decay, p, multipliers)


def marginal_decay(loop: SlopeLoop, relative: float = 1e-6) -> float:
    """Return a decay barely faster than none: what a bare stability verdict asks for.

    A millionth of the time constant of the loop with middle slopes, so that slow plants are not penalised.
    """
    middle = loop.frozen(0.5 * (loop.lower + loop.upper))
    poles = np.linalg.eigvals(middle) if np.isfinite(middle).all() else np.ones(1)
    if loop.is_discrete:
        radius = float(np.abs(poles).max(initial=0.0))
        return 1.0 - relative * max(1.0 - radius, 1e-6)
    return relative * max(float(-poles.real.max(initial=-1.0)), 1e-9)


def fastest_contraction(loop: SlopeLoop, *, tolerance: float = 1e-3) -> Contraction | None:
    """Return the fastest proved contraction of the loop, to a relative `tolerance` of 1 - √α or of β."""
    best = find_contraction(loop, marginal_decay(loop))
    if best is None or loop.states == 0:
        return best
    middle = np.linalg.eigvals(loop.frozen(0.5 * (loop.lower + loop.upper)))
    # Work with the distance from no contraction at all: 1 - √α, or β.
    speed = (lambda decay: 1.0 - decay) if loop.is_discrete else (lambda decay: decay)
    slow = speed(best.decay)
    fast = 1.0 - float(np.abs(middle).max()) if loop.is_discrete else float(-middle.real.max())
    while fast - slow > tolerance * fast:
        trial = 0.5 * (slow + fast) if slow > 1e-3 * fast else math.sqrt(slow * fast)
        found = find_contraction(loop, 1.0 - trial if loop.is_discrete else trial)
        if found is None:
            fast = trial
        else:
            slow, best = trial, found
    return best
