"""What users hand to trainings and evaluations: counts, options and devices, each read once and refused in words."""

from __future__ import annotations

import math
import numbers
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def whole_number(value: Any, name: str, least: int = 0) -> int:
    """Return a whole number of at least `least`, also one of numpy or written as 3.0; ValueError for anything else.

    Examples
    --------
    >>> whole_number(np.int64(3), "episodes"), whole_number(4.0, "episodes")
    (3, 4)
    """
    number: Any = value if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and int(number) == number and number >= least):
        raise ValueError(f"{name} is {value!r}; expected a whole number, at least {least}")
    return int(number)


def real_number(value: Any, name: str) -> float:
    """Return a finite real number; ValueError for anything else."""
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def named_values(value: Any, name: str) -> dict[str, Any]:
    """Return a mapping from names to values as a dictionary, an empty one for None; ValueError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} is {value!r}; expected names and their values, such as {{'mass': 1.2}}")
    return dict(value)


def deviations(value: Any, name: str) -> np.ndarray:
    """Return standard deviations, one number or a list of them; ValueError for anything else."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array(math.nan)
    if value is None or found.ndim > 1 or not np.isfinite(found).all() or (found < 0.0).any():
        raise ValueError(f"{name} is {value!r}; expected standard deviations >= 0")
    return found


def choose_device(name: Any) -> torch.device:
    """Return the torch device of a name; "auto" is a GPU where there is one.

    Raises
    ------
    ValueError
        When the name is none, or this machine or this build of torch has no such device.
    """
    if isinstance(name, str) and name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if not isinstance(name, str | torch.device):
            raise RuntimeError(f"a {type(name).__name__} names none")
        device = torch.device(name)
        # Devices exist by name until something is put there.
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error), 80, placeholder=" …")
        raise ValueError(
            f"device is {name!r}, which cannot be used here ({reason}); take auto or cpu"
        ) from error
    if device.type == "meta":
        raise ValueError("device is 'meta', which holds no numbers; take auto, cpu or cuda")
    return device
