"""Printed units: where dt=True counts time in samples, frequencies are in rad/sample and delays in samples."""

from __future__ import annotations

import re

_WORDS = (
    (r"rad/s\b", "rad/sample"),
    (r"\bHz\b", "cycles/sample"),
    (r"up to (at least )?(\S+) s \(\d+ samples; ", r"up to \1\2 samples ("),
)


def in_units(text: str, counts_samples: bool) -> str:
    """Return a text that speaks of seconds in samples, where these are the unit of time.

    Examples
    --------
    >>> in_units("peak at 0.5 rad/s", counts_samples=True)
    'peak at 0.5 rad/sample'
    """
    if counts_samples:
        for pattern, word in _WORDS:
            text = re.sub(pattern, word, text)
    return text
