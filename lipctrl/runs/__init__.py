"""Run folders and the training that fills them; reading a run or its certificate needs no torch."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "Run": "folder",
    "RunError": "files",
    "load_run": "folder",
    "StabilityGuarantee": "guarantee",
    "GuaranteeBrokenError": "guarantee",
    "Checkpoint": "session",
    "Schedule": "session",
    "train": "loop",
    "Design": "design",
    "design_policy": "design",
    "build_policy": "design",
    "output_gain": "design",
    "SweepResult": "table",
    "sweep": "sweeps",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"lipctrl.runs.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'lipctrl.runs' has no attribute {name!r}")
