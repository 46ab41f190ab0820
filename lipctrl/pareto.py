"""Pareto fronts: what no other beats in both of two numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def undominated(items: Iterable[Item], numbers: Callable[[Item], tuple[float, float]]) -> list[Item]:
    """Return the items that no other beats in both numbers (larger is better), by rising first number.

    First numbers that agree to a millionth count as equal: bounds of one network differ by rounding.

    Examples
    --------
    >>> undominated([(1.0, 3.0), (2.0, 1.0), (0.5, 2.0)], lambda pair: pair)
    [(1.0, 3.0), (2.0, 1.0)]
    """
    front: list[Item] = []
    for item in sorted(items, key=numbers, reverse=True):
        first, second = numbers(item)
        if front:
            last = numbers(front[-1])
            if second <= last[1]:
                continue
            if math.isclose(first, last[0], rel_tol=1e-6):
                front.pop()
        front.append(item)
    return front[::-1]
