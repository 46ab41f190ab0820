"""Names of signals, as python-control's labels give them, on their way from a plant to what is printed and drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

# What python-control calls signals that nobody named.
_DEFAULT = re.compile(r"[uxy]\[\d+\]")


def given_names(labels: Any, count: int) -> tuple[str, ...]:
    """Return labels as names, or () where nobody gave any.

    Examples
    --------
    >>> given_names(["y[0]", "y[1]"], 2), given_names(["speed [m/s]", "y[1]"], 2)
    ((), ('speed [m/s]', 'y[1]'))
    """
    names = tuple(str(label) for label in labels or ())
    return names if len(names) == count and not all(map(_DEFAULT.fullmatch, names)) else ()


def listed_by_name(values: Iterable[str], names: Sequence[str]) -> str:
    """Return values of channels as one text, behind their names where they have any.

    Examples
    --------
    >>> listed_by_name(["2 s", "3 s"], ["throttle", "rudder"])
    'throttle 2 s, rudder 3 s'
    """
    parts = list(values)
    return ", ".join([f"{name} {part}" for name, part in zip(names, parts, strict=True)] if names else parts)
