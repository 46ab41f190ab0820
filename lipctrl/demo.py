"""The whole line on one plant: LQR, stability radius, certified training, proof, analysis, pictures.

Read `run_demo` from top to bottom. Every number on the closing screen is computed on the way; nothing is looked up.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = "lipctrl_envs:lipctrl/CartPole-v0"
EPISODES = 256
# Sizes of position, angle and their speeds that the residual meets: it is bounded against observations over these.
SIZES = np.array([0.5, 0.25, 0.5, 1.0])
PICTURES = ("nyquist", "sigma", "margins", "trajectories", "training")
SCOPE = (
    ("gain", "the real-arithmetic map of the stored weights, every pair of observations"),
    (
        "stability, margins",
        "the plant linearised at the upright, every signal, while the actuator does not saturate",
    ),
    (
        "cost",
        f"the nonlinear simulation with saturation, gusts and track limit; {EPISODES} episodes, not a proof",
    ),
)


def run_demo(out: Path, *, fast: bool = False, seed: int = 0) -> dict[str, Any]:
    """Train a residual on top of LQR for the cart-pole, prove its loop stable, and write run, report and pictures.

    Parameters
    ----------
    out : folder for the run, report.html, report.json and the pictures; an older demo in it is replaced.
    fast : a training of seconds that shows the line, not the result.
    seed : of the training; the evaluation episodes are others.

    Returns
    -------
    dict
        The numbers of the closing screen.
    """
    import gymnasium
    from rich.console import Console

    import lipctrl
    from lipctrl.runs import StabilityGuarantee

    console = Console(highlight=False)
    began = time.perf_counter()
    run_folder = _emptied(out / "run")

    # 1. The linearised plant and its own quadratic cost give an LQR gain; sign: u = -K y, y is the state.
    env: Any = gymnasium.make(ENVIRONMENT)
    plant = env.unwrapped.plant
    system = plant.linearize()
    K = _lqr(plant, system)
    console.print(
        "[bold]1[/] LQR of the linearised cart-pole: u = -K y, K =", np.round(K.ravel(), 3).tolist()
    )

    # 2. The largest residual that provably cannot destabilise that loop; the policy gets a quarter of it. With half of
    # it the cost falls by a third, and the cart, driven harder, leaves its track more often.
    guarantee = StabilityGuarantee.of(system, K, SIZES)
    budget = 0.25 * guarantee.radius
    console.print(
        f"[bold]2[/] Stability radius {guarantee.radius:.4f}: any f with Lip f below it keeps u = -K y + f(y / s) "
        f"stable, s = {SIZES.tolist()}. Budget {budget:.4f}"
    )

    # 3. A residual policy that meets the budget for all weights, so that training cannot leave the stable class.
    policy = _residual_policy(K, budget, plant.action_limit, seed)

    # 4. Train it through the differentiable plant; every checkpoint proves the bound and the guarantee.
    run = _trained(policy, guarantee, run_folder, fast, seed, console)
    trained_in = time.perf_counter() - began

    # 5. What counts is the stored file: load the certificate and prove it again from its numbers.
    certificate = lipctrl.load_certificate(run_folder / "certificate.json")
    checked = lipctrl.check(certificate)
    console.print(f"[bold]4[/] Certificate checked: {checked}")

    # 6. Carry the proof to the closed loop.
    report = lipctrl.analyze(env, certificate)
    margins = {
        form: lipctrl.incremental_gain_margin(system, certificate, form=form)
        for form in ("residual", "policy")
    }
    report.save(out / "report.html")
    report.save(out / "report.json")

    # 7. Compare with LQR on the same unseen, disturbed episodes of the nonlinear plant.
    before, after = _compared(K, run.policy, float(plant.action_limit[0]), seed + 1)
    env.close()

    # 8. Pictures.
    pictures = _draw(run, out)

    result = {
        "verdict": str(report.verdict),
        "proved": checked.ok,
        "gain": certificate.gain,
        "residual_gain": report.ball.radius,
        "stability_radius": guarantee.radius,
        "margins": {form: _margin(m) for form, m in margins.items()},
        **_costs(before, after),
        "seconds_training": trained_in,
        "seconds": time.perf_counter() - began,
    }
    (out / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _closing_screen(console, result, out, pictures, (before.standard_error, after.standard_error))
    return result


def _lqr(plant: Any, system: Any) -> np.ndarray:
    import control

    K, _, _ = control.dlqr(system.A, system.B, plant.Q, plant.R)
    # The centre that is analysed must be the one that runs, and policies run in float32.
    return np.asarray(K, dtype=np.float32).astype(np.float64)


def _residual_policy(K: np.ndarray, budget: float, action_limit: np.ndarray, seed: int) -> Any:
    """Return u = clip(-K y + f(y / s)) with new weights and Lip f ≤ budget."""
    import torch

    import lipctrl

    torch.manual_seed(seed)
    network = lipctrl.LipschitzResNet(4, 1, lipschitz=budget, width=32, depth=2)
    return lipctrl.ResidualPolicy(K, network, observation_scale=SIZES, action_limits=action_limit)


def _trained(policy: Any, guarantee: Any, folder: Path, fast: bool, seed: int, console: Any) -> Any:
    """Train the policy by analytic policy gradient, say so, and return the run."""
    import lipctrl
    from lipctrl.runs import Schedule
    from lipctrl.training import APGConfig

    # The stable loop keeps gradients bounded, so windows of two seconds are possible.
    settings = APGConfig(
        environments=128, horizon=100, policy_rate=1e-2, value_rate=1e-3, value_epochs=2, value_minibatches=16
    )
    steps = settings.environments * settings.horizon * (4 if fast else 50)
    console.print(
        f"[bold]3[/] Training by analytic policy gradient, {steps:,} steps, against gusts, saturation and track limit"
    )
    return lipctrl.train(
        ENVIRONMENT,
        policy,
        "apg",
        steps,
        seed,
        "cpu",
        folder,
        config=settings,
        schedule=Schedule(evaluate_every=2, checkpoint_every=5, validation_episodes=256),
        guarantee=guarantee,
    )


def _compared(K: np.ndarray, policy: Any, limit: float, seed: int) -> tuple[Any, Any]:
    """Return the evaluations of saturated LQR and of the policy, on the same episodes."""
    from lipctrl.training import evaluate

    lqr = evaluate(lambda y: np.clip(-y @ K.T, -limit, limit), ENVIRONMENT, episodes=EPISODES, seed=seed)
    return lqr, evaluate(policy, ENVIRONMENT, episodes=EPISODES, seed=seed)


def _costs(lqr: Any, trained: Any) -> dict[str, float | int]:
    return {
        "cost_lqr": lqr.cost,
        "cost_trained": trained.cost,
        "better_share": float(np.mean(trained.returns > lqr.returns)),
        "failures_lqr": int(lqr.terminated.sum()),
        "failures_trained": int(trained.terminated.sum()),
    }


def _emptied(folder: Path) -> Path:
    """Remove the run of an earlier demo, and nothing else."""
    from lipctrl.runs import load_run

    if folder.exists():
        load_run(folder)
        shutil.rmtree(folder)
    return folder


def _draw(run: Any, out: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from lipctrl.plots import run_figure

    paths = []
    for kind in PICTURES:
        figure = run_figure(run, kind)
        paths.append(out / f"{kind}.png")
        figure.savefig(paths[-1], dpi=130, bbox_inches="tight")
        pyplot.close(figure)
    return paths


def _margin(margin: Any) -> dict[str, float | None]:
    """Return the ends of a margin as JSON values; an end that nothing falsifies is None."""
    names = ("lower", "upper", "lower_db", "upper_db", "falsified_lower", "falsified_upper")
    values = {name: getattr(margin, name) for name in names}
    return {k: None if v is None or not np.isfinite(v) else float(v) for k, v in values.items()}


def _closing_screen(
    console: Any, result: dict[str, Any], out: Path, pictures: list[Path], errors: tuple[float, float]
) -> None:
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    good = result["verdict"] == "certified" and result["proved"]
    table.add_row("verdict", f"[bold {'green' if good else 'red'}]{result['verdict']}[/]")
    table.add_row(
        "bound",
        f"Lip f ≤ {result['residual_gain']:.6g}, proved; stability radius {result['stability_radius']:.6g}; "
        f"whole policy ≤ {result['gain']:.6g}",
    )
    for form, title in (("residual", "margin of the residual"), ("policy", "margin of the policy")):
        table.add_row(title, _margin_text(result["margins"][form], form))
    before, after = result["cost_lqr"], result["cost_trained"]
    table.add_row(
        "cost",
        f"LQR {before:.1f} ± {errors[0]:.1f}  →  trained {after:.1f} ± {errors[1]:.1f}   "
        f"({100.0 * (after / before - 1.0):+.1f} %), lower in {100.0 * result['better_share']:.0f} % of "
        f"{EPISODES} unseen disturbed episodes; failures {result['failures_lqr']} → {result['failures_trained']}",
    )
    table.add_row(
        "time",
        f"{result['seconds']:.0f} s, of which {result['seconds_training']:.0f} s to the trained policy",
    )
    table.add_row("written to", str(out))
    table.add_row(
        "", "report.html, report.json, run/certificate.json, " + ", ".join(p.name for p in pictures)
    )
    table.add_row("check it", f"lipctrl verify {out / 'run'}")
    for claim, scope in SCOPE:
        table.add_row(f"[dim]scope: {claim}[/]", f"[dim]{scope}[/]")
    console.print(Panel(table, title="cart-pole: LQR plus a certified residual", expand=False))


def _margin_text(margin: dict[str, float | None], form: str) -> str:
    upper, upper_db = margin["upper"], margin["upper_db"]
    falsified = [margin["falsified_lower"], margin["falsified_upper"]]
    if form == "residual":
        text = f"stable for every k < {upper:.6g} ({upper_db:+.2f} dB)"
        falsified = falsified[1:]
    else:
        text = (
            f"stable for {margin['lower']:.6g} < k < {upper:.6g} "
            f"({margin['lower_db']:+.2f} dB to {upper_db:+.2f} dB)"
        )
    ends = " and ".join(f"{v:.6g}" for v in falsified if v is not None)
    return text + (
        f"; a policy of the class loses stability at k = {ends}" if ends else "; nothing falsified it"
    )
