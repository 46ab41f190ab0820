"""Closed-loop analysis: from a plant and an incremental ball of policies to verdicts and margins.

Names are loaded on first use, so that a check of one criterion does not pay for the others. Where to look among the
files; in each group what users call comes first, and what it is made of after the semicolon:

- one call: closed_loop; report, verdict, units, names
- what is analysed: plant, ball, scales, linearize; canonical, interconnection, loop, policy_graph, lure_loop
- H∞ norms: hinf; cover, modal, delay_chains, discs, spectrum
- quadratic forms over all frequencies, which most proofs of LTI loops use: popov, popov_minimum, popov_levels;
  popov_pencil, kyp, sweep
- criteria for slopes: circle, channels, multipliers; popov_line, zames_falb_search, zames_falb_channels, transfer,
  polynomials, trigonometric
- margins of a ball: margins, phase, delay_margin, incremental_disk; continuation, delay_proof, lag, falsify_linear,
  destabilize
- disks: disk; disk_ends, disk_loop, pointwise, periodic, disk_falsifier
- models of delays: delays, pade_delay; all_pass
- stability radii: radius, block_radius; real_radius, blocks, scaled_gain
- the policy's own neurons: structured, l2_gain, recentre; slope_loop, contraction, barrier
- regions of attraction: region; region_proof, rest, saturated_region, ellipsoid, sectors
- basins of attraction: attraction, basin_gain; cells, cell_proof, psi_samples
- scaled relative graphs: srg
- boxes of parameters: parameter_box
- choosing a gain: synthesis
- attacks on loops: falsify
- classical margins: classical
- arguments, arithmetic and searches that others share: arguments, midrad, frequencies, descent, lmi
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module of this package that defines it
_PUBLIC = {
    "IncrementalBall": "ball",
    "ScaledBall": "ball",
    "as_ball": "ball",
    "in_own_units": "ball",
    "own_ball": "ball",
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
    "PadeDelay": "pade_delay",
    "delayed": "delays",
    "pade": "pade_delay",
    "stability_radius": "radius",
    "worst_deviation": "radius",
    "StructuredRadius": "block_radius",
    "structured_radius": "block_radius",
    "DiskMargin": "disk",
    "disk_margin": "disk",
    "DiskEnds": "disk_ends",
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
    "SampledBox": "parameter_box",
    "sampled_box": "parameter_box",
    "GainChoice": "synthesis",
    "TradeOff": "synthesis",
    "best_gain": "synthesis",
    "hinf_optimum": "synthesis",
    "max_lipschitz": "synthesis",
    "trade_off": "synthesis",
    "recentred_ball": "recentre",
    "best_centre": "recentre",
    "SampledLinearization": "linearize",
    "sampled_linearization": "linearize",
    "PairAttack": "falsify",
    "SlopeAttack": "falsify",
    "UnstablePoint": "falsify",
    "falsified_gains": "falsify",
    "loop_step": "falsify",
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
