"""The door to the convex solver: an optional extra, whose results are guesses to be proved."""

from __future__ import annotations

import warnings
from typing import Any


def require_cvxpy() -> Any:
    """Return cvxpy, or raise an ImportError that names the extra."""
    try:
        import cvxpy
    except ImportError as error:
        raise ImportError(
            "this search needs cvxpy and Clarabel, which are not installed; install the extra: "
            "pip install 'lipctrl[lmi]'"
        ) from error
    return cvxpy


def solved(problem: Any) -> bool:
    """Solve with Clarabel and tell whether there is a solution to examine.

    "Inaccurate" ones count, without the solver's warning: callers prove what they use, and fail if they cannot.
    """
    cp = require_cvxpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        try:
            problem.solve(solver=cp.CLARABEL)
        except cp.error.SolverError:
            return False
    return problem.status in ("optimal", "optimal_inaccurate")
