"""From a solver's number to a claim: the smallest tried constant that the checker proves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from lipctrl.arithmetic import Enclosure
from lipctrl.certificate import SIGNED_CLAIMS, Certificate
from lipctrl.positivity import NotProvedError
from lipctrl.rules import RULES
from lipctrl.rules.linear import SLACKS

Proof = Callable[[Certificate], None]


def _by_rule(node: Certificate) -> None:
    RULES[node.rule].prove(node, Enclosure)


def smallest_proved(
    build: Callable[[float], Certificate],
    estimate: float,
    *,
    claim: str = "lipschitz",
    unit: float = 0.0,
    slacks: Sequence[float] = SLACKS,
    prove: Proof = _by_rule,
) -> Certificate:
    """Return the certificate with the tightest constant near `estimate` that its numbers prove.

    Slacks are relative to |estimate|, or to `unit` where that is larger (one-sided constants may be near zero).
    An inverse claim is lowered, all others are raised. `prove` raises NotProvedError unless a node's own claim is
    proved; parts of a node are the concern of `lipctrl.check`.

    Raises
    ------
    NotProvedError
        When no slack up to 1e-3 proves it.
    """
    if not math.isfinite(estimate):
        raise NotProvedError(f"the estimated constant is {estimate}")
    reason = ""
    reach = max(abs(estimate), unit)
    for slack in slacks:
        shift = -slack * reach if claim == "inverse" else slack * reach
        constant = math.nextafter(estimate + shift, -math.inf if claim == "inverse" else math.inf)
        node = build(max(constant, 0.0) if claim not in SIGNED_CLAIMS else constant)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                prove(node)
        except NotProvedError as error:
            reason = str(error)
            continue
        return node
    raise NotProvedError(f"no constant within 1e-3 of {estimate:.9g} is proved: {reason}")
