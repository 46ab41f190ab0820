"""Checks of what a caller gives an environment, each with an error that says what was received and what to pass."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np


def check_numbers(plant: Any) -> None:
    """Raise ValueError unless every physical parameter, dt, horizon and delay of a plant is in its range."""
    for field in dataclasses.fields(plant):
        if "unit" in field.metadata:
            value, positive = getattr(plant, field.name), field.metadata["positive"]
            if not _is_number(value):
                raise ValueError(
                    f"{plant.name}: {field.name} [{field.metadata['unit']}] must be one number, got {value!r}"
                )
            if not math.isfinite(value) or value < 0.0 or (positive and value == 0.0):
                wanted = "positive and finite" if positive else "finite and not negative"
                raise ValueError(
                    f"{plant.name}: {field.name} [{field.metadata['unit']}] must be {wanted}, got {value}"
                )
    if not (_is_number(plant.dt) and math.isfinite(plant.dt) and plant.dt > 0.0):
        raise ValueError(f"{plant.name}: dt [s] must be positive and finite, got {plant.dt!r}")
    for name, least in (("horizon", 1), ("delay", 0)):
        value = getattr(plant, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{plant.name}: {name} must be a whole number >= {least}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def numbers_or_zero(value: Any, size: int, what: str) -> np.ndarray:
    """Return a point (size,) that a caller gave, zero where it is None."""
    found = np.zeros(size) if value is None else np.asarray(value, dtype=np.float64)
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ValueError(f"{what} must be {size} finite numbers, got {value!r}")
    return found


def per_channel(plant: str, option: str, value: Any, size: int) -> np.ndarray:
    """Return an option as a float64 array with one non-negative entry for each channel."""
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{plant}: {option} takes one number or {size} numbers, got {value!r}") from error
    if values.ndim > 1 or (values.ndim == 1 and values.size != size):
        raise ValueError(f"{plant}: {option} takes one number or {size} numbers, got shape {values.shape}")
    if np.any(np.isnan(values)) or np.any(values < 0.0):
        raise ValueError(f"{plant}: {option} must not be negative or NaN, got {values}")
    if option == "action_limit":
        if np.any(values == 0.0):
            raise ValueError(
                f"{plant}: action_limit must be positive, got {values}; use math.inf for no limit"
            )
    elif np.any(np.isinf(values)):
        raise ValueError(f"{plant}: {option} must be finite, got {values}")
    return np.array(np.broadcast_to(values, (size,)))


def check_randomization(plant: str, widths: Mapping[str, float], known: Mapping[str, str]) -> None:
    """Raise ValueError unless every width belongs to a parameter and lies in [0, 1)."""
    if not isinstance(widths, Mapping):
        example = {min(known, default="mass"): 0.1}
        raise ValueError(
            f"{plant}: randomization maps parameters to relative half-widths, such as {example}; got {widths!r}"
        )
    unknown = set(widths) - set(known)
    if unknown:
        raise ValueError(f"{plant}: cannot randomise {sorted(unknown)}; its parameters are {sorted(known)}")
    for name, width in widths.items():
        if not (_is_number(width) and 0.0 <= width < 1.0):
            raise ValueError(f"{plant}: randomization[{name!r}] must lie in [0, 1), got {width!r}")
