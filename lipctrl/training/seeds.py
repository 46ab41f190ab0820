"""One seed, split into named streams: what each draws never depends on how much the others drew."""

from __future__ import annotations

import hashlib

STREAMS = ("network", "simulator", "exploration", "minibatch", "validation", "evaluation")


def split_seed(seed: int, names: tuple[str, ...] = STREAMS) -> dict[str, int]:
    """Return one independent 63-bit seed a stream, a function of `seed` and the stream's name alone.

    Raises
    ------
    ValueError
        When the seed is not a non-negative integer.

    Examples
    --------
    >>> split_seed(0)["simulator"] == split_seed(0, ("simulator",))["simulator"]
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected a non-negative integer")
    digests = {name: hashlib.sha256(f"lipctrl/{seed}/{name}".encode()).digest() for name in names}
    return {name: int.from_bytes(digest[:8], "little") >> 1 for name, digest in digests.items()}
