"""The positivity proof against a rational LDLᵀ: it may fail to prove, it never proves what is false."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipctrl import positivity
from lipctrl.arithmetic import Dyadic, Enclosure
from lipctrl.positivity import NotProvedError, prove_positive_semidefinite

KINDS = [Enclosure, Dyadic]


def proves(matrix: np.ndarray, kind=Enclosure, cuts: tuple[int, ...] = ()) -> bool:
    edges = [0, *cuts, len(matrix)]
    sizes = [b - a for a, b in itertools.pairwise(edges)]
    blocks = {
        (i, j): kind.exact(matrix[edges[i] : edges[i + 1], edges[j] : edges[j + 1]])
        for i in range(len(sizes))
        for j in range(i, len(sizes))
    }
    try:
        prove_positive_semidefinite(blocks, sizes)
    except NotProvedError:
        return False
    return True


def near_singular(seed: int, size: int, rank: int, shift: float, spread: float) -> np.ndarray:
    """A symmetric matrix of low rank, moved by a tiny multiple of I, over many magnitudes."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, rank))
    scale = 2.0 ** np.round(spread * rng.standard_normal(size))
    m = (root @ root.T + shift * np.eye(size)) * scale * scale[:, None]
    return 0.5 * (m + m.T)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(
        [0.0, 1e-17, -1e-17, 1e-16, -1e-16, 1e-15, -1e-15, 3e-15, -1e-14, 1e-12, -1e-12, 1e-8, -1e-8]
    ),
    st.sampled_from([0.0, 3.0, 40.0]),
)
def test_an_indefinite_matrix_is_never_accepted(oracle, seed, size, rank, shift, spread):
    m = near_singular(seed, size, min(rank, size), shift, spread)
    truth = oracle.is_positive_semidefinite(oracle.rational(m))
    for kind in KINDS:
        assert not proves(m, kind) or truth
        if size > 2:
            assert not proves(m, kind, cuts=(1, size - 1)) or truth


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=9, max_size=9), st.integers(0, 2))
def test_small_integer_matrices_on_the_edge(oracle, entries, bump):
    """Gram matrices of integers are singular or nearly so exactly; lower one diagonal entry by one ulp."""
    root = np.array(entries, dtype=float).reshape(3, 3)
    m = root @ root.T
    m[bump, bump] = np.nextafter(m[bump, bump], -np.inf)
    truth = oracle.is_positive_semidefinite(oracle.rational(m))
    assert not proves(m, Enclosure) or truth
    assert not proves(m, Dyadic) or truth


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_a_definite_matrix_is_proved(kind, size):
    m = near_singular(3, size, size, 1e-9, 2.0)
    assert proves(m, kind)
    assert proves(m, kind, cuts=tuple(range(1, size)))


def test_relative_gaps_of_1e_11_are_enough_at_size_200():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((200, 150))
    gram = root @ root.T
    gram /= np.linalg.norm(gram, 2)
    assert proves(gram + 1e-11 * np.eye(200))
    assert not proves(gram - 1e-11 * np.eye(200))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_rows_are_dropped_only_when_they_are_zero(kind):
    assert proves(np.diag([1.0, 0.0, 2.0]), kind)
    assert proves(np.zeros((3, 3)), kind)
    m = np.diag([1.0, 0.0, 2.0])
    m[0, 1] = m[1, 0] = 1e-300
    assert not proves(m, kind)
    assert not proves(m, kind, cuts=(1, 2))
    m = np.diag([1.0, 1.0])
    m[1, 1] = -5e-324
    assert not proves(m, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hidden_off_diagonal_block_counts(kind):
    """Blocks far from the diagonal are part of the matrix."""
    blocks = {(i, i): kind.exact([[1.0]]) for i in range(3)}
    blocks[0, 2] = kind.exact([[1.0 + 1e-9]])
    with pytest.raises(NotProvedError):
        prove_positive_semidefinite(blocks, [1, 1, 1])
    blocks[0, 2] = kind.exact([[1.0 - 1e-9]])
    prove_positive_semidefinite(blocks, [1, 1, 1])


def test_a_missing_diagonal_block_is_not_a_proof():
    blocks = {(0, 0): Enclosure.exact([[1.0]]), (0, 1): Enclosure.exact([[1e-200]])}
    with pytest.raises(NotProvedError):
        prove_positive_semidefinite(blocks, [1, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_what_float64_cannot_hold_is_not_proved(bad):
    m = np.eye(3)
    m[0, 1] = m[1, 0] = bad
    assert not proves(m)
    m = np.eye(3)
    m[1, 1] = bad
    assert not proves(m) or bad == 1e308


def test_uncertainty_larger_than_the_margin_is_not_proved():
    wide = Enclosure(np.eye(2), np.full((2, 2), 0.6))
    with pytest.raises(NotProvedError):
        prove_positive_semidefinite({(0, 0): wide}, [2])
    prove_positive_semidefinite({(0, 0): Enclosure(np.eye(2), np.full((2, 2), 1e-3))}, [2])


def test_the_whole_enclosure_is_proved_not_its_middle(oracle):
    """Every corner of an accepted interval matrix is positive semidefinite."""
    rng = np.random.default_rng(8)
    accepted = 0
    for _ in range(200):
        root = rng.standard_normal((2, 2))
        middle = root @ root.T
        radius = np.full((2, 2), 10.0 ** rng.uniform(-4, 0))
        try:
            prove_positive_semidefinite({(0, 0): Enclosure(middle, radius)}, [2])
        except NotProvedError:
            continue
        accepted += 1
        corner = middle - np.diag(np.diag(radius))
        corner[0, 1] = corner[1, 0] = middle[0, 1] + np.copysign(radius[0, 1], middle[0, 1])
        assert np.linalg.eigvalsh(corner)[0] >= -1e-12
    assert accepted > 20


def test_the_margin_covers_its_own_rounding(oracle):
    """The proof's claim N - cI ⪰ -‖F‖I holds in rationals for the returned margin."""
    m = near_singular(11, 5, 5, 1e-10, 0.0)
    margin = prove_positive_semidefinite({(0, 0): Enclosure.exact(m)}, [5])
    assert margin > 0.0
    assert oracle.is_positive_semidefinite(oracle.rational(m))
    assert Fraction(margin) < Fraction(1, 10**6)


def test_a_chain_takes_one_factorisation_and_one_solution_per_block(monkeypatch):
    def operations(length: int) -> list[str]:
        rng = np.random.default_rng(0)
        size = 24
        blocks = {}
        for i in range(length):
            blocks[i, i] = Enclosure.exact(3.0 * np.eye(size))
            if i:
                blocks[i - 1, i] = Enclosure.exact(rng.standard_normal((size, size)) / np.sqrt(size) / 2)
        done: list[str] = []
        for name in ("_POTRF", "_TRTRS"):
            original = getattr(positivity, name)

            def counted(*args, name=name, original=original, **keywords):
                done.append(name)
                return original(*args, **keywords)

            monkeypatch.setattr(positivity, name, counted)
        prove_positive_semidefinite(blocks, [size] * length)
        monkeypatch.undo()
        return done

    for length in (10, 80):
        done = operations(length)
        assert done.count("_POTRF") == length
        assert done.count("_TRTRS") == length - 1
