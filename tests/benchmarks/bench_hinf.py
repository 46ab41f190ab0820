"""H∞ norms: the proved bound against slycot's and python-control's values, and CPU times."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import control
import numpy as np

from lipctrl.analysis import hinf_norm
from tests.analysis.linear.systems import random_system

Rows = list[dict[str, Any]]
# Its default makes type checkers take the kind of norm for an int.
_PEAK: Any = "inf"


def _slycot_norm(system: control.StateSpace) -> float:
    import slycot
    from slycot.exceptions import SlycotArithmeticError

    n = system.nstates
    kind = "D" if system.dt else "C"
    a, b, c, d = (np.array(m) for m in (system.A, system.B, system.C, system.D))
    try:
        out = slycot.ab13dd(kind, "I", "S", "D", n, b.shape[1], c.shape[0], a, np.eye(n), b, c, d, tol=1e-9)
    except SlycotArithmeticError:
        return math.nan  # its eigenvalue iteration does not converge for some lightly damped systems
    return float(out[0])


def _system_norm(system: control.StateSpace) -> float:
    """Call slycot as a user of python-control does: with the checks of the poles and the warnings."""
    from slycot.exceptions import SlycotArithmeticError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(control.system_norm(system, _PEAK, tol=1e-9, method="slycot"))
        except SlycotArithmeticError:
            return math.nan


def _scipy_norm(system: control.StateSpace) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(control.system_norm(system, _PEAK, tol=1e-9, method="scipy"))


def _interleaved(calls: list[Callable[[], float]], repeat: int) -> tuple[list[float], list[float]]:
    """Return values and median CPU times [ms], the calls taking turns."""
    times: list[list[float]] = [[] for _ in calls]
    values = [call() for call in calls]
    for _ in range(repeat):
        for call, spent in zip(calls, times, strict=True):
            begin = time.process_time()
            call()
            spent.append(time.process_time() - begin)
    return values, [1e3 * float(np.median(spent)) if spent else math.nan for spent in times]


def hinf(fast: bool) -> Rows:
    """H∞ norm: proved upper bound against slycot (raw ab13dd, and through python-control) and scipy, CPU ms."""
    rows: Rows = []
    for dt in (0, 0.1):
        for damping in (None, 1e-3, 1e-5):
            for states in (4, 20) if fast else (4, 10, 20, 50, 100, 200):
                system = random_system(np.random.default_rng(states), states, 2, 2, dt, damping=damping)
                found = hinf_norm(system)
                calls = [
                    lambda s=system: hinf_norm(s).value,
                    lambda s=system: _slycot_norm(s),
                    lambda s=system: _system_norm(s),
                ]
                values, spent = _interleaved(calls, 3 if states > 60 else 15 if states > 20 else 101)
                # It answers inf at once for poles near the boundary: no time of a norm.
                user = spent[2] if math.isfinite(values[2]) else math.nan
                other, other_spent = [math.nan], [math.nan]
                if states <= 20:
                    other, other_spent = _interleaved([lambda s=system: _scipy_norm(s)], 3)
                rows.append(
                    {
                        "dt": dt,
                        "damping": damping or "dense",
                        "states": states,
                        "upper": found.value,
                        "gap": found.value / found.lower - 1.0,
                        "over slycot": values[0] / values[1] - 1.0,
                        "over scipy": values[0] / other[0] - 1.0,
                        "ms": spent[0],
                        "slycot ms": spent[1],
                        "ratio": spent[0] / spent[1],
                        "system_norm ms": user,
                        "over system_norm": spent[0] / user,
                        "scipy ms": other_spent[0],
                    }
                )
    return rows


TABLES = {"hinf": hinf}
