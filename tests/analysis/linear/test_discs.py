"""Enclosures: eigenvalues computed with many digits lie in the discs, products in their radii."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg

from lipctrl.analysis.discs import eigenvalue_discs
from lipctrl.analysis.midrad import MidRad, sharp_product, smallest_eigenvalue_bound
from lipctrl.analysis.spectrum import Stability, internal_stability


def _exact(left, right):
    return [
        [sum(Fraction(a) * Fraction(b) for a, b in zip(row, col, strict=True)) for col in right.T]
        for row in left
    ]


@pytest.mark.parametrize("n", [1, 5, 13, 40])
@pytest.mark.parametrize("spread", [0.0, 12.0])
def test_products_enclose_the_exact_result(n, spread):
    rng = np.random.default_rng(n)
    left = rng.normal(size=(3, n)) * 10.0 ** rng.uniform(-spread, spread, size=(3, n))
    right = rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-spread, spread, size=(n, 2))
    exact = _exact(left, right)
    mid, slack = sharp_product(left, right)
    plain = MidRad(left) @ MidRad(right)
    for i in range(3):
        for j in range(2):
            assert abs(Fraction(mid[i, j]) - exact[i][j]) <= Fraction(slack[i, j])
            assert abs(Fraction(plain.mid[i, j]) - exact[i][j]) <= Fraction(plain.radius()[i, j])


def test_sharp_products_are_sharp():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(50, 200)), rng.normal(size=(200, 50))
    mid, slack = sharp_product(left, right)
    assert (slack <= 4.0 * np.finfo(float).eps * np.maximum(np.abs(mid), 1.0)).all()


def test_inverse_encloses_every_member():
    rng = np.random.default_rng(2)
    middle, radius = rng.normal(size=(6, 6)), 1e-6 * np.ones((6, 6))
    enclosure = MidRad(middle, radius).inverse()
    assert enclosure is not None
    for _ in range(50):
        member = np.linalg.inv(middle + radius * rng.choice([-1.0, 1.0], size=(6, 6)))
        assert (np.abs(member - enclosure.mid) <= enclosure.radius() + 1e-12).all()
    assert MidRad(np.ones((3, 3))).inverse() is None
    assert MidRad(np.diag([1.0, 1e-3]), 1e-2 * np.ones((2, 2))).inverse() is None


def test_norm_bound_is_above_and_tight():
    rng = np.random.default_rng(4)
    for shape in ((1, 1), (3, 7), (20, 5)):
        for scale in (1e-200, 1.0, 1e150):
            matrix = scale * rng.normal(size=shape)
            bound = MidRad(matrix).norm_bound()
            norm = np.linalg.norm(matrix / scale, 2) * scale
            assert norm * (1 - 1e-15) <= bound <= norm * (1 + 1e-11)


def test_smallest_eigenvalue_bound_is_below():
    rng = np.random.default_rng(5)
    for n in (1, 2, 9):
        matrix = rng.normal(size=(n, n))
        matrix = matrix + matrix.T
        lowest = np.linalg.eigvalsh(matrix)[0]
        bound = smallest_eigenvalue_bound(MidRad(matrix))
        assert lowest - 1e-11 <= bound <= lowest + 1e-14
    assert smallest_eigenvalue_bound(MidRad(np.array([[np.nan]]))) == -np.inf


@pytest.mark.parametrize("kind", ["dense", "clustered", "symmetric", "companion", "complex"])
def test_discs_contain_the_eigenvalues(kind):
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(7)
    for n in (2, 5, 9):
        a = rng.normal(size=(n, n))
        if kind == "symmetric":
            a = a + a.T
        elif kind == "clustered":
            a = np.diag(np.full(n, -1.0)) + np.triu(0.1 * a, 1) + 1e-6 * a
        elif kind == "companion":
            a = scipy.linalg.companion(np.poly(-np.arange(1.0, n + 1)))
        elif kind == "complex":
            a = a + 1j * rng.normal(size=(n, n))
        discs = eigenvalue_discs(MidRad(a))
        assert np.isfinite(discs.radii).all()
        with mpmath.workdps(60):
            exact, _ = mpmath.eig(mpmath.matrix(a.tolist()))
            for value in exact:
                pairs = zip(discs.centers, discs.radii, strict=True)
                gaps = [abs(value - mpmath.mpc(complex(c))) - mpmath.mpf(float(r)) for c, r in pairs]
                assert min(gaps) <= 0


def test_discs_cover_every_member_of_an_enclosure():
    rng = np.random.default_rng(8)
    a, radius = rng.normal(size=(6, 6)), np.full((6, 6), 1e-5)
    discs = eigenvalue_discs(MidRad(a, radius))
    for _ in range(40):
        for value in np.linalg.eigvals(a + radius * rng.choice([-1.0, 1.0], size=(6, 6))):
            assert (np.abs(value - discs.centers) <= discs.radii + 1e-12).any()


@pytest.mark.parametrize("size", [1, 3, 6])
def test_defective_stable_matrices_are_proved(size):
    block = np.diag(np.full(size, -1.0)) + np.diag(np.ones(size - 1), 1)
    assert internal_stability(MidRad(block), discrete=False).stability is Stability.STABLE
    assert internal_stability(
        MidRad(0.5 * np.eye(size) + np.diag(np.ones(size - 1), 1)), discrete=True
    ).is_stable
    assert not internal_stability(MidRad(block + np.eye(size)), discrete=False).is_stable
    delay = np.diag(np.ones(size - 1), 1)
    assert internal_stability(MidRad(delay), discrete=True).is_stable
