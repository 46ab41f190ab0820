"""lipctrl: neural controllers with a Lipschitz bound by construction, and its proof carried to the loop.

Public names are loaded on first use: `import lipctrl` imports neither torch nor python-control, and a stored
certificate can be checked and analysed where torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> module that defines it
_PUBLIC = {
    "Certificate": "lipctrl.certificate",
    "CertificateFormatError": "lipctrl.certificate",
    "load_certificate": "lipctrl.certificate_reader",
    "NotProvedError": "lipctrl.positivity",
    "CheckReport": "lipctrl.checker",
    "check": "lipctrl.checker",
    # networks and policies (torch)
    "LipschitzResNet": "lipctrl.nn",
    "LipschitzPolicy": "lipctrl.policies",
    "ResidualPolicy": "lipctrl.policies",
    # bounds for given networks
    "certify": "lipctrl.bounds",
    "lipschitz_lower_bound": "lipctrl.bounds",
    "output_range": "lipctrl.bounds",
    "UnsupportedOperationError": "lipctrl.bounds",
    # closed loop (numpy, scipy, control)
    "IncrementalBall": "lipctrl.analysis",
    "ScaledBall": "lipctrl.analysis",
    "analyze": "lipctrl.analysis",
    "circle_criterion": "lipctrl.analysis",
    "disk_margin": "lipctrl.analysis",
    "hinf_norm": "lipctrl.analysis",
    "incremental_gain_margin": "lipctrl.analysis",
    "max_lipschitz": "lipctrl.analysis",
    "max_slope": "lipctrl.analysis",
    "region_of_attraction": "lipctrl.analysis",
    "scaled_relative_graphs": "lipctrl.analysis",
    "small_gain": "lipctrl.analysis",
    "stability_radius": "lipctrl.analysis",
    "structured_gain_margin": "lipctrl.analysis",
    "structured_test": "lipctrl.analysis",
    "zames_falb": "lipctrl.analysis",
    # training and runs
    "train": "lipctrl.runs",
    "load_run": "lipctrl.runs",
}
_ROOMS = ("analysis", "bounds", "checker", "nn", "plots", "policies", "rules", "runs", "training")

__all__ = [*_PUBLIC, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"lipctrl.{name}")
    else:
        raise AttributeError(f"module 'lipctrl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
