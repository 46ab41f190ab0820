"""A penalty that lowers the Lipschitz bound of an unconstrained torch network: its LMI in a random subspace.

Written with q = (z - c v)/r, c and r the middle and the half-width of the slopes, the inequality of a neuron is
|Δq| ≤ |Δv| and the LMI of LipSDP becomes ‖𝒜‖ ≤ 1 for the linear operator

    𝒜 : (L Δx, Λ^½ Δq)  ↦  (Λ^½ Δv, Δy),

a convex set of operators. 𝒜 is applied by running the network's own layers with every nonlinearity replaced by
c v + r q, so no matrix of the LMI is formed. On k orthonormal directions S the condition SᵀNS ⪰ 0 is only necessary
("A Scalable Approach for Safe and Robust Learning via Lipschitz-Constrained Networks", arXiv 2506.23977): what is
trained with it is certified afterwards, by `lipctrl.certify`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from lipctrl.activations import activation
from lipctrl.bounds.eclipse import layer_wise
from lipctrl.bounds.graph import Network, UnsupportedOperationError
from lipctrl.bounds.problem import reduce_network
from lipctrl.bounds.torch_modules import call_activation, evaluation_mode, module_activation
from lipctrl.bounds.torch_network import read_torch
from lipctrl.bounds.torch_trace import Whole, traced
from lipctrl.rules.network import is_affine


def _neurons(module: nn.Module, graph: fx.Graph) -> dict[fx.Node, dict[str, Any]]:
    """Return the activation of every node that is one, in the order of execution; affine ones are left out."""
    out: dict[fx.Node, dict[str, Any]] = {}
    for node in graph.nodes:
        spec = None
        if node.op == "call_module":
            spec = module_activation(module.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method") and node.args:
            rest = list(node.args[1:])
            if not any(isinstance(v, fx.Node) for v in [*rest, *node.kwargs.values()]):
                spec = call_activation(node.target, rest, dict(node.kwargs))
        if spec is not None:
            table = {"name": spec} if isinstance(spec, str) else dict(spec)
            if table["name"] != "identity":
                out[node] = table
    return out


class _Increments(fx.Interpreter):
    """Runs a traced network with each nonlinearity replaced by c v + r q and keeps the v that it meets."""

    def __init__(self, module: nn.Module, graph: fx.Graph, specs: dict[fx.Node, dict[str, Any]]) -> None:
        super().__init__(module, graph=graph)
        self.specs = specs
        self.remainders: list[torch.Tensor] = []
        self.drives: list[torch.Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.specs:
            return super().run_node(n)
        sigma = activation(self.specs[n])
        drive = self.env[n.all_input_nodes[0]]
        place = len(self.drives)
        self.drives.append(drive)
        q = self.remainders[place] if self.remainders else torch.zeros_like(drive)
        return 0.5 * (sigma.upper + sigma.lower) * drive + 0.5 * (sigma.upper - sigma.lower) * q


class SketchedLMI(nn.Module):
    """The sum of what the singular values of 𝒜, seen in a random subspace, exceed 1: zero is necessary for the bound.

    Its parameters are the logarithms of the multipliers Λ: give them to the optimiser together with the network's. The
    subspace is part random, part carried along the directions that 𝒜 stretched most in the step before.

    Parameters
    ----------
    module : torch network that `lipctrl.certify` reads (Linear, element-wise activations, skips, concatenations, …).
    lipschitz : L > 0, the l2 bound to train for.
    directions : columns of the sketch, at most the number of inputs and neurons.
    generator : of the random directions.

    Raises
    ------
    UnsupportedOperationError
        For an operation without a rule, by name.
    ValueError
        For a bound that is not positive, or no directions.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> penalty = SketchedLMI(net, lipschitz=0.01)
    >>> bool(penalty() > 0.0)
    True
    """

    def __init__(
        self,
        module: nn.Module,
        lipschitz: float,
        *,
        directions: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not lipschitz > 0.0:
            raise ValueError(f"lipschitz is {lipschitz}; expected a positive number")
        if directions < 1:
            raise ValueError(f"directions is {directions}; expected at least 1")
        given, whole = read_torch(module), Whole(module)
        with evaluation_mode(whole):
            graph = traced(whole)
        # The network is the caller's: its parameters are not ours to train or to save.
        self._held = (whole, graph, _neurons(whole, graph))
        self.lipschitz, self.generator = float(lipschitz), generator
        self.in_features = given.in_features
        with torch.no_grad(), evaluation_mode(whole):
            probe = self._run(next(module.parameters()).new_zeros(1, self.in_features), [])
        self._heights = [v.shape[-1] for v in probe[0]]
        nonlinear = [layer for layer in given.layers if not is_affine(layer)]
        if [len(np.asarray(layer.bias)) for layer in nonlinear] != self._heights:
            raise UnsupportedOperationError(
                "the network holds a nonlinearity that the sketch does not replace, such as PReLU or LogSigmoid, "
                "or one whose result is not used"
            )
        self._groups = [activation(s).group for s in self._held[2].values()]
        starts = _closed_form(given, self._heights)
        self.log_multipliers = nn.ParameterList(
            nn.Parameter(torch.tensor(np.log(s.reshape(-1, g).mean(axis=1)), dtype=probe[1].dtype))
            for s, g in zip(starts, self._groups, strict=True)
        )
        total = self.in_features + sum(self._heights)
        self.register_buffer("subspace", torch.zeros(0, total, dtype=probe[1].dtype), persistent=False)
        self.directions = min(directions, total)

    def _run(
        self, x: torch.Tensor, remainders: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        module, graph, specs = self._held
        run = _Increments(module, graph, specs)
        run.remainders = remainders
        y = run.run(x)
        return run.drives, y

    def _operator(self, s: torch.Tensor) -> torch.Tensor:
        """Return 𝒜 applied to the rows of s: (k, n + neurons) to (k, neurons + outputs)."""
        roots = [
            torch.exp(0.5 * lam).repeat_interleave(g)
            for lam, g in zip(self.log_multipliers, self._groups, strict=True)
        ]
        pieces = torch.split(s, [self.in_features, *self._heights], dim=-1)
        x = pieces[0] / self.lipschitz
        remainders = [q / root for q, root in zip(pieces[1:], roots, strict=True)]
        drives, y = self._run(x, remainders)
        # Biases and constants leave the increments: the run from zero is taken off.
        at_zero, y_zero = self._run(torch.zeros_like(x[:1]), [torch.zeros_like(r[:1]) for r in remainders])
        moved = [root * (v - v0) for root, v, v0 in zip(roots, drives, at_zero, strict=True)]
        return torch.cat([*moved, y - y_zero], dim=-1)

    def forward(self) -> torch.Tensor:
        """Return Σ max(σ_i² - 1, 0) over the singular values σ_i of 𝒜S, differentiable in weights and multipliers."""
        with evaluation_mode(self._held[0]):
            weights = self.subspace
            total = weights.shape[-1]
            fresh = torch.randn(
                self.directions, total, dtype=weights.dtype, device=weights.device, generator=self.generator
            )
            kept = weights[: (self.directions + 1) // 2]
            basis, _ = torch.linalg.qr(torch.cat([kept, fresh])[: self.directions].T)
            s = basis.T.detach().requires_grad_(True)
            image = self._operator(s)
            left, values, _ = torch.linalg.svd(image, full_matrices=False)
            (back,) = torch.autograd.grad(image, s, image.detach(), retain_graph=True)
            with torch.no_grad():
                # One step of subspace iteration: the rows of 𝒜ᵀ𝒜S that were stretched most come first.
                self.subspace = left.T @ back
            return torch.clamp(values**2 - 1.0, min=0.0).sum()


def _closed_form(given: Network, heights: list[int]) -> list[np.ndarray]:
    """Return multipliers of ECLipsE-Fast for the weights as they are, scaled to the unit bound of q."""
    reduction = reduce_network(given)
    found = layer_wise(reduction, fast=True)
    layers = [l for l, layer in enumerate(given.layers, start=1) if not is_affine(layer)]
    full = reduction.multipliers({l: found.rho * lam for l, lam in found.multipliers.items()})
    out = []
    for l, height in zip(layers, heights, strict=True):
        lam = full.get(l, np.zeros(height))
        low, high = reduction.graph.slopes[l - 1]
        # λ(z - m v)(s v - z) = λ r² (v² - q²), twice in N.
        scaled = 2.0 * lam * (0.5 * (high - low)) ** 2
        out.append(np.where(scaled > 0.0, scaled, 1.0))
    return out


def sketched_lmi_penalty(
    module: nn.Module,
    lipschitz: float,
    *,
    directions: int = 16,
    iterations: int = 3,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return the sketched-LMI penalty of a network at its present weights, with closed-form multipliers.

    `iterations` steps of subspace iteration precede the returned value, which is differentiable in the weights. In a
    training loop keep one `SketchedLMI` instead: it carries its subspace along and learns its multipliers.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> loss = sketched_lmi_penalty(net, lipschitz=0.01)
    >>> loss.backward()
    >>> net[0].weight.grad is not None
    True
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; expected at least 1")
    penalty = SketchedLMI(module, lipschitz, directions=directions, generator=generator)
    for parameter in penalty.parameters():
        parameter.requires_grad_(False)
    for _ in range(iterations - 1):
        penalty()
    return penalty()
