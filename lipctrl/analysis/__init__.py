"""Closed-loop analysis: from a plant and an incremental ball of policies to verdicts and margins.

Names are loaded on first use, so that a check of one criterion does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module of this package that defines it
_PUBLIC = {
    "IncrementalBall": "ball",
    "as_ball": "ball",
    "analyze": "closed_loop",
    "CriterionResult": "circle",
    "circle_criterion": "circle",
    "max_slope": "circle",
    "small_gain": "circle",
    "HinfNorm": "hinf",
    "hinf_norm": "hinf",
    "BallTest": "loop",
    "ball_test": "loop",
    "nominal_loop": "loop",
    "Realization": "plant",
    "as_realization": "plant",
    "GainMargin": "margins",
    "incremental_gain_margin": "margins",
    "PhaseMargin": "phase",
    "incremental_phase_margin": "phase",
    "DelayMargin": "delay_margin",
    "incremental_delay_margin": "delay_margin",
    "PadeDelay": "delays",
    "delayed": "delays",
    "pade": "delays",
    "stability_radius": "radius",
    "worst_deviation": "radius",
    "StructuredRadius": "block_radius",
    "structured_radius": "block_radius",
    "DiskMargin": "disk",
    "disk_margin": "disk",
    "IncrementalDiskMargin": "incremental_disk",
    "incremental_disk_margin": "incremental_disk",
    "ClassicalMargins": "classical",
    "classical_margins": "classical",
    "Destabilization": "destabilize",
    "MarginSimulation": "destabilize",
    "StabilityReport": "report",
    "TestResult": "report",
    "Verdict": "verdict",
    # the policy's own neurons, Lur'e plants, scaled relative graphs, multipliers, attacks, synthesis
    "StructuredTest": "structured",
    "StructuredMargin": "structured",
    "structured_test": "structured",
    "structured_gain_margin": "structured",
    "structured_gain": "l2_gain",
    "regional_gain": "l2_gain",
    "Basin": "attraction",
    "BasinGains": "basin_gain",
    "basin": "attraction",
    "basin_gains": "basin_gain",
    "RegionOfAttraction": "region",
    "region_of_attraction": "region",
    "ScaledRelativeGraphs": "srg",
    "scaled_relative_graphs": "srg",
    "srg_discs": "srg",
    "MultiplierTest": "multipliers",
    "diagonal_slope": "channels",
    "popov_criterion": "multipliers",
    "zames_falb": "multipliers",
    "HullTest": "parameter_box",
    "hull_test": "parameter_box",
    "sampled_box": "parameter_box",
    "GainChoice": "synthesis",
    "best_gain": "synthesis",
    "max_lipschitz": "synthesis",
    "trade_off": "synthesis",
    "recentred_ball": "recentre",
    "best_centre": "recentre",
    "SampledLinearization": "linearize",
    "sampled_linearization": "linearize",
    "falsified_gains": "falsify",
    "periodic_slopes": "falsify",
    "separating_pair": "falsify",
    "unstable_equilibrium": "falsify",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lipctrl.analysis' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lipctrl.analysis.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
