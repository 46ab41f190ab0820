"""Transfer functions of one channel as exact polynomials: the stored numbers of a model, not a conversion of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.analysis.plant import Realization
from lipctrl.analysis.polynomials import rational

# States up to which the coefficients are computed; beyond, their digits make the proofs slow.
_STATES = 16


def exact_transfer_function(plant: Any, system: Realization) -> tuple[np.ndarray, np.ndarray] | None:
    """Return numerator and denominator of a plant with one input and output, arrays of `Fraction`, highest power first.

    `system` is the plant's realisation. Coefficients of a `control.TransferFunction` are taken as they are, those of a
    state-space model are computed without rounding (Faddeev & LeVerrier), hidden modes included. None where the
    realisation itself is only known up to rounding, or has too many states.
    """
    model: Any = plant
    while isinstance(model, list | tuple) and len(model) == 1:
        model = model[0]
    top, bottom = getattr(model, "num", None), getattr(model, "den", None)
    if top is not None and bottom is not None:
        num, den = (rational(np.real(np.asarray(p[0][0]))) for p in (top, bottom))
    elif system.states <= _STATES and _is_exact(system):
        num, den = _of_state_space(system)
    else:
        return None
    num, den = _trimmed(num), _trimmed(den)
    return (num if num.size else rational([0.0])), den


def _is_exact(system: Realization) -> bool:
    return not any(np.any(m.rad) for m in (system.a, system.b, system.c, system.d) if m.rad is not None)


def _trimmed(polynomial: np.ndarray) -> np.ndarray:
    nonzero = np.flatnonzero(polynomial)
    return polynomial[nonzero[0] :] if nonzero.size else polynomial[:0]


def _integers(matrix: np.ndarray, scale: int) -> np.ndarray:
    out = np.empty(matrix.shape, dtype=object)
    out.flat[:] = [int(Fraction(float(v)) * scale) for v in matrix.flat]
    return out


def _common_denominator(*matrices: np.ndarray) -> int:
    """Return a power of two that makes every entry an integer."""
    return max((Fraction(float(v)).denominator for m in matrices for v in m.flat), default=1)


def _of_state_space(system: Realization) -> tuple[np.ndarray, np.ndarray]:
    """Return C adj(λI - A) B + D det(λI - A) and det(λI - A): with M₁ = I, c_k = -tr(AM_k)/k, M_{k+1} = AM_k + c_kI."""
    n = system.states
    scale = _common_denominator(system.A)
    side = _common_denominator(system.B, system.C)
    a, b, c = _integers(system.A, scale), _integers(system.B, side), _integers(system.C, side)
    eye = _integers(np.eye(n), 1)
    # In integers A' = scale·A; the k-th coefficients of A' are scaleᵏ times those of A.
    adjugate, den, num = eye, [Fraction(1)], [Fraction(0)]
    for k in range(1, n + 1):
        num.append(Fraction(int((c @ adjugate @ b)[0, 0]), side**2 * scale ** (k - 1)))
        product = a @ adjugate
        trace = -int(np.trace(product))
        # The coefficients of an integer matrix are integers: the division is exact.
        coefficient = trace // k
        den.append(Fraction(coefficient, scale**k))
        adjugate = product + coefficient * eye
    through = Fraction(float(system.D[0, 0]))
    total = [p + through * q for p, q in zip(num, den, strict=True)]
    out = [np.empty(n + 1, dtype=object) for _ in range(2)]
    out[0][:], out[1][:] = total, den
    return out[0], out[1]
