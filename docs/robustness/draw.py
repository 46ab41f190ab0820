"""Draws the curves of docs/robustness.md from measured.csv beside it: python docs/robustness/draw.py.

Measure again with: python -m tests.benchmarks.bench_robustness docs/robustness/measured.csv
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from lipctrl import plots

FOLDER = Path(__file__).parent
# Name in the table -> file.
ENVIRONMENTS = {
    "MassSpringChain-v0": "chain",
    "MassSpringChain-v0, LQR first": "chain-lqr-first",
    "MassSpringChain-v0, around 1.5 LQR": "chain-around-steeper",
    "Pendulum-v0, around 2 LQR": "pendulum-around-lqr",
    "CartPole-v0, around 1.4 LQR": "cart-pole-around-lqr",
    "LateralVehicle-v0, around 2 LQR": "vehicle-around-lqr",
    "TwoMassDrive-v0, LQR first": "two-mass-lqr-first",
    "SpinningSatellite-v0, LQR first": "satellite-lqr-first",
    "LateralVehicle-v0, LQR first": "vehicle-lqr-first",
    "LateralVehicle-v0": "vehicle-imitation",
    "SpinningSatellite-v0": "satellite-imitation",
    "GymPendulum-v1, imitation": "pendulum-imitation",
    "GymPendulum-v1": "pendulum",
}
CONDITIONS = ("noise", "attack", "delay", "gain")


def draw(environment: str) -> Path:
    """Draw the four conditions of one environment side by side."""
    figure, axes = plots.subplots(2, 2, size=(11.0, 8.4))
    for ax, condition in zip(axes.ravel(), CONDITIONS, strict=True):
        curves = plots.degradations(FOLDER / "measured.csv", environment, condition)
        plots.degradation_plot(curves, reference="MLP", ax=ax, legend=False)
        if environment.startswith("GymPendulum"):
            # There noise and attacks are in observation units, as in the literature.
            ax.set_xlabel(ax.get_xlabel().replace("size of the observation", "observation unit"))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    counted = [f"{label} ({len(c.returns)} seeds)" for label, c in zip(labels, curves, strict=True)]
    figure.legend(
        handles, counted, loc="outside lower center", ncols=2 if len(counted) == 4 else 3, frameon=False
    )
    figure.suptitle(
        f"{environment}: return lost; means of the training seeds, bands from the best to the worst"
    )
    path = FOLDER / f"{ENVIRONMENTS[environment]}.png"
    figure.savefig(path, dpi=90, metadata={"Software": None})
    return path


if __name__ == "__main__":
    for name in ENVIRONMENTS:
        print(draw(name))
