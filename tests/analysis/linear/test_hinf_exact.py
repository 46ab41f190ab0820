"""H∞ bounds attacked with exact arithmetic: rational level sets of the stored numbers, and 40-digit samples."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import control
import numpy as np
import pytest

from lipctrl.analysis import hinf_norm
from lipctrl.analysis.cover import cover_gain
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.modal import ModalForm, modal_basis, modal_form
from lipctrl.analysis.plant import as_realization
from tests.analysis.linear.systems import random_system

Poly = list[Fraction]  # coefficients, lowest degree first


def _trim(p: Poly) -> Poly:
    p = list(p)
    while p and p[-1] == 0:
        p.pop()
    return p


def _times(p: Poly, q: Poly) -> Poly:
    out = [Fraction(0)] * max(len(p) + len(q) - 1, 0)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] += a * b
    return out


def _plus(p: Poly, q: Poly) -> Poly:
    size = max(len(p), len(q))
    return [(p[i] if i < len(p) else 0) + (q[i] if i < len(q) else Fraction(0)) for i in range(size)]


def _exact_transfer_function(system) -> tuple[Poly, Poly]:
    """Return numerator and denominator of a SISO system by Faddeev and LeVerrier's recursion."""
    a, b, c, d = (
        [[Fraction(float(x)) for x in row] for row in np.atleast_2d(m)]
        for m in (system.A, system.B, system.C, system.D)
    )
    n = len(a)
    m = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
    den, num = [Fraction(1)], []
    for k in range(1, n + 1):
        mb = [sum(m[i][j] * b[j][0] for j in range(n)) for i in range(n)]
        num.append(sum(c[0][i] * mb[i] for i in range(n)))
        am = [[sum(a[i][l] * m[l][j] for l in range(n)) for j in range(n)] for i in range(n)]
        den.append(-sum(am[i][i] for i in range(n)) / k)
        m = [[am[i][j] + (den[-1] if i == j else 0) for j in range(n)] for i in range(n)]
    den, num = den[::-1], num[::-1]
    return _plus(num, [d[0][0] * x for x in den]), den


def _on_axis(p: Poly, degree: int, discrete: bool) -> Poly:
    """Return |p|² on the boundary as a polynomial in ν²; discrete: z = (1 + jν)/(1 - jν), times (1 + ν²)^degree."""
    if discrete:
        total: Poly = []
        for k, a in enumerate(p):
            term = [a]
            for _ in range(k):
                term = _times(term, [Fraction(1), Fraction(1)])
            for _ in range(degree - k):
                term = _times(term, [Fraction(1), Fraction(-1)])
            total = _plus(total, term)
        p = total
    even = [a * (-1) ** (k // 2) if k % 2 == 0 else Fraction(0) for k, a in enumerate(p)]
    odd = [a * (-1) ** (k // 2) if k % 2 else Fraction(0) for k, a in enumerate(p)]
    return _plus(_times(even, even), _times(odd, odd))[::2]


def _positive_for_positive_x(p: Poly) -> bool:
    """Tell by Sturm's theorem whether p(x) > 0 for all x > 0 and p(0) ≥ 0."""
    p = _trim(p)
    if not p:
        return False
    while p[0] == 0:
        p = p[1:]
    chain = [p, [k * a for k, a in enumerate(p)][1:]]
    while _trim(chain[-1]):
        rest, divisor = list(chain[-2]), chain[-1]
        while len(rest) >= len(divisor):
            factor, shift = rest[-1] / divisor[-1], len(rest) - len(divisor)
            rest = [a - factor * divisor[k - shift] if k >= shift else a for k, a in enumerate(rest)][:-1]
        scale = max((abs(a) for a in rest), default=Fraction(0))
        chain.append(_trim([-a / scale for a in rest] if scale else []))
    chain = [q for q in chain if q]

    def changes(signs: list[int]) -> int:
        signs = [s for s in signs if s]
        return sum(a != b for a, b in pairwise(signs))

    at_zero = changes([int(q[0] > 0) - int(q[0] < 0) for q in chain])
    at_infinity = changes([1 if q[-1] > 0 else -1 for q in chain])
    return p[0] > 0 and p[-1] > 0 and at_zero == at_infinity


def _is_above(system, level: float) -> bool:
    """Tell exactly whether the gain of a SISO system stays below `level` at every frequency (0 < ω < ∞)."""
    num, den = _exact_transfer_function(system)
    degree, discrete = len(den) - 1, bool(system.dt)
    square = Fraction(level) ** 2
    top, bottom = _on_axis(num, degree, discrete), _on_axis(den, degree, discrete)
    return _positive_for_positive_x(_plus([square * x for x in bottom], [-x for x in top]))


def _adversarial(rng: np.random.Generator, kind: str, dt: float) -> control.StateSpace:
    n = int(rng.integers(2, 6))
    if kind == "dense":
        return random_system(rng, n, 1, 1, dt, feedthrough=bool(rng.integers(2)))
    if kind == "resonant":
        return random_system(rng, n, 1, 1, dt, damping=10.0 ** rng.uniform(-6, -1))
    if kind == "close modes":
        # Two resonances nearer to one another than their width, nearly cancelling.
        omega, zeta = 1.0, 10.0 ** rng.uniform(-4, -1)
        a = np.zeros((4, 4))
        for k, w in enumerate((omega, omega * (1.0 + zeta * rng.uniform(0.1, 3.0)))):
            a[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[-zeta * w, w], [-w, -zeta * w]]
        b = np.array([[1.0], [0.0], [1.0], [0.0]])
        c = np.array([[1.0, 0.0, rng.uniform(-1.0, 1.0), 0.0]])
    elif kind == "non-normal":
        a = -np.diag(rng.uniform(0.5, 2.0, n)) + np.triu(
            10.0 ** rng.uniform(0, 2) * rng.normal(size=(n, n)), 1
        )
        b, c = rng.normal(size=(n, 1)), rng.normal(size=(1, n))
    elif kind == "scaled":
        t = 10.0 ** rng.uniform(-6, 6, n)
        base = random_system(rng, n, 1, 1, 0)
        a, b, c = base.A * t[:, None] / t, base.B * t[:, None], base.C / t
    else:  # a chain of nearly equal poles
        a = -np.diag(1.0 + 10.0 ** rng.uniform(-9, -3, n)) + np.diag(np.ones(n - 1), 1)
        b, c = np.eye(n)[:, -1:], np.eye(n)[:1]
    if dt:
        half = 0.1 * a / max(1.0, float(np.abs(np.linalg.eigvals(a)).max()))
        a = np.linalg.solve(np.eye(len(a)) - half, np.eye(len(a)) + half)
    return control.ss(a, b, c, [[float(rng.normal()) if rng.integers(2) else 0.0]], dt)


@pytest.mark.parametrize("dt", [0, 0.1])
@pytest.mark.parametrize("kind", ["dense", "resonant", "close modes", "non-normal", "scaled", "chain"])
def test_no_bound_is_below_the_exact_norm(kind, dt):
    rng = np.random.default_rng(sum(map(ord, kind)))
    finite = 0
    for _ in range(25):
        system = _adversarial(rng, kind, dt)
        found = hinf_norm(system)
        if not math.isfinite(found.value):
            continue
        finite += 1
        assert _is_above(system, found.value)
        assert found.lower == 0.0 or not _is_above(system, found.lower * (1.0 - 1e-9))
    assert finite >= 20


@pytest.mark.parametrize("dt", [0, True])
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1), (3, 4)])
def test_no_bound_is_below_a_sample_of_forty_digits(shape, dt):
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(shape[0] + 10 * shape[1])
    for trial in range(3):
        damping = (None, 1e-2, 1e-5)[trial]
        system = random_system(rng, 5, shape[1], shape[0], dt, damping=damping, feedthrough=True)
        found = hinf_norm(system)
        with mpmath.workdps(40):
            a, b, c, d = (
                mpmath.matrix(np.asarray(m).tolist()) for m in (system.A, system.B, system.C, system.D)
            )
            for nudge in (0.0, 1e-9, -1e-9, 1e-7, -1e-7):
                omega = mpmath.mpf(found.frequency) * (1 + mpmath.mpf(nudge))
                point = mpmath.expj(omega) if dt else mpmath.mpc(0, omega)
                value = c * mpmath.inverse(point * mpmath.eye(5) - a) * b + d
                norm = mpmath.svd_c(value, compute_uv=False)[0]
                assert norm <= found.value
                if nudge == 0.0:
                    assert norm >= found.lower * (1 - mpmath.mpf("1e-15"))
        assert found.value <= found.lower * (1.0 + 1e-5)


def test_a_corrupted_form_has_another_bound():
    system, _ = as_realization(random_system(np.random.default_rng(3), 6, damping=1e-3)).balanced()
    basis = modal_basis(system.a, discrete=False)
    assert basis is not None
    form = modal_form(system, basis)
    assert form is not None
    honest = cover_gain(form, 1e-9)
    k = int(np.argmax(form.sizes / -form.poles.real))
    nearer = form.poles.copy()
    nearer[k] = complex(0.5 * nearer[k].real, nearer[k].imag)
    moved = ModalForm(nearer, form.residues, form.sizes, form.d, form.slack, form.sample_time)
    assert cover_gain(moved, 1e-9).lower > 1.2 * honest.upper
    loose = ModalForm(form.poles, form.residues, form.sizes, form.d, 0.5 * honest.upper, form.sample_time)
    assert cover_gain(loose, 1e-9).upper >= 1.5 * honest.lower


@pytest.mark.parametrize(
    "matrix", [[[0.0, 1.0], [-1.0, 0.0]], [[1e-17]], [[0.0]], [[-1.0, 1.0], [1.0, -1.0]], [[np.nan]]]
)
def test_modes_are_no_proof_for_matrices_that_are_not_stable(matrix):
    assert modal_basis(MidRad(np.array(matrix)), discrete=False) is None


def test_modes_are_no_proof_where_a_member_is_unstable():
    assert modal_basis(MidRad(np.diag([-1.0, -2.0]), np.diag([0.05, 0.0])), discrete=False) is not None
    assert modal_basis(MidRad(np.diag([-1.0, -2.0]), np.diag([1.05, 0.0])), discrete=False) is None
    assert modal_basis(MidRad(np.diag([0.9, -0.5]), np.diag([0.2, 0.0])), discrete=True) is None
