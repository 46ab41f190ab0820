"""Series, diagonal and stacked connections of realisations: every mode is kept and every rounding enclosed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lipctrl.analysis.midrad import MidRad, block
from lipctrl.analysis.plant import Realization, common_timebase


def series(last: Realization, first: Realization) -> Realization:
    """Return last·first of one timebase."""
    sample_time, timebase = common_timebase([last, first])
    zero = MidRad.zeros(first.states, last.states)
    return Realization(
        block([[last.a, last.b @ first.c], [zero, first.a]]),
        block([[last.b @ first.d], [first.b]]),
        block([[last.c, last.d @ first.c]]),
        last.d @ first.d,
        sample_time,
        timebase,
        static=last.static and first.static,
        input_names=first.input_names,
        output_names=last.output_names,
    )


def open_loop(plant: Realization, gain: Realization) -> Realization:
    """Return plant·gain of a loop that is broken at the plant's output; ValueError where the gain does not fit."""
    if gain.outputs != plant.inputs or gain.inputs != plant.outputs:
        raise ValueError(
            f"gain maps {gain.inputs} outputs of the plant to {gain.outputs} inputs; sys has {plant.outputs} outputs "
            f"and {plant.inputs} inputs, so gain must have shape ({plant.inputs}, {plant.outputs})"
        )
    loop = series(plant, gain)
    # The loop is broken where the one's outputs enter the other: either may have names for these signals.
    return replace(loop, output_names=plant.output_names or gain.input_names)


def chain(systems: list[Realization]) -> Realization:
    """Return the product of systems, the first of them acting first."""
    whole = systems[0]
    for system in systems[1:]:
        whole = series(system, whole)
    return whole


def repeated(one: Realization, channels: int) -> Realization:
    """Return the diagonal system of as many copies."""

    def diagonal(part: MidRad) -> MidRad:
        eye = np.eye(channels)
        return MidRad(np.kron(eye, part.mid), None if part.rad is None else np.kron(eye, part.rad))

    return Realization(diagonal(one.a), diagonal(one.b), diagonal(one.c), diagonal(one.d), 0.0, one.timebase)


def stacked(first: Realization, second: Realization, beta: float) -> Realization:
    """Return [√(1 + β)·first; √(1 + 1/β)·second] on the same input."""
    sizes = [math.sqrt(x) * (1.0 + 1e-15) for x in (1.0 + beta, 1.0 + 1.0 / beta)]
    zero = MidRad.zeros
    left, right = first.c.scaled(sizes[0]), second.c.scaled(sizes[1])
    return Realization(
        block([[first.a, zero(first.states, second.states)], [zero(second.states, first.states), second.a]]),
        block([[first.b], [second.b]]),
        block([[left, zero(first.outputs, second.states)], [zero(second.outputs, first.states), right]]),
        block([[first.d.scaled(sizes[0])], [second.d.scaled(sizes[1])]]),
        first.sample_time,
        first.timebase,
    )


def outputs(system: Realization, rows: slice) -> Realization:
    """Return the system with some of its outputs."""
    return Realization(
        system.a, system.b, _part(system.c, rows, slice(None)), _part(system.d, rows, slice(None)),
        system.sample_time, system.timebase,
    )  # fmt: skip


def inputs(system: Realization, columns: slice) -> Realization:
    """Return the system with some of its inputs."""
    return Realization(
        system.a, _part(system.b, slice(None), columns), system.c, _part(system.d, slice(None), columns),
        system.sample_time, system.timebase,
    )  # fmt: skip


def _part(matrix: MidRad, rows: slice, columns: slice) -> MidRad:
    return MidRad(matrix.mid[rows, columns], None if matrix.rad is None else matrix.rad[rows, columns])
