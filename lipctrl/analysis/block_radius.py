"""Structured stability radii: independent perturbations in several places of a linear feedback."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lipctrl.analysis.blocks import WorstBlocks, block_diagonal, check_shapes, realized_blocks
from lipctrl.analysis.destabilize import Destabilization, MarginSimulation, policy_destabilization
from lipctrl.analysis.falsify_linear import STEPS, LinearPolicy, nearest_beyond, unstable_pole
from lipctrl.analysis.loop import NominalLoop, nominal_loop, real_gain
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.phase import in_hertz
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.scaled_gain import scaled_norm, worst_frequency
from lipctrl.analysis.units import in_units


@dataclass(frozen=True)
class StructuredRadius:
    """How large independent perturbations Δ_i of u = -(K + EΔF)y may be: certified below `radius`, falsified above.

    Every Δ = diag(Δ₁, …, Δ_k) with incremental gains ‖Δ_i‖ < `radius`, nonlinear and time-varying ones included, leaves
    the loop incrementally stable. `falsified` is the size of a linear stable Δ with which it was seen to be unstable
    (NaN: none found); `perturbation` its complex value at `frequency` [rad/s]. `scaling` are the constant d_i of the
    proof. 0 where the nominal loop is not provably stable; inf where no perturbation can act.
    """

    radius: float
    falsified: float
    frequency: float
    scaling: np.ndarray
    blocks: tuple[tuple[int, int], ...]
    perturbation: np.ndarray | None
    destabilization: Destabilization | None
    counts_samples: bool = field(default=False, repr=False, compare=False, kw_only=True)

    def simulate(self) -> MarginSimulation:
        """Simulate the loop just inside and just outside the falsified end; ValueError where there is none."""
        if self.destabilization is None:
            raise ValueError("no perturbation of the structure was found to destabilise this loop")
        return self.destabilization.simulate()

    def __str__(self) -> str:
        text = f"certified below {self.radius:.6g} ({len(self.blocks)} blocks), tightest at {in_hertz(self.frequency)}"
        text = text if self.destabilization is None else f"{text}; falsified {self.destabilization}"
        return in_units(text, self.counts_samples)


def structured_radius(
    sys: Any, gain: Any = None, blocks: Any = None, *, left: Any = None, right: Any = None
) -> StructuredRadius:
    """Return the largest r such that u = -(K + EΔF)y is stable for all Δ = diag(Δ_i), ‖Δ_i‖ < r, from the safe side.

    Certified: r = 1/‖D_q M D_w⁻¹‖_∞, M = F·P(I + KP)⁻¹·E, with the best constant scaling D found. Constant scalings
    keep the statement true for nonlinear Δ_i; for linear time-invariant ones it can be conservative, and the gap to the
    falsified end shows by how much at most. One full block is `stability_radius`.

    Parameters
    ----------
    sys : plant P as `as_realization` takes it; gain : K (inputs, outputs) or None (zero). Sign: negative feedback.
    blocks : pairs (rows, columns) of the Δ_i; by default one block a scalar where E and F give as many rows as columns.
    left : E (inputs, Σ rows); right : F (Σ columns, outputs); identities by default.

    Raises
    ------
    ValueError
        For bad plant data, matrices that do not fit, or blocks that do not add up.

    Source: Hinrichsen & Pritchard 1986; Doyle 1982 (structured singular value, upper bound with constant D).

    Examples
    --------
    >>> import control, numpy as np
    >>> plant = control.ss([[-1, 4], [0, -2]], np.eye(2), np.eye(2), np.zeros((2, 2)))
    >>> print(f"{structured_radius(plant, blocks=[(1, 1), (1, 1)]).radius:.4f}")
    1.0000
    >>> print(f"{structured_radius(plant, blocks=[(2, 2)]).radius:.4f}")
    0.4384
    """
    plant = as_realization(sys, "sys")
    k = np.zeros((plant.inputs, plant.outputs)) if gain is None else real_gain(gain)
    loop = nominal_loop(plant, -k)
    e = _matrix(left, plant.inputs, None, "left")
    f = _matrix(right, None, plant.outputs, "right")
    if blocks is None and e.shape[1] != f.shape[0]:
        raise ValueError(
            "blocks is None, but left and right do not give as many rows as columns; name the blocks"
        )
    shapes = check_shapes([(1, 1)] * e.shape[1] if blocks is None else blocks, e.shape[1], f.shape[0])
    ones = np.ones(len(shapes))
    if loop.system is None or loop.spectrum is None or not loop.is_stable:
        return StructuredRadius(0.0, math.nan, math.nan, ones, shapes, None, None)
    t = loop.system
    seen = replace(t, b=t.b @ MidRad(e), c=MidRad(f) @ t.c, d=MidRad(f) @ t.d @ MidRad(e))
    norm, scaling = scaled_norm(seen, loop.spectrum, shapes)
    if norm.value == 0.0:
        return StructuredRadius(math.inf, math.nan, math.nan, scaling, shapes, None, None)
    radius = math.nextafter(1.0 / norm.value, 0.0) if math.isfinite(norm.value) else 0.0
    omega, worst = worst_frequency(seen, shapes, norm.frequency)
    found = _destabilization(loop, e, f, omega, worst)
    size = math.nan if found is None else found.value
    perturbation = None if worst.value == 0.0 else -block_diagonal(worst.blocks)
    return StructuredRadius(
        radius, size, omega, scaling, shapes, perturbation, found, counts_samples=plant.counts_samples
    )


def _matrix(given: Any, rows: int | None, columns: int | None, name: str) -> np.ndarray:
    size = rows or columns or 0
    values = np.eye(size) if given is None else real_gain(given)
    if (
        (rows and values.shape[0] != rows)
        or (columns and values.shape[1] != columns)
        or not np.isfinite(values).all()
    ):
        expected = f"({rows}, Σ rows of the blocks)" if rows else f"(Σ columns of the blocks, {columns})"
        raise ValueError(f"{name} has shape {values.shape}; expected finite numbers of shape {expected}")
    return values


def _destabilization(
    loop: NominalLoop, e: np.ndarray, f: np.ndarray, omega: float, worst: WorstBlocks
) -> Destabilization | None:
    if worst.value == 0.0:
        return None
    plant = loop.plant
    filters = realized_blocks(worst.blocks, omega, plant.sample_time)
    size = 1.0 / worst.value

    def at(radius: float) -> LinearPolicy:
        scale = radius / size
        inner = LinearPolicy(filters.a, filters.b @ f, scale * e @ filters.c, scale * e @ filters.d @ f)
        return inner.plus(loop.center)

    kind = "a static matrix" if filters.a.size == 0 else "all-pass filters in the blocks"
    matrix = -block_diagonal(worst.blocks)

    def attempt(step: float) -> Destabilization | None:
        value = size * (1.0 + step)
        pole = unstable_pole(plant, at(value))
        words = ("perturbation", "", kind)
        return None if pole is None else policy_destabilization(plant, at, value, words, pole, matrix=matrix)

    return nearest_beyond(attempt, (*STEPS, 0.1))
