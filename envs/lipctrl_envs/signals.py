"""What plants are made of: named signals with units, declared parameters, and columns of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]
"""Physical parameters that differ between environments: name -> tensor of the batch shape."""


Columns = Sequence[Tensor]
"""Signals of a batch, each of the batch shape (...,)."""


class Signal(NamedTuple):
    """A scalar signal: its name and its SI unit."""

    name: str
    unit: str


def physical(default: float, unit: str, *, positive: bool = True) -> Any:
    """Declare a physical parameter of a plant: a keyword with a unit that may be randomised."""
    return field(default=default, metadata={"unit": unit, "positive": positive})


def join(columns: Columns) -> Tensor:
    """Collect columns of shape (...,) into one tensor (..., n), each column contiguous in memory.

    Keeping every signal contiguous makes the element-wise work of large batches about twice as fast as
    interleaving the signals of one environment.
    """
    return torch.stack(list(columns)).movedim(0, -1)


def excess(signal: Tensor, soft: float) -> Tensor:
    """Return max(0, |signal| - soft)²: a smooth penalty for nearing a limit."""
    return (signal.abs() - soft).clamp_min(0.0).square()
