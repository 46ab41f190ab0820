"""Inference rules: each written once, used by the networks that build certificates and by the checker.

Importing this package fills `RULES`. A rule proves a node from its stored numbers and its parts'
claims, and runs the node; a builder of the same idea stands beside it.
"""

from lipctrl.rules.base import RULES, NotProvedError, Rule, evaluate
from lipctrl.rules.compose import concat, feedback, parallel, repeat, series, total
from lipctrl.rules.implicit import implicit
from lipctrl.rules.linear import elementwise, identity, linear, scaling, spectral_norm_bound
from lipctrl.rules.network import network
from lipctrl.rules.neurons import Layer, Output, neurons, prove_neurons
from lipctrl.rules.policy import centered, projection

__all__ = [
    "RULES",
    "Rule",
    "NotProvedError",
    "evaluate",
    "Layer",
    "Output",
    "neurons",
    "prove_neurons",
    "network",
    "linear",
    "scaling",
    "identity",
    "elementwise",
    "spectral_norm_bound",
    "series",
    "total",
    "concat",
    "parallel",
    "repeat",
    "feedback",
    "implicit",
    "centered",
    "projection",
]
