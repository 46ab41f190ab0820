"""Lipschitz bounds of networks that lipctrl did not build: certificates from above, ascent from below."""

import importlib
from typing import TYPE_CHECKING, Any

from lipctrl.bounds.certification import certify, read_network
from lipctrl.bounds.graph import Network, UnsupportedOperationError
from lipctrl.bounds.lower import lipschitz_lower_bound
from lipctrl.bounds.ranges import output_range

if TYPE_CHECKING:
    from lipctrl.bounds.sketched import SketchedLMI, sketched_lmi_penalty

__all__ = [
    "certify",
    "lipschitz_lower_bound",
    "output_range",
    "read_network",
    "Network",
    "UnsupportedOperationError",
    "SketchedLMI",
    "sketched_lmi_penalty",
]


def __getattr__(name: str) -> Any:
    # These train, so they need torch; bounds of arrays and files do not.
    if name in ("SketchedLMI", "sketched_lmi_penalty"):
        return getattr(importlib.import_module("lipctrl.bounds.sketched"), name)
    raise AttributeError(f"module 'lipctrl.bounds' has no attribute {name!r}")
