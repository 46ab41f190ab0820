"""Robustness over plants: a hull of models certified by one inequality, boxes of parameters by labelled sampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import real_array
from lipctrl.analysis.ball import IncrementalBall, with_scope
from lipctrl.analysis.contraction import Contraction, find_contraction, marginal_decay
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.policy_graph import policy_certificate, policy_graph
from lipctrl.analysis.slope_loop import prove_loop, slope_loop
from lipctrl.analysis.verdict import Verdict
from lipctrl.positivity import NotProvedError


@dataclass(frozen=True)
class HullTest:
    """One Lyapunov matrix and one set of multipliers for every plant in the convex hull of the given models.

    Certified: incrementally stable also when the plant moves inside the hull while the loop runs. An outer clip of the
    policy counts as neurons; `scope` repeats what limits a ball that was given instead of a policy.
    """

    verdict: Verdict
    decay: float | None
    models: int
    reason: str
    lyapunov: np.ndarray | None = field(default=None, repr=False)
    scope: tuple[str, ...] = ()

    def __str__(self) -> str:
        rate = "" if self.decay is None else f", contraction {self.decay:.6g}"
        return with_scope(
            f"{self.verdict} for the hull of {self.models} models: {self.reason}{rate}", self.scope
        )


def hull_test(plants: list[Any], policy: Any) -> HullTest:
    """Certify a policy for all plants (A, B) in the convex hull of models with common C and D = 0.

    For fixed P and Λ the structured inequality is concave (affine in continuous time) in (A, B), so that a proof at the
    models is a proof for their hull, time-varying plants included. P is searched on each model and on their mean and
    tried on all; no result is no disproof. The parameters of a physical plant rarely enter affinely: choose
    models whose hull contains the plants of interest.

    Raises
    ------
    ValueError
        When the models differ in C, in sampling time or in size, or have feed-through, or the policy's bound holds on a
        box only.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> models = [control.ss([[a]], [[1.0]], [[1.0]], [[0.0]]) for a in (0.5, 1.0)]
    >>> hull_test(models, rules.linear([[-2.0]])).verdict
    <Verdict.CERTIFIED: 'certified'>
    """
    if not isinstance(plants, list | tuple) or not plants:
        raise ValueError(f"plants is {plants!r}; expected a list of at least one model")
    systems = [as_realization(p, f"plants[{i}]") for i, p in enumerate(plants)]
    first = systems[0]
    for i, s in enumerate(systems):
        same = (
            s.A.shape == first.A.shape and s.sample_time == first.sample_time and np.array_equal(s.C, first.C)
        )
        if not same or not s.d.is_zero() or s.B.shape != first.B.shape:
            raise ValueError(
                f"plants[{i}] differs from plants[0] in C, size or sampling time, or has feed-through; expected models "
                "in the same states and outputs with D = 0, so that their hull is in (A, B) alone"
            )
    graph = policy_graph(policy_certificate(policy))
    # Without feed-through there is no algebraic loop that could be unsolvable.
    loops = [loop for s in systems if (loop := slope_loop(s, graph)) is not None]
    if len(loops) < len(systems):
        return HullTest(Verdict.INCONCLUSIVE, None, len(systems), "a loop is not provably well posed")
    decay = _common_decay([marginal_decay(loop) for loop in loops], first.is_discrete)
    for loop in loops:
        found = find_contraction(loop, decay, tight=True)
        if found is not None and _proves_all(found, loops, decay):
            return HullTest(
                Verdict.CERTIFIED,
                decay,
                len(systems),
                "one P and Λ prove all models",
                found.lyapunov,
                policy.scope if isinstance(policy, IncrementalBall) else (),
            )
    return HullTest(Verdict.INCONCLUSIVE, None, len(systems), "no common P and Λ were found")


def _common_decay(decays: list[float], discrete: bool) -> float:
    return max(decays) if discrete else min(decays)


def _proves_all(found: Contraction, loops: list[Any], decay: float) -> bool:
    try:
        for loop in loops:
            prove_loop(loop, found.lyapunov, found.multipliers, decay)
    except NotProvedError:
        return False
    return True


# Judging a plant takes milliseconds to seconds.
LARGEST_BOX = 10_000


@dataclass(frozen=True)
class SampledBox:
    """What was seen at sampled parameters: **sampled, not certified** between the samples.

    `certified` counts the parameter points whose own loop was certified, `failed` lists the others, `worst` is the
    smallest margin seen and `at` where.
    """

    certified: int
    samples: int
    worst: float
    at: dict[str, float]
    failed: tuple[dict[str, float], ...]
    label: str = "sampled, not certified between samples"

    def __str__(self) -> str:
        found = f"{self.certified} of {self.samples} plants certified ({self.label})"
        return f"{found}; worst margin {self.worst:.6g} at {self.at}"


def sampled_box(
    build: Callable[..., Any],
    box: Mapping[str, tuple[float, float]],
    judge: Callable[[Any], float],
    *,
    integers: Collection[str] = (),
    samples: int = 50,
    seed: int = 0,
) -> SampledBox:
    """Judge plants at the corners, the centre and random points of a box of parameters (mass, length, delay).

    Parameters
    ----------
    build : keyword parameters to a plant. judge : plant to a margin, > 1 where the loop is certified, such as
        `lambda plant: ball_test(plant, ball).margin`. samples : random points beside the 2^k corners and the centre.
    integers : names of parameters that take whole numbers only, such as a delay in samples. Every number in their
        range is judged with all corners and the centre of the others, so that nothing is left out between them; they
        reach `build` as int.

    Raises
    ------
    ValueError
        For bounds that are not finite and ordered, integer parameters without a whole number in range or unknown to the
        box, or more than 10 parameters or 10000 plants.

    Examples
    --------
    >>> import control
    >>> def build(pole, delay):
    ...     return control.tf([0.2], [1.0, -pole] + [0.0] * delay, 0.1)
    >>> box = sampled_box(build, {"pole": (0.1, 0.5), "delay": (0, 3)},
    ...                   lambda plant: 2.0, integers=["delay"], samples=0)
    >>> box.samples                                # four delays, two corners and the centre
    12
    """
    if not isinstance(box, Mapping):
        raise ValueError(f"box is {box!r}; expected parameter names with finite (low, high)")
    names = sorted(box)
    ranges = [real_array(box[name]) for name in names]
    if not names or any(
        r is None or r.shape != (2,) or not -math.inf < r[0] <= r[1] < math.inf for r in ranges
    ):
        raise ValueError(f"box is {dict(box)!r}; expected parameter names with finite (low, high)")
    if len(names) > 10 or type(samples) is not int or samples < 0:
        raise ValueError(
            f"{len(names)} parameters and {samples} samples; expected at most 10 and a whole number of at least 0"
        )
    if isinstance(integers, str) or not isinstance(integers, Collection):
        raise ValueError(f"integers is {integers!r}; expected a list of parameter names")
    unknown = {str(name) for name in integers} - set(names)
    if unknown:
        raise ValueError(f"integers names {sorted(unknown)}, which the box does not; it has {names}")
    whole = {n: range(math.ceil(box[n][0]), math.floor(box[n][1]) + 1) for n in names if n in integers}
    if not all(whole.values()):
        raise ValueError(
            f"box is {dict(box)!r}; expected at least one whole number in the range of {sorted(whole)}"
        )
    rng = np.random.default_rng(seed)
    real = [n for n in names if n not in whole]
    low, high = (np.array([box[n][i] for n in real]) for i in (0, 1))
    points = [np.array(c) for c in itertools.product(*zip(low, high, strict=True))]
    points += [0.5 * (low + high)] if real else []
    count = math.prod(len(r) for r in whole.values()) * len(points) + samples
    if count > LARGEST_BOX:
        raise ValueError(
            f"the box holds {count} plants; expected at most {LARGEST_BOX}. Narrow the integer ranges"
        )
    tables: list[dict[str, float]] = [
        {**dict(zip(real, (float(v) for v in p), strict=True)), **dict(zip(whole, w, strict=True))}
        for w in itertools.product(*whole.values())
        for p in points
    ]
    for _ in range(samples):
        drawn = low + rng.random(len(real)) * (high - low)
        chosen = {n: int(rng.integers(r.start, r.stop)) for n, r in whole.items()}
        tables.append({**dict(zip(real, (float(v) for v in drawn), strict=True)), **chosen})
    margins = [float(judge(build(**t))) for t in tables]
    worst = int(np.argmin(margins))
    failed = tuple(t for t, m in zip(tables, margins, strict=True) if not m > 1.0)
    return SampledBox(len(tables) - len(failed), len(tables), margins[worst], tables[worst], failed)
