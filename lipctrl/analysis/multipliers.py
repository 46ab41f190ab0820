"""Popov and Zames-Falb searches: larger slopes for *time-invariant* φ, and no incremental statement at all.

These criteria prove ℓ₂ (L₂) stability of u = -φ(y) around zero for memoryless, time-invariant φ with φ(0) = 0. They do
not prove that trajectories approach one another: with the very same plant and slope, two solutions driven by
the same input may stay apart (Kulkarni & Safonov 2002; Fromion & Safonov 2004). They stand here so that a user sees
the difference; the incremental criterion is `lipctrl.max_slope`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import positive_numbers, whole_number
from lipctrl.analysis.channels import popov_channels, require_popov, square_stable
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.popov_line import popov_line
from lipctrl.analysis.spectrum import internal_stability
from lipctrl.analysis.transfer import exact_transfer_function
from lipctrl.analysis.zames_falb_channels import largest_slope
from lipctrl.analysis.zames_falb_search import (
    ContinuousSearch,
    DiscreteSearch,
    Search,
    largest_proved,
    nyquist_value,
)

CLAIM = "non-incremental: stability about zero for memoryless time-invariant φ with φ(0) = 0"


@dataclass(frozen=True)
class MultiplierTest:
    """The largest slope (or sector bound) k for which a multiplier was proved; `claim` says what that means.

    `coefficients` are those of M = 1 - Σ c_i H_i over `basis` (Zames-Falb), or η of M = 1 + ηs (Popov). With several
    channels they are the diagonals of T and N of M = T + Ns (Popov, shape (2, m)), or the stack of H₀ and the matrices
    that are subtracted (Zames-Falb, shape (1 + basis, m, m)). `incremental` is always False.
    """

    slope: float
    criterion: str
    coefficients: np.ndarray
    basis: tuple[str, ...]
    claim: str = CLAIM
    incremental: bool = False

    def __str__(self) -> str:
        end = f"{self.slope:.6g}]" if math.isfinite(self.slope) else "inf)"
        return f"{self.criterion}: slopes [0, {end} ({self.claim})"


def _transfer_function(sys: Any, system: Realization) -> tuple[np.ndarray, np.ndarray] | None:
    """Return exact numerator and denominator of a stable SISO plant; None where only its realisation can be used."""
    if (system.inputs, system.outputs) != (1, 1):
        raise ValueError(
            f"the plant has {system.inputs} inputs and {system.outputs} outputs; expected as many of one as of the "
            "other"
        )
    if not internal_stability(system.a, discrete=system.is_discrete).is_stable:
        raise ValueError(
            "the plant is not provably stable; expected a stable plant. Close a nominal loop first (slopes [a, b] "
            "with a > 0: use the plant feedback(P, a) and the slope b - a)"
        )
    return exact_transfer_function(sys, system)


def popov_criterion(sys: Any) -> MultiplierTest:
    """Return the largest sector [0, k] that the Popov criterion proves; continuous time, u = -φ(y).

    Re[(1 + jωη)G(jω)] + 1/k > 0 for all ω with a real η ≥ 0 is decided exactly, as positivity of a polynomial in ω²
    (Sturm). φ is memoryless and time-invariant. **Not incremental.** A square plant with several channels takes
    diagonal φ, all in [0, k]: k⁻¹T + He (T + jωN)G ≻ 0, diagonal T ≻ 0, N ⪰ 0 (searched, then proved by level sets).

    Raises
    ------
    ValueError
        For unstable, discrete, biproper plants, or ones that are not square.

    Examples
    --------
    >>> import control
    >>> popov_criterion(control.tf([1], [1, 2, 1])).slope        # the circle criterion stops at 8
    inf
    >>> print(f"{popov_criterion(control.tf([1], [1, 3, 3, 1])).slope:.8f}")
    8.00000000
    """
    system = as_realization(sys, "sys")
    require_popov(system)
    if system.inputs == system.outputs > 1:
        if system.b.is_zero() or system.c.is_zero():
            square_stable(system)
            constant = np.array([np.ones(system.inputs), np.zeros(system.inputs)])
            return MultiplierTest(math.inf, "Popov", constant, ("1", "s"))
        k, t, eta = popov_channels(square_stable(system))
        return MultiplierTest(k, "Popov", np.array([t, eta]), ("1", "s"))
    exact = _transfer_function(sys, system)
    by_line, eta = (0.0, 0.0) if exact is None else popov_line(*exact)
    if math.isinf(by_line):
        return MultiplierTest(by_line, "Popov", np.array([eta]), ("s",))
    # A second search follows the frequencies that limit its own proof; it finds what samples between them miss.
    k, _, by_search = popov_channels(square_stable(system))
    if k > by_line * (1.0 + 1e-12):
        return MultiplierTest(k, "Popov", by_search, ("s",))
    return MultiplierTest(by_line, "Popov", np.array([eta]), ("s",))


def zames_falb(
    sys: Any,
    *,
    order: int | None = None,
    odd: bool = False,
    repeated: bool = False,
    tolerance: float | None = None,
) -> MultiplierTest:
    """Return the largest slope k of time-invariant φ with slopes in [0, k] proved by a Zames-Falb multiplier.

    Searches M = 1 - Σ c_i H_i with Σ|c_i| ≤ 1 (c ≥ 0 unless φ is odd) such that Re[M(1/k + G)] > 0 at all frequencies:
    shifts z^{±i} in discrete time (finite impulse response, Carrasco et al. 2019), exponentials a/(a ± s) in
    continuous time. The search is a linear programme on samples; the result is proved between them. φ is memoryless
    and time-invariant, φ(0) = 0, u = -φ(y). **Not incremental.** A square plant with several channels takes diagonal
    φ; `repeated` says that all channels share the same φ, which admits full matrices of coefficients.

    Parameters
    ----------
    order : number of causal, and of anticausal terms (default 12; 3 with several channels or very many states).
    odd : whether φ is odd, which admits coefficients of both signs.
    repeated : whether φ_1 = φ_2 = …; only this justifies full multipliers.
    tolerance : relative accuracy of k (default 1e-5, or 1e-2 where the order is 3).

    Raises
    ------
    ValueError
        For unstable plants, plants that are not square, or an order below 1.

    Examples
    --------
    >>> import control
    >>> plant = control.tf([0.1, 0], [1, -1.8, 0.81], True)       # Carrasco et al. (2019), example 1
    >>> zames_falb(plant, order=4).slope > 10                     # incremental circle criterion: 0.79338
    True
    """
    system = as_realization(sys, "sys")
    several = system.inputs == system.outputs > 1
    exact = None if several else _transfer_function(sys, system)
    order = (3 if exact is None else 12) if order is None else order
    tolerance = (1e-2 if exact is None else 1e-5) if tolerance is None else tolerance
    order = whole_number(order, 1, "order", most=1000)
    tolerance = float(positive_numbers(tolerance, 1, "tolerance")[0])
    if exact is None:
        return _several(square_stable(system), order, odd, repeated, tolerance)
    kind: Any = DiscreteSearch if system.is_discrete else ContinuousSearch
    search: Search = kind(*exact, order, odd)
    ceiling = nyquist_value(exact[0].astype(float), exact[1].astype(float), system.sample_time)
    if math.isinf(ceiling):
        # Every slope may be safe: a loop gain (or a slope) of a million is enough.
        ceiling = 1e6 / min(max(float(np.abs(search.response).max()), 1e-280), 1.0)
    k, c = largest_proved(search.prove, ceiling, tolerance)
    return MultiplierTest(k, "Zames-Falb", c, search.names)


def _several(system: Realization, order: int, odd: bool, repeated: bool, tolerance: float) -> MultiplierTest:
    k, found = largest_slope(system, order, odd=odd, repeated=repeated, tolerance=tolerance)
    name = "Zames-Falb (repeated φ)" if repeated else "Zames-Falb"
    claim = CLAIM + (", the same φ in every channel" if repeated else "")
    if found is None:
        return MultiplierTest(k, name, np.zeros((1, 0, 0)), (), claim)
    stack = np.concatenate([found.h[None], found.causal, found.anticausal])
    terms = tuple(f"F{r + 1}" for r in range(order)) + tuple(f"F{r + 1}*" for r in range(order))
    return MultiplierTest(k, name, stack, terms, claim)
