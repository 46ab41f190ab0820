"""Frequency responses of a loop and its incremental ball: the data of the Nyquist and sigma plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.plots.style import Complex


@dataclass(frozen=True)
class LoopResponse:
    """Responses of a plant P and of T = P(I - K₀P)⁻¹ on a frequency grid; u = π(y), K₀ the centre, ρ the radius.

    Attributes
    ----------
    omega : (N,) frequencies [rad/s].
    plant : (N, outputs, inputs) complex P(jω) (or P(e^{jω dt})).
    transformed : (N, outputs, inputs) complex T, or None where I - K₀P is not provably invertible.
    center, radius : the incremental ball of the policy.
    unstable_poles : poles of P in the open right half plane (outside the unit circle in discrete time).
    verdict, norm, peak : of the small-gain test; `norm` is a proved upper bound of ‖T‖_∞, `peak` its frequency [rad/s].
    sample_time : 0 in continuous time, else the sampling period [s].
    rate : unit of the frequencies: "rad/s", or "rad/sample" for dt=True.
    scaled : whether signals are those divided by the policy's scales, in which its ball is smallest.
    """

    omega: np.ndarray
    plant: Complex
    transformed: Complex | None
    center: np.ndarray
    radius: float
    unstable_poles: int
    verdict: str
    norm: float
    peak: float
    sample_time: float
    rate: str = "rad/s"
    scaled: bool = False

    @property
    def singular_values(self) -> np.ndarray:
        """Singular values of T, largest first, shape (N, min(outputs, inputs))."""
        if self.transformed is None:
            raise ValueError("T = P(I - K₀P)⁻¹ is ill-posed here; there is no frequency response to draw")
        return np.linalg.svd(self.transformed, compute_uv=False)


def frequency_grid(systems: Sequence[Any], extra: tuple[float, ...] = (), count: int = 600) -> np.ndarray:
    """Return frequencies [rad/s] that cover the modes of realisations, dense around resonances and `extra`."""
    system = systems[0]
    poles = np.concatenate([np.linalg.eigvals(s.A) if s.states else np.zeros(0) for s in systems])
    if system.is_discrete:
        poles = np.log(poles[np.abs(poles) > 1e-12].astype(np.complex128)) / system.sample_time
    size = np.abs(poles)
    size = size[(size > 1e-9) & np.isfinite(size)]
    low, high = (size.min() / 100.0, size.max() * 50.0) if size.size else (1e-2, 1e2)
    top = system.highest_frequency
    high = min(high, top)
    low = min(low, high / 1e3)
    parts = [np.geomspace(low, high, count)]
    for center in (*np.abs(poles.imag), *extra):
        if low < center < high:
            parts.append(center * np.geomspace(0.8, 1.25, 81))
            parts.append(center * (1.0 + np.linspace(-5e-3, 5e-3, 21)))
    grid = np.unique(np.concatenate(parts))
    return grid[grid <= top]


def loop_response(sys: Any, policy: Any, *, omega: Any = None) -> LoopResponse:
    """Evaluate a loop for plots: responses on a grid, and the proved norm beside them.

    Parameters
    ----------
    sys, policy : as `lipctrl.analysis.ball_test` takes them; positive feedback u = π(y).
    omega : frequencies [rad/s]; chosen from the poles by default. The grid is only for the picture: verdict and
        norm come from the level-set test. Frequencies that are themselves a pole, where no response exists, are
        left out.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> response = loop_response(control.tf([1], [1, -1]), IncrementalBall([[-3.0]], 1.5))
    >>> response.verdict, response.unstable_poles
    ('certified', 1)
    """
    from lipctrl.analysis import as_realization, ball_test, in_own_units

    system, ball, scales = in_own_units(as_realization(sys, "sys"), policy)
    test = ball_test(system, ball)
    verdict = str(test.verdict)
    return response_of_loop(test.loop, ball, test.norm, verdict, omega=omega, scaled=not scales.trivial)


def response_of_loop(
    loop: Any, ball: Any, norm: Any, verdict: str, *, omega: Any = None, scaled: bool = False
) -> LoopResponse:
    """Evaluate a `NominalLoop` whose norm is known already, such as that of a stability report.

    Parameters
    ----------
    loop : `lipctrl.analysis.NominalLoop`; ball : `IncrementalBall`; norm : `HinfNorm` of ‖T‖_∞.
    verdict : word for the title.
    scaled : whether loop and ball are those of scaled signals.
    """
    system, closed = loop.plant, loop.system
    if omega is None:
        extra = (norm.frequency,) if math.isfinite(norm.frequency) else ()
        grid = frequency_grid([system] if closed is None else [system, closed], extra)
    else:
        grid = np.asarray(omega, dtype=np.float64)
        if grid.ndim != 1 or grid.size < 2 or not np.isfinite(grid).all() or not (np.diff(grid) > 0).all():
            raise ValueError(
                f"omega is {omega!r}; expected a rising one-dimensional array of at least two frequencies [rad/s]"
            )
    responses = [(w, *found) for w in grid if (found := _response_at(system, closed, float(w))) is not None]
    if len(responses) < 2:
        raise ValueError("omega holds poles only; expected at least two frequencies [rad/s] beside them")
    seen, plant, transformed = zip(*responses, strict=True)
    poles = np.linalg.eigvals(system.A) if system.states else np.zeros(0)
    outside = np.abs(poles) > 1.0 + 1e-9 if system.is_discrete else poles.real > 1e-9
    return LoopResponse(
        omega=np.array(seen),
        plant=np.stack(plant),
        transformed=None if closed is None else np.stack(transformed),
        center=ball.center,
        radius=ball.radius,
        unstable_poles=int(outside.sum()),
        verdict=verdict,
        norm=norm.value,
        peak=norm.frequency,
        sample_time=system.sample_time,
        rate="rad/sample" if system.counts_samples else "rad/s",
        scaled=scaled,
    )


def _response_at(plant: Any, closed: Any, omega: float) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Return the responses of P and T at one frequency, or None where it is a pole of either."""
    try:
        return plant.response(omega), None if closed is None else closed.response(omega)
    except np.linalg.LinAlgError:
        return None
