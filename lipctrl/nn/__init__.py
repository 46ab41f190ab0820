"""Networks that are Lipschitz-bounded by construction, and the certificates of their weights."""

from lipctrl.nn.activations import activation_module
from lipctrl.nn.explicit import Explicit
from lipctrl.nn.gershgorin import GershgorinBlock
from lipctrl.nn.lossless import LosslessBlock
from lipctrl.nn.module import CertifiedModule
from lipctrl.nn.orthogonal import OrthogonalLinear
from lipctrl.nn.resnet import LipschitzResNet

__all__ = [
    "CertifiedModule",
    "Explicit",
    "LipschitzResNet",
    "LosslessBlock",
    "GershgorinBlock",
    "OrthogonalLinear",
    "activation_module",
]
