"""Pictures of results: every function draws data that was computed elsewhere, takes `ax=`, and never shows a window.

Each idea has a data object, a function that computes it (`loop_response`, `gain_sweep`, …) and a function that draws it
(`nyquist_plot`, `gain_sweep_plot`, …). Names are loaded on first use, and matplotlib with them.
"""

from __future__ import annotations

import importlib
from typing import Any

# module -> the names it offers, in the order of the gallery
_MODULES = {
    "response": ("LoopResponse", "loop_response"),
    "nyquist": ("nyquist_plot",),
    "sigma": ("sigma_plot",),
    "srg": ("srg_plot",),
    "margins": ("GainSweep", "gain_sweep", "gain_sweep_plot"),
    "disk_margin": ("disk_margin_plot",),
    "margin_intervals": ("margin_intervals_plot",),
    "trade_off": ("trade_off_plot",),
    "margin_simulation": ("margin_simulation_plot",),
    "pair": ("pair_plot",),
    "poles": ("PoleSpread", "pole_spread", "pole_spread_plot"),
    "parameter_map": ("RobustnessMap", "robustness_map", "robustness_map_plot"),
    "region": ("Ellipsoid", "region_data", "region_plot"),
    "basin": ("Portrait", "portrait_data", "portrait_plot"),
    "trajectories": ("Trajectories", "simulate_plant", "trajectory_plot"),
    "training": ("TrainingMetrics", "training_metrics", "training_curve"),
    "pareto": ("SweepPoint", "pareto_front", "pareto_plot"),
    "degradation": ("Degradation", "degradations", "degradation_plot"),
    "depth": ("SizeSeries", "size_plot"),
    "tightness": ("tightness_plot",),
    "singular_values": ("BlockSingularValues", "block_singular_values", "singular_values_plot"),
    "gershgorin": ("GershgorinDiscs", "gershgorin_discs", "gershgorin_plot", "lmi_matrix"),
    "tree": ("TreeRow", "tree_rows", "tree_plot"),
    "run_figures": ("RUN_FIGURES", "run_figure"),
    "html_report": ("html_page", "report_figures", "report_plot"),
    "encoding": ("figure_png", "figure_svg", "figure_html"),
    "style": ("subplots",),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lipctrl.plots' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lipctrl.plots.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
