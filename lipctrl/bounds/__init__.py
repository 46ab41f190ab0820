"""Lipschitz bounds of networks that lipctrl did not build: certificates from above, ascent from below."""

from lipctrl.bounds.certification import certify, read_network
from lipctrl.bounds.graph import Network, UnsupportedOperationError
from lipctrl.bounds.lower import lipschitz_lower_bound
from lipctrl.bounds.ranges import output_range

__all__ = [
    "certify",
    "lipschitz_lower_bound",
    "output_range",
    "read_network",
    "Network",
    "UnsupportedOperationError",
]
