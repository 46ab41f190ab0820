"""Descent on quasi-convex functions that are not smooth, as largest eigenvalues are where two of them coincide."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

# A search ends where the minimum is within this distance of the best value, in the units of its normals.
_SHARE = 1e-9


def ellipsoid_descent(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    radius: float,
    tolerance: float = _SHARE,
) -> tuple[np.ndarray, float]:
    """Return the best point, and its value, found by shrinking ellipsoids from a ball about the start.

    `function` returns its value and a normal: every smaller value lies where the normal's product with the step is
    negative. Where the normal is a gradient, its product with the ellipsoid bounds what is left to gain. The result is
    a guess: whoever uses it proves what it needs. Source: Shor 1977; Bland, Goldfarb & Todd 1981.

    Examples
    --------
    >>> ellipsoid_descent(lambda x: (abs(x[0] - 1.0), np.sign(x - 1.0)), np.zeros(1), 4.0)[0].round(6)
    array([1.])
    """
    n, point = len(start), start
    best, value = start, math.inf
    shape = np.eye(n) * radius**2
    for _ in range(60 * n * (n + 1)):
        found, normal = function(point)
        if found < value:
            best, value = point, found
        reach = math.sqrt(max(float(normal @ shape @ normal), 0.0))
        if not reach > tolerance:
            break
        step = shape @ normal / reach
        point = point - step / (n + 1.0)
        cut = shape - 2.0 / (n + 1.0) * np.outer(step, step)
        shape = shape / 4.0 if n == 1 else n * n / (n * n - 1.0) * cut
    return best, value
