"""Closed-loop analysis: H∞ norms against peers, classical plants, structured margins, a region of attraction."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import control
import numpy as np

from lipctrl import analysis, rules

Rows = list[dict[str, Any]]


def _timed(call: Callable[[], Any], repeat: int = 3) -> tuple[Any, float]:
    """Return the result and the median wall time [s] of a few calls."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - begin)
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


def _slycot_norm(system: control.StateSpace) -> float:
    import slycot

    n = system.nstates
    out = slycot.ab13dd(
        "C", "I", "S", "D", n, 2, 2, system.A, np.eye(n), system.B, system.C, system.D, tol=1e-9
    )
    return float(out[0])


def _control_norm(system: control.StateSpace) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(control.system_norm(system, "inf", tol=1e-9, method="scipy"))


def hinf(fast: bool) -> Rows:
    """H∞ norm: proved upper bound against slycot's and python-control's value, and times."""
    rows: Rows = []
    for damping in (0.0, 1e-3):
        for states in (4, 20) if fast else (4, 10, 20, 50, 100, 200):
            system = _random_system(states, damping, states)
            ours, seconds = _timed(lambda s=system: analysis.hinf_norm(s), 1 if states > 60 else 3)
            peer, peer_seconds = _timed(lambda s=system: _slycot_norm(s), 1 if states > 60 else 3)
            other, other_seconds = (math.nan, math.nan)
            if states <= 50:
                other, other_seconds = _timed(lambda s=system: _control_norm(s), 1)
            rows.append(
                {
                    "states": states,
                    "damping": damping or "dense",
                    "upper": ours.value,
                    "gap": ours.value / ours.lower - 1.0,
                    "over slycot": ours.value / peer - 1.0,
                    "control-scipy/slycot": other / peer - 1.0,
                    "s": seconds,
                    "slycot s": peer_seconds,
                    "control s": other_seconds,
                }
            )
    return rows


CARRASCO = {
    "Carrasco 1": ([0.1, 0.0], [1.0, -1.8, 0.81], 0.7935, 13.5113),
    "Carrasco 2": ([1.0, -1.95, 0.9, 0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1984, 1.1056),
    "Carrasco 3": ([-1.0, 1.95, -0.9, -0.05], [1.0, -2.8, 3.5, -2.412, 0.7209], 0.1379, 0.3121),
    "Carrasco 4": ([1.0, -1.5, 0.5, -0.5, 0.5], [4.4, -8.957, 9.893, -5.671, 2.207, -0.5], 1.5312, 3.8240),
    "Carrasco 5": ([-0.5, 0.1], [1.0, -0.9, 0.79, 0.089], 1.0273, 2.4475),
    "Carrasco 6": ([2.0, 0.92], [1.0, -0.5, 0.0], 0.6510, 1.0870),
}


def classical(fast: bool) -> Rows:
    """Classical plants: incremental circle and (non-incremental) Zames-Falb slopes against the published ones."""
    rows: Rows = []
    for name, (num, den, circle, best) in list(CARRASCO.items())[: 2 if fast else None]:
        plant = control.tf(num, den, True)
        multiplier = analysis.zames_falb(plant, order=6 if fast else 20, odd=True)
        rows.append(
            {
                "plant": name,
                "circle (incremental)": analysis.max_slope(plant),
                "published": circle,
                "Zames-Falb (not incremental)": multiplier.slope,
                "published ZF": best,
            }
        )
    return rows


def _plants() -> dict[str, tuple[control.StateSpace, list[list[float]], float]]:
    dt = 0.1
    double = control.ss([[1.0, dt], [0.0, 1.0]], [[0.0], [dt]], np.eye(2), np.zeros((2, 1)), dt)
    unstable = control.ss([[0.0, 1.0], [1.0, -0.5]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    mass = control.c2d(
        control.ss([[0, 1, 0, 0], [-2, -0.1, 1, 0], [0, 0, 0, 1], [1, 0, -1, -0.1]], [[0], [1], [0], [0]],
                   np.eye(4), np.zeros((4, 1))), 0.1,
    )  # fmt: skip
    return {
        "double integrator": (double, [[-2.0, -3.0]], 0.6),
        "unstable 2nd order": (unstable, [[-2.0, -3.0]], 0.5),
        "two masses": (mass, [[-0.5, -1.0, 0.0, -0.3]], 0.3),
    }


def _trained(plant: control.StateSpace, center: list[list[float]], gain: float, seed: int) -> Any:
    """Train a residual policy by imitation of a saturating gain, and return its certificate."""
    import torch

    from lipctrl.nn import LipschitzResNet
    from lipctrl.policies import ResidualPolicy

    torch.manual_seed(seed)
    k = -torch.tensor(center)
    size = k.shape[1]
    net = LipschitzResNet(size, 1, lipschitz=gain, width=8, depth=2)
    policy = ResidualPolicy(k.tolist(), net)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(200):
        y = torch.randn(128, size)
        target = -torch.tanh(y @ k.T) * k.norm()
        loss = ((policy(y) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.certificate()


def structured(fast: bool) -> Rows:
    """Structured loop inequality against the ball test, on networks trained here: gain margins and time."""
    rows: Rows = []
    for name, (plant, center, gain) in list(_plants().items())[: 1 if fast else None]:
        for seed in range(1 if fast else 2):
            policy = _trained(plant, center, gain, seed)
            for form in ("policy", "residual"):
                margin, seconds = _timed(
                    lambda p=plant, c=policy, f=form: analysis.structured_gain_margin(
                        p, c, f, limit=10.0, tolerance=3e-2
                    ),
                    1,
                )
                rows.append(
                    {
                        "plant": name,
                        "seed": seed,
                        "form": form,
                        "ball lower": margin.ball_lower,
                        "lower": margin.lower,
                        "ball upper": margin.ball_upper,
                        "upper": margin.upper,
                        "s": seconds,
                    }
                )
    return rows


def region(fast: bool) -> Rows:
    """Region of attraction of Yin, Seiler & Arcak's pendulum with a network trained here: volume and simulation."""
    import torch

    from lipctrl.nn import LipschitzResNet
    from lipctrl.policies import ResidualPolicy

    rows: Rows = []
    form = _yin_pendulum()
    for activation in ("tanh",) if fast else ("tanh", "relu"):
        torch.manual_seed(0)
        net = LipschitzResNet(2, 1, lipschitz=0.3, width=8, depth=1, activation=activation)
        policy = ResidualPolicy([[1.2, 0.15]], net)
        optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
        for _ in range(200):
            y = torch.randn(128, 2) * torch.tensor([0.7, 3.0])
            target = -(1.4 * y[:, :1] + 0.2 * y[:, 1:]).clamp(-0.7, 0.7)
            # The network must rest where the plant does.
            loss = ((policy(y) - target) ** 2).mean() + 10.0 * policy(torch.zeros(1, 2)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found, seconds = _timed(
            lambda p=policy: analysis.region_of_attraction(
                form, p, action_limit=0.7, state_limits=[2.5, 6.0]
            ),
            1,
        )
        path, actions = found.simulate(found.boundary(24 if fast else 100), 1500)
        rows.append(
            {
                "activation": activation,
                "volume": found.volume,
                "half-width angle": found.extent[0],
                "half-width rate": found.extent[1],
                "largest |u| seen": float(np.abs(actions).max()),
                "distance after 30 s": float(np.abs(path[-1] - found.center).max()),
                "s": seconds,
            }
        )
    return rows


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
    """`analyze` of loops of growing size with a residual ball: seconds."""
    rows: Rows = []
    for states in (4,) if fast else (4, 10, 20):
        system = _random_system(states, 0.0, states)
        gain = 0.3 / analysis.hinf_norm(system).value
        policy = rules.linear(np.eye(2) * gain)
        report, seconds = _timed(lambda s=system, p=policy: analysis.analyze(s, p), 1)
        rows.append({"states": states, "verdict": str(report.verdict), "s": seconds})
    return rows


TABLES = {
    "hinf": hinf,
    "classical_plants": classical,
    "structured_margins": structured,
    "region_of_attraction": region,
    "analyze_time": report_time,
}


def run(fast: bool = False) -> Rows:
    """Run every table of this file and return all rows, each with the name of its table."""
    return [{"table": name, **row} for name, table in TABLES.items() for row in table(fast)]
