"""Delays of discrete-time systems as models: exact, one state a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.arguments import one_of, real_array
from lipctrl.analysis.interconnection import series
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization, as_realization, to_control

# A delay has one state a sample: beyond so many, matrices fill the memory.
_MOST_SAMPLES = 5000


def delayed(sys: Any, samples: int | Sequence[int], at: Literal["input", "output"] = "input") -> Any:
    """Return a discrete-time system behind a delay of whole samples: exact, with one state a sample and channel.

    Parameters
    ----------
    sys : discrete plant as `as_realization` takes it; samples : ≥ 0, one number or one for each channel.
    at : "input" delays the inputs, "output" the outputs.

    Raises
    ------
    ValueError
        For a continuous-time system (see `pade`), negative or fractional samples, or the wrong number of them.

    Returns a `control.StateSpace` with the sampling time of `sys`.

    Examples
    --------
    >>> import control
    >>> late = delayed(control.tf([1], [1, -0.5], 0.1), 2)
    >>> late.nstates, bool(abs(late(1j) - control.tf([1], [1, -0.5, 0, 0], 0.1)(1j)) < 1e-12)
    (3, True)
    """
    system = delayed_realization(as_realization(sys, "sys"), samples, at)
    return to_control(system, getattr(sys, "dt", system.sample_time))


def delayed_realization(system: Realization, samples: int | Sequence[int], at: str = "input") -> Realization:
    """Do what `delayed` does for a realisation, keeping its rounding radii."""
    one_of(at, ("input", "output"), "at")
    if not system.is_discrete:
        raise ValueError(
            "sys is a continuous-time system, in which a delay has no finite state: use pade(sys, tau, order), or "
            "sample the system first (control.sample_system)"
        )
    channels = system.inputs if at == "input" else system.outputs
    read = real_array(samples)
    # Truth values count nothing.
    values = np.array(np.nan) if read is None or np.asarray(samples).dtype.kind == "b" else read
    given = [float(d) for d in (np.full(channels, values) if values.ndim == 0 else values.ravel())]
    if len(given) != channels or any(not d.is_integer() or d < 0 for d in given):
        raise ValueError(
            f"samples is {samples!r}; expected a whole number ≥ 0, or one for each of {channels} {at}s"
        )
    if sum(given) > _MOST_SAMPLES:
        raise ValueError(
            f"samples is {samples!r}, {sum(given):g} in all; expected at most {_MOST_SAMPLES}, each is a state. "
            "Sample more slowly"
        )
    chain = _shift_registers([int(d) for d in given], system.sample_time, system.timebase)
    return series(system, chain) if at == "input" else series(chain, system)


def _shift_registers(counts: list[int], sample_time: float, timebase: str) -> Realization:
    n, m = sum(counts), len(counts)
    a, b, c, d = np.zeros((n, n)), np.zeros((n, m)), np.zeros((m, n)), np.zeros((m, m))
    start = 0
    for j, count in enumerate(counts):
        if count == 0:
            d[j, j] = 1.0
            continue
        b[start, j] = c[j, start + count - 1] = 1.0
        a[np.arange(start + 1, start + count), np.arange(start, start + count - 1)] = 1.0
        start += count
    return Realization(MidRad(a), MidRad(b), MidRad(c), MidRad(d), sample_time, timebase)
