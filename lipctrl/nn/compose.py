"""The recursive algebra: certified maps combine into certified maps, to any depth.

Every combinator reads the gains of its blocks through one rule of `lipctrl.rules`, which proves the same
step again from the stored numbers. `lipschitz` of a combinator follows from those of its blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipctrl.nn.combination import Combination
from lipctrl.nn.explicit import Affine, Explicit, chain
from lipctrl.nn.module import CertifiedModule, positive


def certified(blocks: Sequence[CertifiedModule], name: str) -> nn.ModuleList:
    """Return the blocks as a module list if they are certified and bounded in one norm."""
    if not blocks:
        raise ValueError(f"{name} got no blocks; expected at least one")
    for block in blocks:
        if not isinstance(block, CertifiedModule):
            raise TypeError(
                f"{name} composes certified blocks, got {type(block).__name__}; bound a plain torch module with "
                "lipctrl.certify instead"
            )
    norms = {block.norm for block in blocks}
    if len(norms) > 1:
        raise ValueError(f"{name} mixes blocks bounded in {sorted(norms)}; a composition needs one norm")
    return nn.ModuleList(blocks)


def _same(blocks: Sequence[CertifiedModule], attribute: str, name: str) -> int:
    sizes = [getattr(block, attribute) for block in blocks]
    if len(set(sizes)) > 1:
        raise ValueError(f"{name} needs blocks of equal {attribute}, got {sizes}")
    return sizes[0]


def self_map(block: CertifiedModule, name: str) -> int:
    """Return n of a block from R^n to itself; ValueError for any other."""
    if block.in_features != block.out_features:
        raise ValueError(
            f"{name}: the block maps {block.in_features} to {block.out_features} features; expected equally many. Put "
            "an OrthogonalLinear in series with it"
        )
    return block.in_features


class Combinator(CertifiedModule):
    """A certified map made of certified blocks."""

    blocks: nn.ModuleList

    @property
    def norm(self) -> str:
        """Return the norm in which all blocks are bounded."""
        return self.parts()[0].norm

    def parts(self) -> list[CertifiedModule]:
        """Return the blocks, typed."""
        return [block for block in self.blocks if isinstance(block, CertifiedModule)]

    def gains(self) -> list[float]:
        """Return what the blocks promise."""
        return [float(block.lipschitz) for block in self.parts()]

    def folds(self) -> tuple[Explicit, ...]:
        """Return the explicit maps of the blocks."""
        return tuple(block.fold() for block in self.parts())


class Sequential(Combinator):
    """The blocks one after the other: gain γ_n … γ_1.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> Sequential(OrthogonalLinear(3, 2, lipschitz=2.0), OrthogonalLinear(2, 1, lipschitz=3.0)).lipschitz
    6.0
    """

    def __init__(self, *blocks: CertifiedModule) -> None:
        parts = certified(blocks, "Sequential")
        for a, b in itertools.pairwise(blocks):
            if a.out_features != b.in_features:
                raise ValueError(
                    f"Sequential: {a.out_features} outputs meet {b.in_features} inputs; expected equally many. Put an "
                    f"OrthogonalLinear({a.out_features}, {b.in_features}) between them"
                )
        super().__init__(blocks[0].in_features, blocks[-1].out_features)
        self.blocks = parts

    @property
    def lipschitz(self) -> float:
        return math.prod(self.gains())

    def fold(self) -> Explicit:
        return chain(*self.folds())


class Sum(Combinator):
    """Σ c_i f_i(x): gain Σ |c_i| γ_i; the coefficients are constants (1 unless given).

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> f, g = OrthogonalLinear(2, 2, lipschitz=3.0), OrthogonalLinear(2, 2, lipschitz=4.0)
    >>> Sum(f, g, coefficients=[1.0, -2.0]).lipschitz
    11.0
    """

    coefficients: Tensor

    def __init__(self, *blocks: CertifiedModule, coefficients: Sequence[float] | None = None) -> None:
        parts = certified(blocks, "Sum")
        super().__init__(_same(blocks, "in_features", "Sum"), _same(blocks, "out_features", "Sum"))
        c = (
            torch.ones(len(blocks))
            if coefficients is None
            else torch.tensor([float(v) for v in coefficients])
        )
        if len(c) != len(blocks) or not bool(torch.isfinite(c).all()):
            raise ValueError(
                f"Sum: coefficients are {coefficients}; expected finite numbers, one for each of {len(blocks)} blocks"
            )
        self.blocks = parts
        self.register_buffer("coefficients", c)

    @property
    def lipschitz(self) -> float:
        return sum(abs(float(c)) * g for c, g in zip(self.coefficients, self.gains(), strict=True))

    def fold(self) -> Explicit:
        return Combination("sum", self.folds(), (self.coefficients,))


class Mix(Combinator):
    """Σ α_i f_i(x) with trainable convex weights α (a softmax): gain at most max γ_i, certified Σ α_i γ_i.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> f, g = OrthogonalLinear(2, 2, lipschitz=3.0), OrthogonalLinear(2, 2, lipschitz=4.0)
    >>> mix = Mix(f, g)
    >>> mix.lipschitz, 3.5 - mix.certificate().gain < 1e-3       # equal weights at first
    (4.0, True)
    """

    def __init__(self, *blocks: CertifiedModule) -> None:
        parts = certified(blocks, "Mix")
        super().__init__(_same(blocks, "in_features", "Mix"), _same(blocks, "out_features", "Mix"))
        self.blocks = parts
        self.logits = nn.Parameter(torch.zeros(len(blocks)))

    @property
    def lipschitz(self) -> float:
        return max(self.gains())

    def fold(self) -> Explicit:
        # Rounded, the weights may add up to slightly more than one.
        weights = torch.softmax(self.logits, 0) * (1.0 - 8.0 * torch.finfo(self.logits.dtype).eps)
        return Combination("sum", self.folds(), (weights,))


class Residual(Combinator):
    """x + f(x): gain 1 + γ. (A lossless block keeps gain 1 with a skip inside; see `LosslessBlock`.)

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> Residual(OrthogonalLinear(2, 2, lipschitz=3.0)).lipschitz
    4.0
    """

    def __init__(self, block: CertifiedModule) -> None:
        parts = certified([block], "Residual")
        n = self_map(block, "Residual")
        super().__init__(n, n)
        self.blocks = parts

    @property
    def lipschitz(self) -> float:
        return 1.0 + self.gains()[0]

    def fold(self) -> Explicit:
        (block,) = self.folds()
        like = next(self.blocks.parameters())
        eye = torch.eye(self.in_features, dtype=like.dtype, device=like.device)
        return Combination("sum", (Affine(eye), block), (like.new_ones(2),))


class Concat(Combinator):
    """x ↦ (f_1(x), …, f_n(x)): gain √Σγ_i² in l2, max γ_i in linf.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> f, g = OrthogonalLinear(2, 2, lipschitz=3.0), OrthogonalLinear(2, 2, lipschitz=4.0)
    >>> Concat(f, g).lipschitz
    5.0
    """

    def __init__(self, *blocks: CertifiedModule) -> None:
        parts = certified(blocks, "Concat")
        super().__init__(_same(blocks, "in_features", "Concat"), sum(b.out_features for b in blocks))
        self.blocks = parts

    @property
    def lipschitz(self) -> float:
        return math.hypot(*self.gains()) if self.norm == "l2" else max(self.gains())

    def fold(self) -> Explicit:
        return Combination("concat", self.folds())


class Parallel(Combinator):
    """(x_1, …, x_n) ↦ (f_1(x_1), …, f_n(x_n)), the input split among the blocks: gain max γ_i.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> f, g = OrthogonalLinear(2, 2, lipschitz=3.0), OrthogonalLinear(2, 2, lipschitz=4.0)
    >>> joined = Parallel(f, g)
    >>> joined.in_features, joined.lipschitz
    (4, 4.0)
    """

    sizes: Tensor

    def __init__(self, *blocks: CertifiedModule) -> None:
        parts = certified(blocks, "Parallel")
        super().__init__(sum(b.in_features for b in blocks), sum(b.out_features for b in blocks))
        self.blocks = parts
        self.register_buffer("sizes", torch.tensor([b.in_features for b in blocks]))

    @property
    def lipschitz(self) -> float:
        return max(self.gains())

    def fold(self) -> Explicit:
        return Combination("parallel", self.folds(), (self.sizes,))


class Scale(Combinator):
    """k f(x): gain |k| γ; k is a constant.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> Scale(OrthogonalLinear(2, 2, lipschitz=3.0), -2.0).lipschitz
    6.0
    """

    def __init__(self, block: CertifiedModule, factor: float) -> None:
        parts = certified([block], "Scale")
        if not math.isfinite(factor):
            raise ValueError(f"Scale: factor is {factor}; expected a finite number")
        super().__init__(block.in_features, block.out_features)
        self.blocks, self.factor = parts, float(factor)

    @property
    def lipschitz(self) -> float:
        return abs(self.factor) * self.gains()[0]

    def fold(self) -> Explicit:
        (block,) = self.folds()
        like = next(self.blocks.parameters())
        return Combination("sum", (block,), (like.new_full((1,), self.factor),))


class Metric(Combinator):
    """T₂ f(T₁⁻¹ x): the block in other units, gain ‖T₂‖ γ ‖T₁⁻¹‖.

    `input_metric` T₁ (n × n, invertible) and `output_metric` T₂ are constants; the inverse is stored, so the
    certificate speaks of the stored matrix.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> seconds = Metric(OrthogonalLinear(2, 1, lipschitz=3.0), input_metric=torch.diag(torch.tensor([2.0, 4.0])))
    >>> round(seconds.lipschitz, 6)
    1.5
    """

    before: Tensor
    after: Tensor

    def __init__(self, block: CertifiedModule, input_metric: Any = None, output_metric: Any = None) -> None:
        parts = certified([block], "Metric")
        t1 = torch.eye(block.in_features) if input_metric is None else torch.as_tensor(input_metric)
        t2 = torch.eye(block.out_features) if output_metric is None else torch.as_tensor(output_metric)
        if t1.shape != (block.in_features,) * 2 or t2.ndim != 2 or t2.shape[1] != block.out_features:
            raise ValueError(
                f"Metric: input_metric has shape {tuple(t1.shape)} and output_metric {tuple(t2.shape)}; expected "
                f"({block.in_features}, {block.in_features}) and (any, {block.out_features})"
            )
        super().__init__(block.in_features, t2.shape[0])
        self.blocks = parts
        like = next(parts.parameters())
        self.register_buffer("before", torch.linalg.inv(t1.double()).to(like.dtype))
        self.register_buffer("after", t2.to(like.dtype))

    @property
    def lipschitz(self) -> float:
        norms = [torch.linalg.matrix_norm(m.double(), 2).item() for m in (self.before, self.after)]
        return math.prod(norms) * self.gains()[0] * (1.0 + 1e-12)

    def fold(self) -> Explicit:
        return chain(Affine(self.before), self.folds()[0], Affine(self.after))


class Repeat(Combinator):
    """f ∘ … ∘ f, one block applied `times` times (weight-shared recursion): gain γᵏ.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> Repeat(OrthogonalLinear(2, 2, lipschitz=3.0), times=2).lipschitz
    9.0
    """

    count: Tensor

    def __init__(self, block: CertifiedModule, times: int) -> None:
        parts = certified([block], "Repeat")
        n = self_map(block, "Repeat")
        super().__init__(n, n)
        self.blocks, self.times = parts, positive("times", times)
        self.register_buffer("count", torch.tensor(self.times))

    @property
    def lipschitz(self) -> float:
        return self.gains()[0] ** self.times

    def fold(self) -> Explicit:
        return Combination("repeat", self.folds(), (self.count,))


class Feedback(Combinator):
    """x ↦ w with w = g(w) + h(x): gain γ_h / (1 - γ_g), well posed because γ_g < 1 is required.

    Gradients run through as many last iterations as leave an error below the precision.

    Examples
    --------
    >>> from lipctrl.nn import OrthogonalLinear
    >>> Feedback(OrthogonalLinear(2, 2, lipschitz=0.5), OrthogonalLinear(3, 2, lipschitz=3.0)).lipschitz
    6.0
    """

    def __init__(self, loop: CertifiedModule, drive: CertifiedModule) -> None:
        parts = certified([loop, drive], "Feedback")
        if not loop.in_features == loop.out_features == drive.out_features:
            raise ValueError(
                f"Feedback: the loop maps {loop.in_features} to {loop.out_features} features, the drive to "
                f"{drive.out_features}; expected one number for all three"
            )
        if float(loop.lipschitz) >= 1.0:
            raise ValueError(
                f"Feedback: the loop has gain {loop.lipschitz}; expected below 1, or w = g(w) + h(x) need not have one "
                "solution. Scale the loop down with Scale"
            )
        super().__init__(drive.in_features, drive.out_features)
        self.blocks = parts

    @property
    def lipschitz(self) -> float:
        loop, drive = self.gains()
        return drive / (1.0 - loop)

    def fold(self) -> Explicit:
        like = next(self.blocks.parameters())
        loop, eps = self.gains()[0], torch.finfo(like.dtype).eps
        steps = math.ceil(math.log(eps) / math.log(loop)) if loop > 0.0 else 1
        count = torch.tensor(min(max(steps, 1), 500))
        return Combination("feedback", self.folds(), (count,))
