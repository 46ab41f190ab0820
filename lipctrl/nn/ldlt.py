"""LDLᵀ blocks: residual blocks of any inner depth whose LMI holds exactly, without a solve in the inner layers.

In the coordinates h_0 = L x, h_l = √(2Λ_l) w_l the matrix N of `rules.neurons` for the block
w_l = σ(C_l w_{l-1} + b_l), y = A x + B w_n + d is K - [A B]ᵀ[A B] with K block-tridiagonal. Backward elimination with
column-orthonormal pairs [Q_l; S_l] gives C_l in closed form,

    Λ_l^½ C_l base_{l-1}^{-½} = V_l Q_l,   V_l V_lᵀ = Σ_l (½(m+s)² I - 2 m s Σ_l)⁻¹,   Σ_l = S_{l+1}ᵀ S_{l+1},  Σ_n = I,

so that for slopes [0, 1] it is √2 S_{l+1}ᵀ Q_l: no inverse of the pivots Σ ever appears. Eliminating the middle
layers forwards leaves the Schur complement J on (h_0, h_n), and [A B] = M R for J = RᵀR and any contraction M.

Source: Juston et al. 2025, "LDLᵀ L-Lipschitz network" (arXiv 2512.05915), for the elimination; the joint Cayley
parametrisation of (Q_l, S_l) and the forward Schur complement replace its inverses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipctrl.nn.activations import Spec, grouped, short
from lipctrl.nn.explicit import Explicit, NeuronLayer, Neurons, chain, reserved
from lipctrl.nn.lossless import ScaleWitness, bounded_exp, is_homogeneous
from lipctrl.nn.module import CertifiedModule, in_series, positive, positive_gain
from lipctrl.nn.orthogonal import Semiorthogonal, matrices

# ‖Q_l‖ ≤ τ < 1 bounds every pivot from below by 1 - τ²: K is well conditioned for all parameters.
TAU = 0.99


class LDLTBlock(CertifiedModule):
    """y = A x + B w_n + d with an l2 gain of at most L, exact: the LMI is singular, not dominated.

    Parameters
    ----------
    in_features, out_features, lipschitz, width, inner_depth, activation, depth, spread : as in
        `LosslessBlock`; the activation enters with its own slopes [m, s].

    Examples
    --------
    >>> block = LDLTBlock(3, 2, lipschitz=2.0, width=8, inner_depth=3, activation="silu")
    >>> block.certificate().gain <= 2.0
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        width: int = 64,
        inner_depth: int = 1,
        activation: Spec = "relu",
        depth: int = 1,
        spread: float = 1.0,
    ) -> None:
        super().__init__(in_features, out_features)
        self.lipschitz = positive_gain(lipschitz)
        self.width, self.depth = positive("width", width), in_series(depth, in_features, out_features)
        self.inner_depth = positive("inner_depth", inner_depth)
        self.activation = grouped(activation, width)
        n = self.inner_depth
        self.first = Semiorthogonal(in_features + width, in_features, batch=(depth,), spread=spread)
        self.following = Semiorthogonal(2 * width, width, batch=(depth, n - 1)) if n > 1 else None
        self.mix = Semiorthogonal(out_features, in_features + width, batch=(depth,), spread=spread)
        bound = 1.0 / math.sqrt(width)
        self.bias = nn.Parameter(torch.empty(depth, n, width).uniform_(-bound, bound))
        self.output_bias = nn.Parameter(torch.zeros(depth, out_features))
        self.log_scale = (
            None if is_homogeneous(self.activation) else nn.Parameter(torch.zeros(depth, n, width))
        )

    def _pairs(self, first: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return Q_1..Q_n (each at most τ) and S_2..S_n; S_1 is not needed."""
        q, s = [TAU * first[..., : self.width, :]], []
        if self.following is not None:
            left, right = self.following.matrix().split((self.width, self.width), -2)
            q += [TAU * m for m in left.unbind(1)]
            s = list(right.unbind(1))
        return q, s

    def _slopes(self) -> tuple[float, float]:
        """Return [m, s]; a linear σ is treated as one of slopes [0, s], for which the block is never rigid."""
        low, high = self.activation.lower, self.activation.upper
        return (low, high) if low < high else (0.0, high)

    def _inner(self, first: Tensor) -> list[Tensor]:
        """Return V_l Q_l: what layer l reads of layer l-1, both in the coordinates h."""
        low, high = self._slopes()
        total, product = low + high, low * high
        q, s = self._pairs(first)
        out = []
        for l, weight in enumerate(q):
            if l == len(q) - 1 or total == 0.0:
                # Σ = I, or slopes [-s, s], for which V does not depend on Σ.
                middle = math.sqrt(2.0) / (high - low) * weight
            else:
                gram = s[l] @ s[l].mT
                eye = torch.eye(self.width, dtype=gram.dtype, device=gram.device)
                if product == 0.0:
                    middle = math.sqrt(2.0) / abs(total) * (s[l].mT @ weight)
                else:
                    root = torch.linalg.cholesky(0.5 * total**2 * eye - 2.0 * product * gram)
                    middle = s[l].mT @ torch.linalg.solve_triangular(root.mT, weight, upper=True)
            out.append(middle)
        return out

    def _schur(self, inner: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the blocks J_00, -J_0n and J_nn of the Schur complement of K on (h_0, h_n)."""
        low, high = self._slopes()
        total, product = low + high, low * high

        def eye(size: int) -> Tensor:
            return torch.eye(size, dtype=self.bias.dtype, device=self.bias.device)

        def pivot(l: int) -> Tensor:
            base = eye(self.in_features if l == 0 else self.width).expand(self.depth, -1, -1)
            if product == 0.0 or l == len(inner):
                return base
            return base + 2.0 * product * (inner[l].mT @ inner[l])

        # K has -F_l between h_{l-1} and h_l.
        f = [total / math.sqrt(2.0) * m for m in inner]
        corner, coupling, current = pivot(0), f[0].mT, pivot(1)
        for l in range(1, len(inner)):
            if l == 1 and product == 0.0:
                left, step = coupling, f[l].mT  # the first pivot is the identity
            else:
                left = torch.linalg.solve(current, coupling.mT).mT
                step = torch.linalg.solve(current, f[l].mT)
            corner = corner - left @ coupling.mT
            coupling, current = coupling @ step, pivot(l + 1) - f[l] @ step
        return corner, coupling, current

    def _read_out(self, mix: Tensor, inner: Sequence[Tensor]) -> Tensor:
        """Return M R for J = RᵀR, block by block."""
        corner, coupling, current = self._schur(inner)
        left, right = mix.split((self.in_features, self.width), -1)
        low, high = self._slopes()
        if len(inner) == 1 and low * high == 0.0:
            top, across = left, coupling  # J_00 is the identity
        else:
            root = torch.linalg.cholesky(corner)
            across = torch.linalg.solve_triangular(root, coupling, upper=False)
            top = left @ root.mT
        last = torch.linalg.cholesky(current - across.mT @ across)
        return torch.cat((top, right @ last.mT - left @ across), -1)

    def fold(self) -> Explicit:
        gain = self.lipschitz ** (1.0 / self.depth) * reserved(self.bias.dtype, self.inner_depth)
        first, mix = matrices(self.first, self.mix)
        inner = self._inner(first)
        p, h, n = self.in_features, self.width, self.inner_depth
        # h_0 = L x = √L (√L x) and w = h / √(2Λ) with Λ = L ψ²: the gain is split between both ends.
        head = math.sqrt(gain)
        scale = None if self.log_scale is None else bounded_exp(self.log_scale)
        ends = mix.new_full((p + h,), math.sqrt(2.0) * head)
        ends[:p] = gain
        packed = self._read_out(mix, inner) * ends
        c = [math.sqrt(2.0) * m for m in inner]
        c[0] = head * inner[0]
        if scale is not None:
            psi = scale.unbind(1)
            packed = torch.cat((packed[..., :p], packed[..., p:] * psi[-1][:, None, :]), -1)
            c = [m / p[..., None] for m, p in zip(c, psi, strict=True)]
            c = [c[0], *(m * p[:, None, :] for m, p in zip(c[1:], psi[:-1], strict=True))]
        sigma = short(self.activation)
        blocks = zip(
            packed.unbind(0),
            zip(*(m.unbind(0) for m in c), strict=True),
            self.bias.unbind(0),
            self.output_bias.unbind(0),
            [None] * self.depth if scale is None else scale.unbind(0),
            strict=True,
        )
        return chain(
            *(
                Neurons(
                    tuple(
                        NeuronLayer({l: w}, bias, sigma)
                        for l, (w, bias) in enumerate(zip(c_i, bias_i.unbind(0), strict=True))
                    ),
                    dict(zip((0, n), read_out.split((p, h), -1), strict=True)),
                    d_i,
                    gain,
                    ScaleWitness(gain, psi_i),
                    p,
                    read_out,
                )
                for read_out, c_i, bias_i, d_i, psi_i in blocks
            )
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_features} → {self.out_features}, lipschitz={self.lipschitz:g}, width={self.width}, "
            f"inner_depth={self.inner_depth}, depth={self.depth}, activation={self.activation.name}"
        )
