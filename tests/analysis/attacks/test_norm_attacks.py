"""H∞ norms against fifty digits: extreme scales, nearly marginal systems, matrices of every kind."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import control
import mpmath as mp
import numpy as np
import pytest

from lipctrl.analysis import hinf_norm, stability_radius
from lipctrl.analysis.hinf import _attained
from lipctrl.analysis.midrad import TINY, MidRad
from lipctrl.analysis.plant import as_realization


def exact_response(system, omega):
    """Return the gain of one input and output at a frequency, in fifty digits, by Gaussian elimination."""
    n = system.nstates
    point = mp.expj(mp.mpf(omega) * float(system.dt)) if system.dt else mp.mpc(0, omega)
    rows = [
        [(point if i == j else 0) - mp.mpf(float(system.A[i, j])) for j in range(n)]
        + [mp.mpf(float(system.B[i, 0]))]
        for i in range(n)
    ]
    for k in range(n):
        sizes = [abs(row[k]) / max(abs(v) for v in row[:n]) for row in rows[k:]]
        pivot = k + sizes.index(max(sizes))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    x = [mp.mpc(0)] * n
    for i in reversed(range(n)):
        x[i] = (rows[i][n] - mp.fsum(rows[i][j] * x[j] for j in range(i + 1, n))) / rows[i][i]
    total = mp.fsum(mp.mpf(float(system.C[0, i])) * x[i] for i in range(n))
    return abs(total + mp.mpf(float(system.D[0, 0])))


def at_extreme_scales(seed):
    """Return a system whose states, inputs and outputs have units up to hundreds of decades apart."""
    rng = np.random.default_rng(seed)
    n, dt = int(rng.integers(1, 5)), (0.0, 1.0)[rng.integers(2)]
    a = rng.standard_normal((n, n))
    a -= (np.linalg.eigvals(a).real.max() + rng.uniform(0.1, 1.0)) * np.eye(n)
    if dt:
        a *= 0.9 / np.abs(np.linalg.eigvals(a)).max()
    t = 10.0 ** rng.uniform(-150.0, 150.0, n)
    with np.errstate(all="ignore"):
        a = a * t[:, None] / t
        b = rng.standard_normal((n, 1)) * t[:, None] * 10.0 ** rng.uniform(-300.0, 150.0)
        c = rng.standard_normal((1, n)) / t * 10.0 ** rng.uniform(-150.0, 300.0)
    data = (np.triu(a) if rng.random() < 0.5 else a, b, c)
    return control.ss(*data, [[0.0]], dt) if all(np.isfinite(m).all() for m in data) else None


def refute(system):
    norm = hinf_norm(system)
    if not math.isfinite(norm.value):
        return False
    with mp.workdps(50):
        seen = [exact_response(system, w) for w in (0.0, norm.frequency) if math.isfinite(w)]
        assert mp.mpf(norm.value) >= max(seen)
        assert norm.lower <= norm.value
        realization = as_realization(system)
        for omega, gain in zip((0.0, norm.frequency), seen, strict=False):
            assert mp.mpf(_attained(realization, omega)) <= gain * (1 + mp.mpf(10) ** -13)
    return True


def test_extreme_scales_neither_crash_nor_undercut_the_norm():
    systems = [
        at_extreme_scales(seed) for seed in (87, 230, 240, 272, 320, 378, 429, 520, *range(1000, 1120))
    ]
    assert sum(refute(system) for system in systems if system is not None) > 60


def test_a_feed_through_of_another_size_does_not_overflow():
    """No crash and nothing below the norm; a bound is not always found where six hundred decades meet."""
    proved = 0
    for b, c, d in (
        (1e-300, 1.0, 1e200),
        (1e200, 1e100, 1e-300),
        (1e-300, 1e-300, 1e300),
        (1e300, 1e-300, 1.0),
    ):
        for pole in (-1.0, -1e-3):
            chain = np.array([[pole, 1.0, 0.0], [0.0, pole, 1.0], [0.0, 0.0, pole]])
            proved += refute(control.ss(chain, [[0.0], [0.0], [b]], [[c, 0.0, 0.0]], [[d]]))
    assert proved >= 2


@pytest.mark.slow
def test_many_extreme_scales():
    systems = [at_extreme_scales(seed) for seed in range(4000)]
    assert sum(refute(system) for system in systems if system is not None) > 2000


def test_the_lower_end_is_no_sample_near_the_boundary():
    """Poles at a distance of 1e-13 … 1e-12: float64 responses are wrong by up to 1e-3, either way."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a = rng.standard_normal((3, 3))
        a -= (np.linalg.eigvals(a).real.max() + 10.0 ** rng.uniform(-13.0, -11.0)) * np.eye(3)
        system = control.ss(a, rng.standard_normal((3, 1)), rng.standard_normal((1, 3)), [[0.0]])
        norm = hinf_norm(system)
        if not math.isfinite(norm.value):
            continue
        with mp.workdps(50):
            poles = mp.eig(mp.matrix(a.tolist()), left=False, right=False)
            slowest = max(poles, key=lambda pole: pole.real)
            decay = -slowest.real
            assert decay > 0
            around = [abs(slowest.imag) + decay * k / 8 for k in range(-16, 17)]
            peak = max(exact_response(system, w) for w in [*around, mp.mpf(0)])
            assert mp.mpf(norm.lower) <= peak * (1 + mp.mpf("0.01"))
            assert mp.mpf(norm.value) >= peak
            near = exact_response(system, norm.frequency)
            assert mp.mpf(_attained(as_realization(system), norm.frequency)) <= near


def test_scaling_by_powers_of_two_accounts_for_underflow():
    small = MidRad(np.array([[3.0 * 2.0**-1070, 1.0, 0.0]]), np.array([[2.0**-1070, 0.0, 0.0]]))
    for factor in (2.0**-3, 2.0**-80):
        scaled = small.scaled(factor)
        assert scaled.radius()[0, 0] >= TINY
        assert scaled.radius()[0, 1] == scaled.radius()[0, 2] == 0.0
    assert MidRad(np.ones((1, 2))).scaled(0.25).rad is None


_RNG = np.random.default_rng(0)
_DATA = (
    _RNG.standard_normal((3, 3)) - 3.0 * np.eye(3), _RNG.standard_normal((3, 2)), _RNG.standard_normal((2, 3)),
    np.zeros((2, 2)),
)  # fmt: skip


def model(a: Any = _DATA[0], b: Any = _DATA[1], c: Any = _DATA[2], d: Any = _DATA[3], **changes: Any):
    return SimpleNamespace(
        **{"A": a, "B": b, "C": c, "D": d, "dt": 0, "ninputs": 2, "noutputs": 2, "nstates": 3, **changes}
    )


class Labelled(np.ndarray):
    """An array of another type."""


def test_layouts_and_types_of_the_same_numbers_give_the_same_norm():
    a, b, _, d = _DATA
    expected = hinf_norm(control.ss(*_DATA)).value
    spaced = np.zeros((6, 6))
    spaced[::2, ::2] = a
    for system in (
        model(a=np.asfortranarray(a)), model(a=spaced[::2, ::2]), model(b=b[:, ::-1][:, ::-1]),
        model(a=a.view(Labelled)), model(a=a.astype(">f8")), model(a=a + 0j), model(a=a.astype(object)),
        model(a=np.vectorize(Fraction, otypes=[object])(a)), model(a=a.tolist(), b=b.tolist()),
        model(d=d.astype(bool)), model(d=d.astype(int)), model(a=a.ravel()),
    ):  # fmt: skip
        assert hinf_norm(system).value == expected


def test_numbers_that_no_double_holds_are_enclosed():
    third = as_realization(model(a=np.array([[Fraction(-1, 3), 0, 0], [0, -1, 0], [0, 0, -1]], dtype=object)))
    assert third.a.radius()[0, 0] >= abs(Fraction(float(third.A[0, 0])) + Fraction(1, 3)) > 0
    assert not third.a.radius()[1:].any()
    large = as_realization(model(a=np.diag([-1, -2, -(2**60 + 1)])))
    assert large.a.radius()[2, 2] >= 1.0
    assert as_realization(model(a=np.diag([-1, -2, -3]))).a.rad is None


def test_a_plant_is_read_once():
    """What happens to the arrays afterwards does not change what was read."""
    system: Any = control.ss(*_DATA)
    read = as_realization(system)
    before = hinf_norm(read).value
    for matrix in (system.A, system.B, system.C, system.D):
        matrix[...] = 7.0
    assert np.array_equal(read.A, _DATA[0])
    assert hinf_norm(read).value == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"b": _DATA[1].T}, r"B of shape \(2, 3\)"),
        ({"c": _DATA[2].T}, r"C of shape \(3, 2\)"),
        ({"nstates": 2}, "A of shape"),
        ({"b": _DATA[1][:, :1]}, "B of shape"),
        ({"a": _DATA[0] * np.nan}, "NaN entries in A"),
        ({"d": _DATA[3] + np.inf}, "infinite entries in D"),
        ({"a": _DATA[0] + 1e-30j}, "complex"),
        ({"a": np.ma.masked_array(_DATA[0], _DATA[0] > 0.0)}, "MaskedArray"),
        ({"a": np.array([["x"] * 3] * 3, dtype=object)}, "dense array"),
        ({"a": None}, "in A|as A"),
        ({"dt": "fast"}, "dt='fast'"),
        ({"dt": 1j}, "dt=1j"),
        ({"dt": -0.1}, "dt=-0.1"),
    ],
)
def test_bad_matrices_are_refused_in_words(changes, words):
    with pytest.raises(ValueError, match=words):
        hinf_norm(model(**changes))


def real_ends(system):
    """Return the exact interval of real k for which u = ky keeps a SISO loop stable, on a fine grid of crossings."""
    num, den = (np.atleast_1d(np.squeeze(p)) for p in control.tfdata(control.tf(system)))
    num = np.concatenate([np.zeros(len(den) - len(num)), num])
    # Re and Im of N·conj(D) on the axis: k = 1/G is real where the imaginary part is zero.
    s = np.poly1d([1.0, 0.0])
    turn = [1.0, 1j, -1.0, -1j]
    top, bottom = (
        sum((c * turn[i % 4] * s**i for i, c in enumerate(p[::-1])), np.poly1d([0.0])) for p in (num, den)
    )
    cross = top * np.poly1d(np.conj(bottom.coeffs))
    roots = np.poly1d(np.imag(cross.coeffs)).roots if np.any(np.imag(cross.coeffs)) else np.zeros(0)
    candidates = [0.0, *(r.real for r in roots if abs(r.imag) < 1e-7 * (1.0 + abs(r)))]
    inverse = [bottom(w) / top(w) for w in candidates if abs(top(w)) > 0.0]
    if abs(num[0]) > 0.0:
        inverse.append(den[0] / num[0])
    return min((abs(k) for k in inverse), default=math.inf)


def test_the_real_radius_is_never_above_the_crossings():
    """Crossings of the real axis from the roots of a polynomial, the point at infinity and zero included."""
    compared = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 6))
        a = rng.standard_normal((n, n))
        a -= (np.linalg.eigvals(a).real.max() + 10.0 ** rng.uniform(-3.0, 0.5)) * np.eye(n)
        feed = rng.standard_normal((1, 1)) * (rng.random() < 0.4)
        system: Any = control.ss(a, rng.standard_normal((n, 1)), rng.standard_normal((1, n)), feed)
        radius = stability_radius(system, field="real")
        truth = real_ends(system)
        assert radius <= truth * (1.0 + 1e-6)
        for k in (radius * (1.0 - 1e-6), -radius * (1.0 - 1e-6)):
            if radius < 1e3:
                closed = a + k * system.B @ system.C / (1.0 - k * feed.item())
                assert np.linalg.eigvals(closed).real.max() < 1e-9
        compared += radius > 0.999 * truth
    assert compared > 22
