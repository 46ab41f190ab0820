"""Networks that are Lipschitz-bounded by construction, and the certificates of their weights."""

from lipctrl.nn.activations import activation_module
from lipctrl.nn.compose import (
    Concat,
    Feedback,
    Metric,
    Mix,
    Parallel,
    Repeat,
    Residual,
    Scale,
    Sequential,
    Sum,
)
from lipctrl.nn.explicit import Explicit
from lipctrl.nn.gershgorin import GershgorinBlock
from lipctrl.nn.implicit import ImplicitBlock
from lipctrl.nn.ldlt import LDLTBlock
from lipctrl.nn.lossless import LosslessBlock
from lipctrl.nn.module import CertifiedModule
from lipctrl.nn.orthogonal import OrthogonalLinear
from lipctrl.nn.recursive import Recursive
from lipctrl.nn.resnet import LipschitzResNet
from lipctrl.nn.sandwich import SandwichLayer
from lipctrl.nn.sll import AOLLayer, SLLBlock
from lipctrl.nn.unrolled import UnrolledISTA

__all__ = [
    "CertifiedModule",
    "Explicit",
    "LipschitzResNet",
    "LosslessBlock",
    "GershgorinBlock",
    "LDLTBlock",
    "SandwichLayer",
    "SLLBlock",
    "AOLLayer",
    "OrthogonalLinear",
    "ImplicitBlock",
    "UnrolledISTA",
    "Sequential",
    "Sum",
    "Mix",
    "Residual",
    "Concat",
    "Parallel",
    "Scale",
    "Metric",
    "Repeat",
    "Feedback",
    "Recursive",
    "activation_module",
]
