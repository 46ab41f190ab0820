"""Every margin against an oracle of its own: certified ≤ true ≤ falsified on random output-feedback loops.

A loop is made from a stable T and a centre K₀ by opening it, P = T(I + K₀T)⁻¹, so that plants of any kind come up:
unstable, lightly damped, nearly defective, with feed-through, not square, in units 1e6 apart. The oracle shares nothing
with the library: eigenvalues of closed loops, ascent over complex members of the ball, and roots of the exact
characteristic function of a delay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import control
import numpy as np
import pytest
import scipy.linalg

from lipctrl import analysis
from lipctrl.analysis import IncrementalBall

System = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Loop:
    system: System
    center: np.ndarray
    radius: float
    step: float
    dt: Any
    rng: np.random.Generator

    @property
    def plant(self):
        return control.ss(*self.system, self.dt)

    @property
    def ball(self) -> IncrementalBall:
        return IncrementalBall(self.center, self.radius)

    @property
    def shape(self) -> tuple[int, int]:
        return self.center.shape


def closed(system: System, gain: np.ndarray) -> System:
    """Return T = P(I - KP)⁻¹ for a real or complex constant gain."""
    a, b, c, d = system
    well = np.linalg.inv(np.eye(b.shape[1]) - gain @ d)
    return a + b @ well @ gain @ c, b @ well, c + d @ well @ gain @ c, d @ well


def excess(a: np.ndarray, step: float) -> float:
    """Return how far the poles are beyond the boundary, relative to their size."""
    poles = np.linalg.eigvals(a)
    return float(np.abs(poles).max() - 1.0 if step else poles.real.max() / max(np.abs(poles).max(), 1e-300))


def response(system: System, omega: float, step: float) -> np.ndarray:
    a, b, c, d = system
    point = np.exp(1j * omega * step) if step else 1j * omega
    return c @ np.linalg.solve(point * np.eye(len(a)) - a, b.astype(complex)) + d


def seen_norm(system: System, step: float) -> float:
    """Return the largest singular value found over both signs of the frequency: dense, then refined at peaks."""
    poles = np.linalg.eigvals(system[0])
    if step:
        base = np.concatenate([np.linspace(0.0, np.pi / step, 120), np.abs(np.angle(poles)) / step])
    else:
        size = np.abs(poles)
        base = np.concatenate(
            [[0.0], np.geomspace(size.min() / 1e3, size.max() * 1e3, 150), size, np.abs(poles.imag)]
        )
    best = float(np.linalg.norm(system[3], 2))
    for sign in (1.0, -1.0):
        grid = sign * np.unique(base)
        sizes = [float(np.linalg.norm(response(system, w, step), 2)) for w in grid]
        for k in np.argsort(sizes)[-3:]:
            left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
            best = max(best, sizes[k])
            for _ in range(8):
                fine = np.linspace(left, right, 9)
                values = [float(np.linalg.norm(response(system, w, step), 2)) for w in fine]
                j = int(np.argmax(values))
                best, left, right = max(best, values[j]), fine[max(j - 1, 0)], fine[min(j + 1, 8)]
    return best


def stable_system(rng: np.random.Generator, kind: str, step: float) -> System:
    n, p, m = (int(rng.integers(1, top)) for top in (6, 4, 4))
    if kind == "light":
        blocks = [
            np.array([[-zeta * w, w], [-w, -zeta * w]])
            for w, zeta in zip(10 ** rng.uniform(-1, 1, 2), 10 ** rng.uniform(-4, -1, 2), strict=True)
        ]
        basis = rng.standard_normal((4, 4))
        a = basis @ scipy.linalg.block_diag(*blocks) @ np.linalg.inv(basis)
        n = 4
    elif kind == "defective":
        a = -rng.uniform(0.3, 2.0) * np.eye(n) + np.diag(rng.uniform(0.5, 2.0, n - 1), 1)
        a = a + 1e-9 * rng.standard_normal((n, n))
    else:
        a = rng.standard_normal((n, n))
        a = a - (np.linalg.eigvals(a).real.max() + 10 ** rng.uniform(-1.5, 0.3)) * np.eye(n)
    if step:
        a = scipy.linalg.expm(0.3 * a)
    b, c = rng.standard_normal((n, m)), rng.standard_normal((p, n))
    d = rng.choice([0.0, 0.0, 0.5]) * rng.standard_normal((p, m))
    if kind == "scaled":
        units = 10 ** rng.uniform(-6, 6, n)
        a, b, c = a * units[:, None] / units, b * units[:, None], c / units
    return a, b, c, d


def random_loop(seed: int) -> Loop:
    rng = np.random.default_rng(seed)
    kind = ("plain", "light", "defective", "scaled")[seed % 4]
    dt = (0, True, 0.1, 1e-3)[int(rng.integers(4))]
    step = float(dt)
    inner = stable_system(rng, kind, step)
    norm = seen_norm(inner, step)
    center = rng.choice([0.0, 1.0, 3.0]) * rng.standard_normal((inner[1].shape[1], inner[2].shape[0]))
    center *= min(1.0, 10.0 / (norm * max(np.linalg.norm(center, 2), 1e-9)))
    return Loop(closed(inner, -center), center, rng.choice([0.0, 0.02, 0.3, 0.8]) / norm, step, dt, rng)


def turned(loop: Loop, channel: int | None, factor: complex) -> np.ndarray:
    diagonal = np.ones(loop.shape[0], dtype=complex)
    diagonal[slice(None) if channel is None else channel] = factor
    return np.diag(diagonal)


def level(loop: Loop, factors: np.ndarray) -> float:
    """Return ρ‖T‖ of the loop whose policy's outputs are multiplied by the factors; inf where it is not stable."""
    inner = closed(loop.system, factors @ loop.center)
    if excess(inner[0], loop.step) >= 0.0:
        return math.inf
    a, b, c, d = inner
    return loop.radius * seen_norm((a, b @ factors, c, d @ factors), loop.step)


def with_policy(loop: Loop, policy: Any) -> np.ndarray:
    """Return the state matrix of the plant under a linear dynamic policy."""
    a, b, c, d = loop.system
    well = np.linalg.inv(np.eye(loop.shape[0]) - policy.d @ d)
    x, xi = well @ policy.d @ c, well @ policy.c
    return np.block([[a + b @ x, b @ xi], [policy.b @ (c + d @ x), policy.a + policy.b @ d @ xi]])


def assert_member(loop: Loop, policy: Any, center: np.ndarray, radius: float) -> None:
    """The policy is stable and within `radius` of the centre at every frequency."""
    size = float(np.linalg.norm(policy.d - center, 2))
    if policy.a.size:
        assert excess(policy.a, loop.step) < 0.0
        size = seen_norm((policy.a, policy.b, policy.c, policy.d - center), loop.step)
    assert size <= radius * (1.0 + 1e-9) + 1e-12 * (1.0 + np.abs(center).max())


def attack_gain(loop: Loop) -> None:
    margin = analysis.incremental_gain_margin(loop.plant, loop.ball, channels=loop.shape[0] > 1)
    assert margin.lower <= 1.0 <= margin.upper
    for channel, (low, high) in enumerate([(margin.lower, margin.upper), *margin.channels]):
        where = None if channel == 0 else channel - 1
        for k in {low, high, math.sqrt(max(low, 1e-3) * high), 0.5 * (1.0 + low), min(2.0, high)}:
            assert level(loop, turned(loop, where, k)) < 1.0 + 1e-7, (where, k)
    for falsifier in margin.falsifiers:
        assert not margin.lower < falsifier.k < margin.upper
        assert excess(with_policy(loop, falsifier.policy), loop.step) > 0.0
        center = falsifier.k * loop.center
        assert_member(loop, falsifier.policy, center, falsifier.k * loop.radius)


def attack_phase(loop: Loop) -> None:
    margin = analysis.incremental_phase_margin(loop.plant, loop.ball, channels=loop.shape[0] > 1)
    for channel, angle in enumerate([margin.angle, *margin.channels]):
        where = None if channel == 0 else channel - 1
        for theta in (angle, -angle, 0.6 * angle, -0.95 * angle):
            assert level(loop, turned(loop, where, np.exp(1j * theta))) < 1.0 + 1e-7, (where, theta)
    if margin.destabilization is not None:
        assert margin.falsified >= margin.angle
        assert excess(with_policy(loop, margin.destabilization.policy), loop.step) > 0.0


def smallest_lag(loop: Loop, gain: np.ndarray) -> float:
    """Return the shortest delay at which det(I - e^{-jωτ}KP(jω)) has a zero, found from |eig KP(jω)| = 1."""
    poles = np.concatenate(
        [np.linalg.eigvals(loop.system[0]), np.linalg.eigvals(closed(loop.system, gain)[0])]
    )
    sizes = np.abs(poles[poles != 0.0])
    best = math.inf

    def ratios(omega: float) -> np.ndarray:
        values = np.linalg.eigvals(gain @ response(loop.system, omega, 0.0))
        return values[np.argsort(np.abs(values))]

    for sign in (1.0, -1.0):
        grid = sign * np.geomspace(sizes.min() / 50.0, sizes.max() * 50.0, 400)
        logs = np.log(np.array([np.abs(ratios(w)) for w in grid]) + 1e-300)
        for i, j in np.argwhere(logs[:-1] * logs[1:] < 0.0):
            near, far = grid[i], grid[i + 1]
            for _ in range(45):
                middle = 0.5 * (near + far)
                same = math.log(abs(ratios(middle)[j]) + 1e-300) * logs[i, j] > 0.0
                near, far = (middle, far) if same else (near, middle)
            best = min(best, (sign * np.angle(ratios(near)[j])) % (2.0 * np.pi) / abs(near))
    return best


def attack_delay(loop: Loop) -> None:
    margin = analysis.incremental_delay_margin(loop.plant, loop.ball)
    m, p = loop.shape
    if loop.step:
        for samples in {1, (margin.samples or 0) // 2, min(margin.samples or 0, 6)} - {0}:
            if samples > (margin.samples or 0):
                continue
            late = control.ss(
                np.eye(m * samples, k=-m), np.eye(m * samples, m), np.eye(m * samples)[-m:], 0, loop.dt
            )
            whole = loop.plant * late
            inner = closed((whole.A, whole.B, whole.C, whole.D), loop.center)
            assert excess(inner[0], loop.step) < 0.0
            assert loop.radius * seen_norm(inner, loop.step) < 1.0 + 1e-7
        return
    for trial in range(4):
        deviation = loop.rng.standard_normal((m, p)) + 1j * (trial % 2) * loop.rng.standard_normal((m, p))
        gain = loop.center + (trial > 0) * loop.radius * deviation / np.linalg.norm(deviation, 2)
        assert smallest_lag(loop, gain) >= margin.delay * (1.0 - 1e-9)
    if margin.destabilization is None:
        return
    assert margin.falsified >= margin.delay
    policy = margin.destabilization.policy
    assert policy is not None
    assert_member(loop, policy, loop.center, loop.radius)
    root = margin.destabilization.pole
    assert root.real > 0.0
    a, b, c, d = loop.system
    at_root = c @ np.linalg.solve(root * np.eye(len(a)) - a, b) + d
    inner = policy.d + policy.c @ np.linalg.solve(root * np.eye(len(policy.a)) - policy.a, policy.b)
    loop_gain = np.exp(-root * margin.falsified) * inner @ at_root
    assert np.abs(np.linalg.eigvals(loop_gain) - 1.0).min() < 1e-6


def ascend(loop: Loop, build: Any, choose: Any, start: Any, rounds: int = 12) -> float:
    """Climb the largest pole over perturbed gains: build(x) is the gain, choose(gradient, x) the next x."""
    best, x = -math.inf, start
    for _ in range(rounds):
        gain = build(x)
        a, b, c, _ = closed(loop.system, gain)
        best = max(best, excess(a, loop.step))
        values, left, right = scipy.linalg.eig(a, left=True)
        k = int(np.argmax(np.abs(values) if loop.step else values.real))
        turn = left[:, k].conj() @ right[:, k]
        turn = turn / abs(turn) * (values[k] / abs(values[k]) if loop.step else 1.0)
        x = choose(np.outer(b.conj().T @ left[:, k], (c @ right[:, k]).conj()) * turn, x)
        if not np.isfinite(build(x)).all():
            break
    return best


def polar(gradient: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    return np.outer(left[:, 0], right[0])


def contraction(gradient: np.ndarray) -> np.ndarray:
    """Return the matrix of norm one and full rank that rises most."""
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    return left @ right


def attack_radius(loop: Loop) -> None:
    radius = analysis.stability_radius(loop.plant, -loop.center)
    real = analysis.stability_radius(loop.plant, -loop.center, field="real")
    assert radius <= (1.0 + 1e-9) / seen_norm(closed(loop.system, loop.center), loop.step)
    assert real >= radius * (1.0 - 1e-9)
    for trial in range(6):
        start = loop.rng.standard_normal(loop.shape)
        start /= np.linalg.norm(start, 2)
        for size, part in ((radius, np.asarray), (real, np.real)):
            if not math.isfinite(size):
                continue
            worst = ascend(
                loop,
                lambda x, s=size: loop.center + s * (1.0 - 1e-6) * x,
                lambda g, _, f=part, full=trial % 2: contraction(f(g)) if full else polar(f(g)),
                start,
            )
            assert worst < 1e-9
    for field, size in (("complex", radius), ("real", real)):
        if math.isfinite(size) and radius > 0.0:
            try:
                found = analysis.worst_deviation(loop.plant, -loop.center, field=field)
            except ValueError:
                continue
            assert found.value >= size * (1.0 - 1e-9)
            assert found.policy is not None
            assert excess(with_policy(loop, found.policy), loop.step) > 0.0


def attack_structured(loop: Loop) -> None:
    (m, p), rng = loop.shape, loop.rng
    shapes = [(int(rng.integers(1, 3)), int(rng.integers(1, 3))) for _ in range(int(rng.integers(1, 4)))]
    left = rng.standard_normal((m, sum(r for r, _ in shapes)))
    right = rng.standard_normal((sum(c for _, c in shapes), p))
    found = analysis.structured_radius(loop.plant, -loop.center, shapes, left=left, right=right)
    if not math.isfinite(found.radius):
        return
    rows, columns = (np.cumsum([0, *(s[k] for s in shapes)]) for k in (0, 1))

    def choose(gradient: np.ndarray, _: Any) -> list[np.ndarray]:
        inner = -left.T @ gradient @ right.T
        cuts = zip(rows[:-1], rows[1:], columns[:-1], columns[1:], strict=True)
        return [polar(inner[a:b, c:d]) for a, b, c, d in cuts]

    for _ in range(4):
        start = [polar(rng.standard_normal(s)) for s in shapes]
        worst = ascend(
            loop,
            lambda x: loop.center - found.radius * left @ scipy.linalg.block_diag(*x) @ right,
            choose,
            start,
        )
        assert worst < 1e-9
    assert not found.falsified < found.radius * (1.0 - 1e-9)
    if found.destabilization is not None:
        assert excess(with_policy(loop, found.destabilization.policy), loop.step) > 0.0


def attack_disk(loop: Loop) -> None:
    (m, p), rng = loop.shape, loop.rng
    skew = float(rng.choice([0.0, 0.7, -1.0, 1.0, -2.5]))
    margin = analysis.incremental_disk_margin(loop.plant, loop.ball, skew)
    a, b, size = 0.5 * (1.0 + skew), 0.5 * (1.0 - skew), min(margin.alpha, 50.0) * (1.0 - 1e-9)
    State = tuple[np.ndarray, np.ndarray]

    def build(x: State) -> np.ndarray:
        return ((1.0 + b * x[0]) / (1.0 - a * x[0]))[:, None] * (loop.center + loop.radius * x[1])

    def choose(gradient: np.ndarray, x: State) -> State:
        factor, policy = (1.0 + b * x[0]) / (1.0 - a * x[0]), loop.center + loop.radius * x[1]
        rise = (gradient * policy.conj()).sum(axis=1) / np.conj(1.0 - a * x[0]) ** 2
        delta = np.where(np.abs(rise) > 0.0, size * rise / np.maximum(np.abs(rise), 1e-300), x[0])
        return delta, polar(factor.conj()[:, None] * gradient)

    for _ in range(4):
        start = (size * np.exp(2j * np.pi * rng.random(m)), polar(rng.standard_normal((m, p)) + 0j))
        assert ascend(loop, build, choose, start) < 1e-9
    assert not margin.falsified < margin.alpha
    if margin.destabilization is not None:
        assert excess(with_policy(loop, margin.destabilization.policy), loop.step) > 0.0


ATTACKS = {
    "gain": attack_gain,
    "phase": attack_phase,
    "delay": attack_delay,
    "radius": attack_radius,
    "structured": attack_structured,
    "disk": attack_disk,
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore")
def test_no_member_of_the_class_is_lost_inside_a_margin(name, seed):
    ATTACKS[name](random_loop(seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.filterwarnings("ignore")
def test_no_member_of_the_class_is_lost_inside_a_margin_of_many_loops(name):
    for seed in range(100, 110):
        ATTACKS[name](random_loop(seed))


SCALAR = [
    ([1.0, -1.5, 0.5, -0.5, 0.5], [4.4, -8.957, 9.893, -5.671, 2.207, -0.5]),
    ([1.0, -1.95, 0.9, 0.05], [1.0, -2.8, 3.5, -2.412, 0.7209]),
    ([-0.5, 0.1], [1.0, -0.9, 0.79, 0.089]),
]


@pytest.mark.parametrize(("top", "bottom"), SCALAR)
def test_the_real_radius_of_a_scalar_loop_is_where_a_polynomial_loses_stability(top, bottom):
    """The response is real at isolated frequencies only, between which level sets of σ₂ see nothing."""
    radius = analysis.stability_radius(control.tf(top, bottom, True), field="real")
    padded = np.concatenate([np.zeros(len(bottom) - len(top)), top])

    def grown(k: float) -> float:
        return float(np.abs(np.roots(np.asarray(bottom) - k * padded)).max()) - 1.0

    assert all(grown(k) < 0.0 for k in np.linspace(-radius, radius, 2001))
    assert max(grown(1.00001 * radius), grown(-1.00001 * radius)) > 0.0


@pytest.mark.parametrize("exponent", [0, 3, 6])
def test_margins_do_not_shrink_with_the_units_of_the_states(exponent):
    """States in units 10^e apart: the same loop has the same margins, each proved."""
    rng = np.random.default_rng(5)
    a, b, c, d = stable_system(rng, "plain", 0.0)
    center = 0.3 * rng.standard_normal((b.shape[1], c.shape[0]))
    units = 10.0 ** rng.uniform(-exponent, exponent, len(a))
    ball = IncrementalBall(center, 0.3 / seen_norm((a, b, c, d), 0.0))
    found = []
    for t in (np.ones(len(a)), units):
        plant = control.ss(*closed((a * t[:, None] / t, b * t[:, None], c / t, d), -center))
        gain, phase = (
            analysis.incremental_gain_margin(plant, ball),
            analysis.incremental_phase_margin(plant, ball),
        )
        found.append([gain.lower, gain.upper, phase.angle])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_residual_margin_below_one_has_its_falsifier():
    """ρ too large by half: the certified end is 2/3, and what lies just beyond is shown, not looked for below it."""
    plant, ball = control.tf([1], [1, -1]), IncrementalBall([[-3.0]], 3.0)
    margin = analysis.incremental_gain_margin(plant, ball, "residual")
    assert margin.upper == pytest.approx(2.0 / 3.0, rel=1e-8)
    assert margin.upper < margin.falsified_upper < margin.upper * (1.0 + 1e-6)
