"""The abstraction behind every certified network: free parameters, one fold, explicit weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from lipctrl.certificate import Certificate
from lipctrl.nn.explicit import Explicit

# Bytes of an element -> the integers that hold its bits.
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def composed() -> bool:
    """Tell whether a compiler or a function transform is at work: folds are then plain operations, never cached."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


class _Fold:
    """One remembered fold. It never travels: copies and pickles of a module start without one."""

    def __init__(self) -> None:
        self.key: tuple[Any, ...] | None = None
        self.value: Explicit | None = None
        self.shared = False

    def __deepcopy__(self, memo: dict[int, Any]) -> _Fold:
        return _Fold()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Fold, ()

    def clear(self) -> None:
        self.key = self.value = None


_DIRECTIONS: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def _direction(like: Tensor) -> Tensor:
    """Return fixed random numbers, as many as `like` has entries."""
    key = like.device, like.dtype
    if key not in _DIRECTIONS or len(_DIRECTIONS[key]) < len(like):
        numbers = torch.randn(2 * len(like), generator=torch.Generator().manual_seed(0))
        _DIRECTIONS[key] = numbers.to(device=like.device, dtype=like.dtype)
    return _DIRECTIONS[key][: len(like)]


def _fingerprint(tensors: list[Tensor]) -> tuple[int, ...]:
    """Return the sums of the tensors' bit patterns, and their products with random numbers.

    Version counters are not enough: fused optimisers and edits through `.data` do not count. Nor are sums alone:
    they are those of the same entries in another order, or with an even number of signs changed.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for t in tensors:
        groups.setdefault((t.device, t.dtype), []).append(t.detach().reshape(-1))
    out: list[int] = []
    for group in groups.values():
        flat = torch.cat(group)
        if flat.numel():
            sums = [flat.view(_WORDS[flat.element_size()]).sum()]
            if flat.is_floating_point():
                sums.append(torch.dot(flat, _direction(flat)).double().view(torch.int64))
            out.extend(torch.stack(sums).tolist())
    return tuple(out)


class Tracked(nn.Module):
    """A module whose plain attributes count like parameters: to set one makes every remembered fold stale."""

    changes = 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "training":
            Tracked.changes += 1


class CertifiedModule(Tracked):
    """A network whose Lipschitz bound holds for every value of its parameters.

    A subclass writes `fold()`, the one function from free parameters (trained) to an `Explicit` map (run,
    exported, certified). Without gradients the fold is reused until a parameter changes; with gradients it is
    recomputed at every call, unless `fold_once()` shares it.

    Attributes
    ----------
    in_features, out_features : dimensions of the map, features last.
    lipschitz : the requested l2 gain. `certificate().gain` does not exceed it for float64 parameters of ordinary size;
        extreme scales may cost a relative 1e-5 a layer (float32: 1e-3 a block). What needs more is refused, not proved.
    norm : the norm of that gain, "l2" or (blocks that say so, and what is composed of them) "linf".
    """

    in_features: int
    out_features: int
    lipschitz: float
    norm: str = "l2"

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = positive("in_features", in_features)
        self.out_features = positive("out_features", out_features)
        self._fold = _Fold()

    @abstractmethod
    def fold(self) -> Explicit:
        """Return the explicit map of the present parameters, differentiably."""

    def explicit(self) -> Explicit:
        """Return the explicit map, reusing a fold of the same parameters where that is allowed."""
        if composed():
            return self.fold()
        cache = self._fold
        if not cache.shared and torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            return self.fold()
        tensors = [*self.parameters(), *self.buffers()]
        key = (
            Tracked.changes,
            torch.is_inference_mode_enabled(),
            tuple((id(t), t.data_ptr(), t._version, t.dtype, t.device) for t in tensors),
            _fingerprint(tensors),
        )
        if cache.key != key or cache.value is None:
            cache.clear()
            with torch.set_grad_enabled(cache.shared or torch.is_grad_enabled()):
                cache.value = self.fold()
            cache.key = key
        return cache.value

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (..., {self.in_features}): features come last"
            )
        return self.explicit().run(x)

    def certificate(self) -> Certificate:
        """Return a proved certificate of the weights as they are now; never from a cache.

        Raises
        ------
        ValueError
            When a folded weight is NaN or inf; when a forward hook or a forward of its own makes the module run
            otherwise than its fold.
        NotProvedError
            When float64 arithmetic cannot prove the claim; nothing is returned then.
        """
        self._require_that_the_fold_runs()
        with torch.no_grad():
            return self._fresh().certificate()

    def export(self) -> nn.Module:
        """Return a plain torch module with the folded weights: the same function, no solves, no gradients."""
        self._require_that_the_fold_runs()
        with torch.no_grad():
            return self._fresh().export()

    def _require_that_the_fold_runs(self) -> None:
        kind, base = type(self), CertifiedModule
        every = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
        if self._forward_hooks or self._forward_pre_hooks or every:
            raise ValueError(
                f"{kind.__name__} has a forward hook, which may change what it computes; expected none: remove it, "
                "the fold is what is certified"
            )
        own = vars(self).keys() & {"forward", "explicit"}
        if own or (kind.__call__, kind.forward, kind.explicit) != (
            nn.Module.__call__,
            base.forward,
            base.explicit,
        ):
            raise ValueError(
                f"{kind.__name__} has a forward (or a call) of its own, which its certificate does not describe; write "
                "fold() instead, or compose blocks with lipctrl.nn"
            )

    def _fresh(self) -> Explicit:
        """Fold the present parameters without any cache, those of sub-modules included."""
        for module in self.modules():
            if isinstance(module, CertifiedModule):
                module._fold.clear()
        return self.fold()

    @contextmanager
    def fold_once(self) -> Iterator[None]:
        """Share one differentiable fold among all forward calls inside the context.

        For backpropagation through time, or several minibatches before one backward pass. A parameter that
        changes inside the context makes a new fold.

        Examples
        --------
        >>> import torch; from lipctrl.nn import LipschitzResNet
        >>> net = LipschitzResNet(2, 1, width=8)
        >>> with net.fold_once():
        ...     loss = net(torch.ones(3, 2)).sum() + net(torch.zeros(3, 2)).sum()
        >>> loss.backward()
        """
        folds = [m._fold for m in self.modules() if isinstance(m, CertifiedModule)]
        before = [f.shared for f in folds]
        for f, shared in zip(folds, before, strict=True):
            if not shared:
                f.clear()
            f.shared = True
        try:
            yield
        finally:
            for f, shared in zip(folds, before, strict=True):
                f.shared = shared
                if not shared:
                    # The shared fold holds a graph; what comes later must not reuse it.
                    f.clear()


def positive(name: str, value: int) -> int:
    """Return `value` if it is a positive integer, else raise a ValueError that names it."""
    try:
        # Numbers of numpy count too; words that spell one do not.
        whole = 0 if isinstance(value, bool | str) else int(value)
    except (TypeError, ValueError, OverflowError):
        whole = 0
    if whole < 1 or whole != value:
        raise ValueError(f"{name} is {value!r}; expected a positive integer")
    return whole


def in_series(depth: int, in_features: int, out_features: int) -> int:
    """Return `depth` if so many equal blocks from n to p numbers can stand in series, else raise a ValueError."""
    if positive("depth", depth) > 1 and in_features != out_features:
        raise ValueError(
            f"depth is {depth} and the blocks map {in_features} to {out_features} features; expected equally many, so "
            "that blocks can stand in series"
        )
    return int(depth)


def positive_gain(value: float, name: str = "lipschitz") -> float:
    """Return a requested gain if it is positive and finite, else raise a ValueError."""
    try:
        gain = 0.0 if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        gain = 0.0
    if not 0.0 < gain < float("inf"):
        raise ValueError(f"{name} is {value!r}; expected a positive finite number")
    return gain
