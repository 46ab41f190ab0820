"""Re-proves a certificate from its stored numbers; trusts no construction, no digest and no LAPACK."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lipctrl.arithmetic import Dyadic, Enclosure, underflows_gradually
from lipctrl.certificate import SIGNED_CLAIMS, Certificate, statement
from lipctrl.rules import RULES, NotProvedError

FLUSHED = (
    "this thread flushes subnormal numbers to zero, which no proof in floating point allows for; "
    "call torch.set_flush_denormal(False), or check in a process without fast-math libraries"
)
ROUTES = {"float": Enclosure, "exact": Dyadic}


@dataclass(frozen=True)
class CheckReport:
    """The outcome of a check: `ok`, the proved `gain` (inf when not ok), the `statement` in words, what failed where.

    The gain is the constant of whatever the certificate claims: of an inverse claim a lower bound, of one on a box a
    bound there.
    """

    ok: bool
    gain: float
    failures: tuple[str, ...] = ()
    nodes: int = 0
    route: str = "float"
    digest: str = field(default="", repr=False)
    statement: str = ""

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return f"proved: {self.statement}; {self.nodes} nodes, {self.route} arithmetic"
        return "not proved: " + "; ".join(self.failures)


def check(certificate: Certificate, *, route: str = "float") -> CheckReport:
    """Prove the claim of every node from the stored numbers alone.

    The claim concerns the real-arithmetic map of the stored weights. `route="float"` bounds every rounding
    error of its own float64 arithmetic; `route="exact"` uses integers (slower, for small networks and as an
    oracle). A failed check is not a proof of the contrary. Any altered number breaks the seal (SHA-256)
    even where the altered claim would still be true.

    Parameters
    ----------
    certificate : a Certificate, from a network or from `load_certificate`.
    route : "float" or "exact".

    Examples
    --------
    >>> from lipctrl.rules import linear
    >>> check(linear([[1.0, 2.0], [3.0, 4.0]])).ok
    True
    """
    if not isinstance(certificate, Certificate):
        raise TypeError(f"check takes a Certificate, got {type(certificate).__name__}")
    if route not in ROUTES:
        raise ValueError(f"route is {route!r}; expected one of {sorted(ROUTES)}")
    failures: list[str] = []
    count = 0
    for count, node in enumerate(certificate.nodes(), start=1):
        reason = _failure(node, route)
        if reason is not None:
            failures.append(f"node {count - 1} ({node.rule}): {reason}")
    ok = not failures
    return CheckReport(
        ok=ok,
        gain=certificate.gain if ok else math.inf,
        failures=tuple(failures),
        nodes=count,
        route=route,
        digest=certificate.digest,
        statement=statement(certificate) if ok else "",
    )


def _failure(node: Certificate, route: str) -> str | None:
    """Return why a node is not proved, or None."""
    try:
        sealed = node.computed_digest() == node.digest
    except (TypeError, ValueError, RecursionError) as error:
        return f"malformed: {error!r}"
    if not sealed:
        return "the digest does not match the numbers"
    if node.rule not in RULES:
        return f"unknown rule; this lipctrl knows {', '.join(sorted(RULES))}"
    if not math.isfinite(node.gain) or (node.gain < 0.0 and node.claim not in SIGNED_CLAIMS):
        return f"the gain {node.gain} is not a finite non-negative number"
    if node.region is not None and not _is_box(*node.region, node.in_features):
        return "the region is not a box of the input space"
    if not underflows_gradually():
        return FLUSHED
    try:
        # Overflow is no surprise here: every proof requires finite numbers where it decides.
        with np.errstate(over="ignore", invalid="ignore"):
            RULES[node.rule].prove(node, ROUTES[route])
    except NotProvedError as error:
        return str(error)
    except (
        *(LookupError, ValueError, TypeError, AttributeError),
        *(ArithmeticError, MemoryError, RecursionError),
    ) as error:
        # Fields of the wrong kind (a stranger's file) are a failed proof, never a crash or a pass.
        return f"malformed: {error!r}"
    return None


def _is_box(lower: np.ndarray, upper: np.ndarray, size: int) -> bool:
    shapes = lower.shape == upper.shape == (size,)
    return bool(shapes and np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all())
