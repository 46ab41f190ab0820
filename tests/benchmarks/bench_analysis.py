"""Closed-loop analysis: classical plants, structured margins, a region of attraction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import control
import numpy as np

from lipctrl import analysis, rules
from tests.benchmarks import classical_plants as reference
from tests.benchmarks.classical_plants import CARRASCO

Rows = list[dict[str, Any]]


def _timed(call: Callable[[], Any], repeat: int = 3) -> tuple[Any, float]:
    """Return the result and the median CPU time [s] of a few calls."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        result = call()
        times.append(time.process_time() - begin)
    return result, float(np.median(times))


def _random_system(states: int, damping: float, seed: int) -> control.StateSpace:
    """Return a stable system: dense with random poles, or `states`/2 oscillators of the given damping, mixed."""
    rng = np.random.default_rng(seed)
    if damping == 0.0:
        a = rng.standard_normal((states, states)) / math.sqrt(states)
        a -= (np.linalg.eigvals(a).real.max() + 0.2) * np.eye(states)
    else:
        a = np.zeros((states, states))
        for k, omega in enumerate(np.geomspace(1.0, 100.0, states // 2)):
            a[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[-damping * omega, omega], [-omega, -damping * omega]]
        q, _ = np.linalg.qr(rng.standard_normal((states, states)))
        a = q @ a @ q.T
    return control.ss(a, rng.standard_normal((states, 2)), rng.standard_normal((2, states)), np.zeros((2, 2)))


def _compared(
    plant: str, criterion: str, ours: float, reference: float, source: str, incremental: bool
) -> dict[str, Any]:
    error = abs(ours / reference - 1.0) if math.isfinite(reference) else float(ours != reference)
    kind = "incremental" if incremental else "non-incremental"
    return {
        "plant": plant, "criterion": criterion, "ours": ours, "reference": reference, "source": source,
        "relative error": error, "kind": kind,
    }  # fmt: skip


def _carrasco(fast: bool) -> Rows:
    rows: Rows = []
    for name, (num, den, circle, best, _) in list(CARRASCO.items())[: 2 if fast else None]:
        plant = control.tf(num, den, True)
        value = analysis.max_slope(plant)
        rows.append(
            _compared(name, "circle", value, circle, "Carrasco et al. 2020, Table II (4 digits)", True)
        )
        rows.append(_compared(name, "circle", value, reference.circle_by_sweep(plant), "sweep", True))
        radius = analysis.stability_radius(plant, field="real")
        roots = reference.radius_by_roots(num, den, True)
        rows.append(_compared(name, "real stability radius", radius, roots, "polynomial roots", False))
        multiplier = analysis.zames_falb(plant, order=6 if fast else 20, odd=True)
        rows.append(
            _compared(
                name, "Zames-Falb, odd φ", multiplier.slope, best, "Carrasco et al. 2020, Table II", False
            )
        )
    return rows


def _several_channels(fast: bool) -> Rows:
    rows: Rows = []
    park, two = reference.park(), reference.fetzer_scherer()
    diagonal = analysis.diagonal_slope(park)
    rows.append(_compared("Park 2002, ex. 3", "diagonal circle", diagonal,
                          reference.slope_by_inequality(park, False), "cvxpy, KYP inequality", True))  # fmt: skip
    rows.append(_compared("Fetzer & Scherer 5.6", "diagonal circle", analysis.diagonal_slope(two),
                          reference.scaled_circle_by_sweep(two), "sweep", True))  # fmt: skip
    if fast:
        return rows
    four, lag = reference.fetzer_scherer_four(), reference.fetzer_scherer_lag()
    rows.append(_compared("Fetzer & Scherer 4.9", "diagonal circle", analysis.diagonal_slope(four),
                          reference.slope_by_inequality(four, False), "cvxpy, KYP inequality", True))  # fmt: skip
    rows.append(_compared("Fetzer & Scherer 5.7", "circle", analysis.max_slope(lag),
                          reference.circle_by_sweep(lag), "sweep", True))  # fmt: skip
    rows.append(_compared("Fetzer & Scherer 5.7", "Popov", analysis.popov_criterion(lag).slope,
                          reference.popov_by_sweep(lag), "sweep", False))  # fmt: skip
    for name, plant in (("Park 2002, ex. 3", park), ("Fetzer & Scherer 4.9", four)):
        rows.append(_compared(name, "Popov", analysis.popov_criterion(plant).slope,
                              reference.slope_by_inequality(plant, True), "cvxpy, KYP inequality", False))  # fmt: skip
    return rows


def _single_loops(fast: bool) -> Rows:
    fitts = reference.fitts()
    num, den = fitts.num[0][0], fitts.den[0][0]
    lag = control.tf([1.0], [1.0, 3.0, 3.0, 1.0])
    return [
        _compared("Fitts 1966", "circle", analysis.max_slope(fitts), reference.circle_by_sweep(fitts), "sweep", True),
        _compared("Fitts 1966", "Popov", analysis.popov_criterion(fitts).slope, reference.popov_by_sweep(fitts),
                  "sweep", False),
        _compared("Fitts 1966", "real stability radius", analysis.stability_radius(fitts, field="real"),
                  reference.radius_by_roots(num, den, False), "polynomial roots", False),
        _compared("1/(s+1)³", "circle", analysis.max_slope(lag), 4.0, "exact", True),
        _compared("1/(s+1)³", "Popov", analysis.popov_criterion(lag).slope, 8.0, "exact (Hurwitz)", False),
    ]  # fmt: skip


def _disk_margins(fast: bool) -> Rows:
    rows: Rows = []
    seiler = control.tf([25.0], [1.0, 10.0, 10.0, 10.0])
    satellite = reference.satellite()
    second = satellite * control.ss([], [], [], [[1.0, -2.0], [0.0, 1.0]])
    published = {
        "Seiler et al. 2020, eq. (3)": 0.46,
        "satellite": 0.0997,
        "satellite, K = [1 -2; 0 1]": 0.3754,
    }
    for (name, printed), loop in zip(published.items(), (seiler, satellite, second), strict=True):
        found = analysis.disk_margin(loop, np.eye(loop.ninputs))
        exact = reference.disk_by_sweep(loop)
        label = "disk margin α" + (" (several loops)" if loop.ninputs > 1 else "")
        rows.append(_compared(name, label, found.alpha, printed, "published (2 to 4 digits)", False))
        rows.append(_compared(name, label, found.alpha, exact, "sweep", False))
        gain = (2.0 + exact) / (2.0 - exact)
        rows.append(_compared(name, "disk gain margin", found.gain_margin[1], gain, "sweep", False))
        rows.append(
            _compared(
                name,
                "disk phase margin [rad]",
                found.phase_margin,
                2.0 * math.atan(0.5 * exact),
                "sweep",
                False,
            )
        )
    single = analysis.disk_margin(satellite, np.eye(2)).channels[0].alpha
    rows.append(_compared("satellite", "disk margin α, one loop", single, 2.0, "published (exact)", False))
    return rows


def _yin(fast: bool) -> Rows:
    import scipy.linalg

    rows: Rows = []
    for name, plant in (
        ("Yin et al. pendulum", reference.pendulum()),
        ("Yin et al. vehicle", reference.vehicle()),
    ):
        a, b = plant.A, plant.B
        x = scipy.linalg.solve_discrete_are(a, b, np.eye(len(a)), np.eye(1))
        gain = np.linalg.solve(np.eye(1) + b.T @ x @ b, b.T @ x @ a)
        closed = control.ss(a - b @ gain, b, plant.C, plant.D, plant.dt)
        ours = analysis.stability_radius(plant, gain)
        rows.append(
            _compared(
                name, "stability radius about LQR", ours, 1.0 / reference.peak_by_sweep(closed), "sweep", True
            )
        )
    return rows


def classical(fast: bool) -> Rows:
    """Classical plants: ours against published values and against values recomputed by other algorithms."""
    tables = (_carrasco, _several_channels, _single_loops, _disk_margins, _yin)
    return [row for table in tables for row in table(fast)]


def _lqr(plant: control.StateSpace, price: float = 1.0) -> np.ndarray:
    import scipy.linalg

    a, b = plant.A, plant.B
    weight = price * np.eye(b.shape[1])
    x = scipy.linalg.solve_discrete_are(a, b, np.eye(len(a)), weight)
    gain = np.linalg.solve(weight + b.T @ x @ b, b.T @ x @ a)
    # The policy reads outputs: K C = K_x.
    return np.linalg.lstsq(plant.C.T, gain.T, rcond=None)[0].T


def _environment_plants() -> dict[str, control.StateSpace]:
    """Return the linearised plants of lipctrl_envs that a static gain of their outputs stabilises."""
    import lipctrl_envs

    found: dict[str, control.StateSpace] = {}
    for name in lipctrl_envs.__all__:
        kind = getattr(lipctrl_envs, name)
        if not (isinstance(kind, type) and issubclass(kind, lipctrl_envs.Plant)):
            continue
        try:
            plant = kind().linearize()
            closed = plant.A - plant.B @ _lqr(plant) @ plant.C
        except (TypeError, ValueError, np.linalg.LinAlgError):
            continue  # An abstract plant, or one whose linear model cannot be stabilised.
        if np.abs(np.linalg.eigvals(closed)).max() < 1.0:
            found[name] = plant
    return found


def _trained(plant: control.StateSpace, activation: str, seed: int) -> Any:
    """Train a residual policy of half the admissible Lipschitz constant by imitation; return its certificate."""
    import torch

    from lipctrl.nn import LipschitzResNet
    from lipctrl.policies import ResidualPolicy

    torch.manual_seed(seed)
    gain = _lqr(plant)
    budget = 0.5 * analysis.max_lipschitz(plant, gain)
    k = torch.tensor(gain, dtype=torch.float32)
    actions, outputs = k.shape
    net = LipschitzResNet(outputs, actions, lipschitz=budget, width=8, depth=2, activation=activation)
    policy = ResidualPolicy(gain.tolist(), net)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    size = float(k.norm())
    for _ in range(150):
        y = torch.randn(128, outputs)
        drive = y @ k.T
        loss = ((policy(y) + size * torch.tanh(drive / size)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.certificate()


def structured(fast: bool) -> Rows:
    """Structured loop inequality against the ball test on networks trained here: ends of the gain margins and time."""
    rows: Rows = []
    plants = _environment_plants()
    for name in list(plants)[: 1 if fast else None]:
        for activation in ("tanh",) if fast else ("relu", "tanh"):
            for seed in range(1 if fast else 2):
                policy = _trained(plants[name], activation, seed)
                for form in ("policy", "residual"):
                    margin, seconds = _timed(
                        lambda p=plants[name], c=policy, f=form: analysis.structured_gain_margin(
                            p, c, f, limit=10.0, tolerance=0.1
                        ),
                        1,
                    )
                    wider = (margin.upper > 1.001 * margin.ball_upper) | (
                        margin.lower < 0.999 * margin.ball_lower
                    )
                    narrower = (margin.upper < margin.ball_upper) | (margin.lower > margin.ball_lower)
                    rows.append(
                        {
                            "plant": name,
                            "activation": activation,
                            "seed": seed,
                            "form": form,
                            "ball lower": margin.ball_lower,
                            "lower": margin.lower,
                            "ball upper": margin.ball_upper,
                            "upper": margin.upper,
                            "verdict": "smaller" if narrower else "larger" if wider else "equal",
                            "s": seconds,
                        }
                    )
    return rows


def _imitator(gain: Any, spread: Any, limit: float, size: float, activation: str, seed: int) -> Any:
    """Train a residual policy to imitate a saturated linear gain on normal samples and to rest where the plant does."""
    import torch

    from lipctrl.nn import LipschitzResNet
    from lipctrl.policies import ResidualPolicy

    torch.manual_seed(seed)
    k = torch.tensor(gain, dtype=torch.float32)
    spread = torch.tensor(spread, dtype=torch.float32)
    net = LipschitzResNet(k.shape[1], 1, lipschitz=size, width=8, depth=1, activation=activation)
    policy = ResidualPolicy((0.85 * k).tolist(), net)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    rest = torch.zeros(1, k.shape[1])
    for _ in range(200):
        y = torch.randn(128, k.shape[1]) * spread
        target = -(y @ k.T).clamp(-limit, limit)
        loss = ((policy(y) - target) ** 2).mean() + 10.0 * policy(rest).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def region(fast: bool) -> Rows:
    """Regions of attraction of Yin, Seiler & Arcak's pendulum and vehicle with networks trained here, simulated."""
    rows: Rows = []
    cases = [
        ("pendulum", _yin_pendulum(), [[1.4, 0.18]], [0.7, 3.0], 0.7, 0.3, [2.5, 6.0], 2000),
        ("pendulum, 0.4 N·m", _yin_pendulum(), [[1.4, 0.18]], [0.7, 3.0], 0.4, 0.3, [2.5, 6.0], 2000),
        ("vehicle", _yin_vehicle(), [[0.2, 0.06, 1.0, 0.08]], [2.0, 2.0, 0.5, 1.0], math.pi / 6, 0.1, None, 3000),
    ]  # fmt: skip
    for name, form, gain, spread, limit, size, box, steps in cases[:1] if fast else cases:
        for activation in ("tanh",) if fast else ("tanh", "relu"):
            policy = _imitator(gain, spread, limit, size, activation, 0)
            for incremental in (True, False):
                found, seconds = _timed(
                    lambda f=form, p=policy, u=limit, x=box, i=incremental: analysis.region_of_attraction(
                        f, p, action_limit=u, state_limits=x, incremental=i
                    ),
                    1,
                )
                path, actions = found.simulate(found.boundary(24 if fast else 100), steps)
                rows.append(
                    {
                        "plant": name,
                        "activation": activation,
                        "claim": "contraction, no saturation" if incremental else "convergence, may saturate",
                        "volume": found.volume,
                        "half-widths": ", ".join(f"{e:.3g}" for e in found.extent),
                        "largest |u| seen": float(np.abs(actions).max()),
                        "stays inside": bool(found.contains(path[1:]).all()),
                        "final distance": float(np.abs(path[-1] - found.center).max()),
                        "s": seconds,
                    }
                )
    return rows


def _yin_vehicle() -> Any:
    """Return the vehicle of Yin, Seiler & Arcak (2021), §V-B, without its unmodelled dynamics."""
    from lipctrl_envs.lure import LureForm

    plant = reference.vehicle()
    empty = np.zeros(0)
    return LureForm(
        A=plant.A, B=plant.B, B_w=np.zeros((4, 0)), C_z=np.zeros((0, 4)), D_zu=np.zeros((0, 1)), lower=empty,
        upper=empty, z_max=empty, C=np.eye(4), D_w=np.zeros((4, 0)), y_0=np.zeros(4), dt=0.02, psi=np.positive,
    )  # fmt: skip


def _yin_pendulum() -> Any:
    """Return the plant of Yin, Seiler & Arcak (2021), §V-A, explicit Euler with dt = 0.02 s."""
    from lipctrl_envs.lure import LureForm

    dt, inertia = 0.02, 0.15 * 0.5**2
    return LureForm(
        A=np.array([[1.0, dt], [0.0, 1.0 - dt * 0.5 / inertia]]),
        B=np.array([[0.0], [dt / inertia]]),
        B_w=np.array([[0.0], [dt * 9.81 / 0.5]]),
        C_z=np.array([[1.0, 0.0]]),
        D_zu=np.zeros((1, 1)),
        lower=np.zeros(1),
        upper=np.ones(1),
        z_max=np.array([math.pi / 2]),
        C=np.eye(2),
        D_w=np.zeros((2, 1)),
        y_0=np.zeros(2),
        dt=dt,
        psi=np.sin,
    )


def report_time(fast: bool) -> Rows:
    """`analyze`, and the incremental gain margin alone, of loops of growing size with a residual ball: seconds."""
    rows: Rows = []
    for states in (4,) if fast else (4, 10, 20):
        system = _random_system(states, 0.0, states)
        gain = 0.3 / analysis.hinf_norm(system).value
        policy = rules.linear(np.eye(2) * gain)
        report, seconds = _timed(lambda s=system, p=policy: analysis.analyze(s, p), 1)
        _, margin = _timed(lambda s=system, r=report: analysis.incremental_gain_margin(s, r.ball))
        rows.append({"states": states, "verdict": str(report.verdict), "s": seconds, "margin s": margin})
    return rows


TABLES = {
    "classical_plants": classical,
    "structured_margins": structured,
    "region_of_attraction": region,
    "analyze_time": report_time,
}


def run(fast: bool = False) -> Rows:
    """Run every table of this file and return all rows, each with the name of its table."""
    return [{"table": name, **row} for name, table in TABLES.items() for row in table(fast)]
