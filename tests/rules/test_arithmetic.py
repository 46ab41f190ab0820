"""The number systems against rational arithmetic, on numbers of all magnitudes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lipctrl.arithmetic import TINY, Dyadic, Enclosure

DOUBLES = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e140, max_value=1e140),
    st.sampled_from(
        [0.0, -0.0, 1.0, 5e-324, -5e-324, 2.0**-1022, 2.0**-537, -(2.0**-538), 1e-200, 0.1, 1 / 3]
    ),
)


def matrices(rows: int, columns: int):
    return arrays(np.float64, (rows, columns), elements=DOUBLES)


def contains(box: Enclosure, exact: np.ndarray) -> bool:
    return all(
        abs(Fraction(float(m)) - e) <= Fraction(float(r))
        for m, r, e in zip(box.middle().ravel(), box.radius.ravel(), exact.ravel(), strict=True)
    )


def value(number: Dyadic) -> np.ndarray:
    out = np.empty(number.shape, dtype=object)
    out.ravel()[:] = [Fraction(int(i), 1 << number.exponent) for i in number.integers.ravel()]
    return out


@settings(max_examples=150, deadline=None)
@given(matrices(3, 4), matrices(4, 2), matrices(3, 2))
def test_products_and_sums_contain_the_exact_result(oracle, a, b, c):
    exact = oracle.rational(a) @ oracle.rational(b) - oracle.rational(c)
    box = Enclosure.exact(a) @ Enclosure.exact(b) - Enclosure.exact(c)
    assert contains(box, exact)
    assert (value(Dyadic.exact(a) @ Dyadic.exact(b) - Dyadic.exact(c)) == exact).all()


@settings(max_examples=100, deadline=None)
@given(matrices(2, 3), matrices(3, 3), matrices(3, 2))
def test_nested_products_contain_the_exact_result(oracle, a, b, c):
    with np.errstate(over="ignore", invalid="ignore"):
        box = Enclosure.exact(a) @ (Enclosure.exact(b) @ Enclosure.exact(c))
    if not np.isfinite(box.middle()).all() or not np.isfinite(box.radius).all():
        return
    assert contains(box, oracle.rational(a) @ (oracle.rational(b) @ oracle.rational(c)))


@settings(max_examples=100, deadline=None)
@given(matrices(3, 2), matrices(3, 2), arrays(np.int64, (3,), elements=st.integers(-1100, 400)))
def test_entrywise_products_and_shifts_contain_the_exact_result(oracle, a, b, rows):
    box = Enclosure.exact(a).times(Enclosure.exact(b))
    exact = oracle.rational(a) * oracle.rational(b)
    assert contains(box, exact)
    columns = np.array([0, -7])
    with np.errstate(over="ignore"):
        moved = box.shift(rows, columns)
    if np.isfinite(moved.middle()).all() and np.isfinite(moved.radius).all():
        powers = np.array([[Fraction(2) ** int(r + c) for c in columns] for r in rows], dtype=object)
        assert contains(moved, exact * powers)
    assert (value(Dyadic.exact(a).times(Dyadic.exact(b))) == exact).all()


@settings(max_examples=100, deadline=None)
@given(matrices(3, 5))
def test_row_sums_bound_the_exact_sums_from_above(oracle, a):
    exact = [sum(abs(x) for x in row) for row in oracle.rational(a)]
    assert all(s >= e for s, e in zip(Enclosure.exact(a).row_sums(), exact, strict=True))
    assert Dyadic.exact(a).row_sums() == exact


@settings(max_examples=100, deadline=None)
@given(matrices(2, 3), arrays(np.int64, (2,), elements=st.integers(-1200, 1200)))
def test_dyadic_shift_is_exact_for_any_exponent(oracle, a, rows):
    moved = Dyadic.exact(a).shift(rows, np.array([0, 3, -5]))
    powers = np.array([[Fraction(2) ** int(r + c) for c in (0, 3, -5)] for r in rows], dtype=object)
    assert (value(moved) == oracle.rational(a) * powers).all()


@pytest.mark.parametrize("kind", [Enclosure, Dyadic])
def test_both_systems_offer_the_same_submatrices_and_diagonals(kind):
    a = np.arange(12.0).reshape(3, 4)
    taken = kind.exact(a).take(np.array([2, 0]), np.array([1, 3]))
    assert np.array_equal(taken.middle(), a[np.ix_([2, 0], [1, 3])])
    assert np.array_equal(kind.exact(np.array([1.0, -2.0])).diagonal_matrix().middle(), np.diag([1.0, -2.0]))
    assert np.array_equal(kind.exact(np.array([1.0, -2.0])).column().middle(), [[1.0], [-2.0]])
    assert kind.exact(np.array([[0.0, 0.0], [0.0, 1e-320]])).zero_rows().tolist() == [True, False]


def test_a_sum_whose_every_term_has_a_factor_zero_is_zero():
    """Neither row nor column vanishes, and yet the product does; beside it an entry that only underflows."""
    left = Enclosure.exact(np.array([[1.0, 0.0], [0.0, 1e-200]]))
    right = Enclosure.exact(np.array([[0.0, 3.0], [1e-200, 1.0]]))
    product = left @ right
    assert product.radius[0, 0] == 0.0 == product.middle()[0, 0]
    assert product.radius[1, 0] > 0.0 == product.middle()[1, 0]
    uncertain = Enclosure(np.zeros((2, 2)), np.full((2, 2), 0.5))
    assert (((uncertain @ right).radius > 0.0) == [[True, True], [True, True]]).all()


def test_exact_zeros_stay_exact_in_rounded_arithmetic():
    a = Enclosure.exact(np.array([[0.0, 0.0], [1 / 3, 2.0]]))
    b = Enclosure.exact(np.array([[0.1, 0.0], [0.7, 0.0]]))
    product = a @ b
    assert product.radius[0].tolist() == [0.0, 0.0]
    assert product.radius[:, 1].tolist() == [0.0, 0.0]
    assert product.radius[1, 0] > 0.0
    assert (a - a).radius[0, 0] == 0.0


def test_infinite_and_nan_entries_never_pass_for_numbers():
    for bad in (np.inf, -np.inf, np.nan):
        with pytest.raises(OverflowError):
            Dyadic.exact([[bad]])
        with pytest.raises(OverflowError):
            Enclosure.exact([[bad]]).row_sums()


def test_the_machine_rounds_as_the_proofs_assume():
    """Gradual underflow and round to nearest: what a library compiled with -ffast-math may switch off."""
    assert np.array([TINY])[0] * 1.0 == TINY
    assert np.array([2.0**-1022]).item() / 2.0 > 0.0
    assert 1.0 + 2.0**-53 == 1.0
    assert (1.0 + 2.0**-52) + 2.0**-53 == 1.0 + 2.0**-51
