"""What users pass beside plants and policies: numbers, lists and words, each read once and refused in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np


def real_array(value: Any) -> np.ndarray | None:
    """Return a value as an array of float64, or None where it holds anything else than real numbers.

    Text, complex numbers, masked entries, ragged lists, systems and integers beyond float64 are no real numbers here,
    though numpy and `float` would turn some of them into such.

    Examples
    --------
    >>> real_array([1, 2]), real_array("1"), real_array([1 + 0j]), real_array([[1], [2, 3]])
    (array([1., 2.]), None, None, None)
    """
    # A system would be read as the array of its entries, or call back from `__array__`.
    if hasattr(value, "ninputs") or np.ma.is_masked(value):
        return None
    try:
        array = np.asarray(value)
        # None would become NaN, and text what it spells.
        if array.dtype.kind not in "fiubO" or any(
            v is None or isinstance(v, str | bytes) for v in _objects(array)
        ):
            return None
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def _objects(array: np.ndarray) -> Iterable[Any]:
    return array.flat if array.dtype.kind == "O" else ()


def finite_number(value: Any, name: str) -> float:
    """Return one finite real number; ValueError for anything else."""
    try:
        # float("2") and the only entry of a list are somebody's mistake.
        if (
            isinstance(value, str | bytes | np.str_)
            or np.iscomplexobj(value)
            or getattr(value, "ndim", 0) != 0
        ):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {value!r}; expected a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}; expected a finite number")
    return number


def positive_numbers(values: Any, size: int | None, name: str, *, finite: bool = True) -> np.ndarray:
    """Return positive numbers, one for each of `size` channels or one for all; size None: as many as are given."""
    array = real_array(values)
    if array is not None and array.ndim == 0:
        array = np.full(1 if size is None else size, float(array))
    fits = array is not None and array.ndim == 1 and array.size > 0 and size in (None, array.size)
    if array is None or not fits or not (array > 0.0).all() or (finite and not np.isfinite(array).all()):
        count, kind = "" if size is None else f"{size} ", "positive finite" if finite else "positive"
        raise ValueError(f"{name} is {values!r}; expected {count}{kind} numbers")
    return array


def whole_number(value: Any, least: int, name: str, most: int | None = None) -> int:
    """Return a whole number within its limits; truth values and 2.0 are none."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}; expected a whole number {limits}")
    return int(value)


def one_of(value: Any, words: Collection[str], name: str) -> str:
    """Return a word if it is one of those that are known."""
    if not (isinstance(value, str) and value in words):
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(repr(word) for word in words)}")
    return value


def ordered_pair(pair: Any, size: int, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (lower, upper), one number for each of `size` channels or one for all; infinities are no limits."""
    if pair is None:
        return None
    ends = [real_array(end) for end in pair] if isinstance(pair, list | tuple) else []
    whole = [np.full(size, float(e)) if e is not None and e.ndim == 0 else e for e in ends]
    if len(whole) == 2:
        low, high = whole
        if (
            low is not None
            and high is not None
            and low.shape == high.shape == (size,)
            and (low <= high).all()
        ):
            return low, high
    raise ValueError(f"{name} is {pair!r}; expected (lower, upper), lower ≤ upper, with {size} numbers each")


def ordered_slopes(slopes: Any) -> tuple[float, float]:
    """Return slopes (a, b), a ≤ b."""
    pair = list(slopes) if isinstance(slopes, list | tuple) or getattr(slopes, "ndim", 0) == 1 else []
    if len(pair) != 2:
        raise ValueError(f"slopes is {slopes!r}; expected two numbers (a, b), a ≤ b")
    low, high = finite_number(pair[0], "slopes[0]"), finite_number(pair[1], "slopes[1]")
    if low > high:
        raise ValueError(f"slopes is ({low}, {high}); expected a ≤ b")
    return low, high
