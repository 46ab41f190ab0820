"""The parts of the H∞ proof attacked one by one: coordinates in exact arithmetic, intervals by dense samples."""

from __future__ import annotations

import math
from fractions import Fraction

import control
import numpy as np
import pytest

import lipctrl.analysis.modal as modal
from lipctrl.analysis import hinf_norm
from lipctrl.analysis.cover import _Search, _Strips
from lipctrl.analysis.midrad import MidRad, sharp_product
from lipctrl.analysis.modal import ModalBasis, ModalForm, modal_basis, modal_form
from lipctrl.analysis.plant import Realization, as_realization
from tests.analysis.linear.systems import grid_peak, random_system


def _exact(matrix: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(float(x)) for x in row] for row in matrix]


def _product(a: list[list[Fraction]], b: list[list[Fraction]]) -> list[list[Fraction]]:
    return [[sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in zip(*b, strict=True)]
            for row in a]  # fmt: skip


def _solved(matrix: np.ndarray, right: list[list[Fraction]]) -> list[list[Fraction]]:
    """Solve exactly by Gauss and Jordan."""
    n = len(matrix)
    rows = [left + other for left, other in zip(_exact(matrix), right, strict=True)]
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k and rows[i][k] != 0:
                factor = rows[i][k]
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


def _plant(seed: int, states: int, dt: float, damping: float | None) -> tuple[Realization, ModalBasis]:
    plant = random_system(np.random.default_rng(seed), states, 2, 2, dt, damping=damping, feedthrough=True)
    system, _ = as_realization(plant).balanced()
    basis = modal_basis(system.a, discrete=dt > 0)
    assert basis is not None
    return system, basis


def _pair_norms(rows: np.ndarray, pairs: int) -> np.ndarray:
    squares = np.square(rows).sum(axis=1)
    squares[:pairs] += squares[pairs : 2 * pairs]
    squares[pairs : 2 * pairs] = squares[:pairs]
    return np.sqrt(squares)


@pytest.mark.parametrize("damping", [None, 1e-5])
@pytest.mark.parametrize(("states", "dt"), [(1, 0), (4, 0), (5, 0.1), (9, 0), (41, 0)])
def test_exact_modal_coordinates_stay_within_their_bounds(states, dt, damping):
    system, basis = _plant(states, states, dt, damping)
    vectors = basis.vectors
    rows, _, error = modal._input_rows(system.b, basis)
    if states < 12:  # beyond, an exact inverse takes minutes
        true = _solved(vectors, _exact(system.B))
        gap = np.array([[float(t - Fraction(float(x))) for t, x in zip(*pair, strict=True)]
                        for pair in zip(true, rows, strict=True)])  # fmt: skip
        assert (_pair_norms(gap, basis.pairs) <= error).all()
    columns, _, error = modal._output_columns(system.c, basis)
    true = _product(_exact(system.C), _exact(vectors))
    gap = np.array([[float(t - Fraction(float(x))) for t, x in zip(*pair, strict=True)]
                    for pair in zip(true, columns, strict=True)])  # fmt: skip
    assert (_pair_norms(gap.T, basis.pairs) <= error).all()


@pytest.mark.parametrize("damping", [None, 1e-5])
@pytest.mark.parametrize(("states", "dt"), [(4, 0), (5, 0.1), (9, 0)])
def test_what_is_not_diagonal_is_within_the_spill(states, dt, damping):
    system, basis = _plant(10 + states, states, dt, damping)
    real, imaginary = np.real(basis.poles), np.imag(basis.poles)
    rotation = _exact(modal._rotation(real, imaginary, basis.pairs))
    similar = _solved(basis.vectors, _product(_exact(system.A), _exact(basis.vectors)))
    rest = np.array([[abs(float(x - y)) for x, y in zip(*pair, strict=True)]
                     for pair in zip(similar, rotation, strict=True)])  # fmt: skip
    rng = np.random.default_rng(states)
    for _ in range(5):
        x = 10.0 ** rng.uniform(-3, 3, states)
        y = rest.dot(x)
        y[: basis.pairs] += y[basis.pairs : 2 * basis.pairs]
        y[basis.pairs : 2 * basis.pairs] = y[: basis.pairs]
        assert (y <= basis.spill(x)).all()


@pytest.mark.parametrize("size", [1e-9, 1e-5])
@pytest.mark.parametrize("dt", [0, 0.1])
def test_a_corrupted_inverse_costs_tightness_only(monkeypatch, size, dt):
    honest = modal._dgetri
    rng = np.random.default_rng(0)

    def corrupted(*args, **keywords):
        inverse, info = honest(*args, **keywords)
        return inverse + size * rng.normal(size=inverse.shape), info

    for seed in range(6):
        plant = random_system(np.random.default_rng(seed), 4, 2, 2, dt, damping=(None, 1e-2)[seed % 2])
        before = hinf_norm(plant)
        monkeypatch.setattr(modal, "_dgetri", corrupted)
        system, _ = as_realization(plant).balanced()
        basis = modal_basis(system.a, discrete=dt > 0)
        assert basis is not None
        assert basis.tilt > 0.1 * size
        rows, _, error = modal._input_rows(system.b, basis)
        true = np.array([[float(x) for x in row] for row in _solved(basis.vectors, _exact(system.B))])
        assert (_pair_norms(true - rows, basis.pairs) <= error).all()
        found = hinf_norm(plant)
        monkeypatch.setattr(modal, "_dgetri", honest)
        assert found.lower <= before.value
        assert found.value >= before.lower


def _gains(form: ModalForm, nu: np.ndarray) -> np.ndarray:
    g = (1.0 / (1j * nu[:, None] - form.poles)) @ form.residues + form.d.ravel()
    return np.linalg.norm(g.reshape(-1, *form.d.shape), 2, axis=(1, 2))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 3), (4, 2), (3, 3)])
@pytest.mark.parametrize(("dt", "damping"), [(0, None), (0, 1e-3), (0.1, 1e-2)])
def test_no_sample_exceeds_the_bound_of_its_interval(shape, dt, damping):
    rng = np.random.default_rng(sum(shape))
    for _ in range(4):
        plant = random_system(rng, 5, shape[1], shape[0], dt, damping=damping, feedthrough=True)
        system, _ = as_realization(plant).balanced()
        basis = modal_basis(system.a, discrete=dt > 0)
        assert basis is not None
        form = modal_form(system, basis)
        assert form is not None
        search = _Search(form, 1e-9)
        # Coarse intervals as well as fine ones: the poles' frequencies and whatever else.
        extra = 10.0 ** rng.uniform(-3, 3, 30)
        centres = np.abs(np.imag(form.poles))
        points = np.unique(np.concatenate([[0.0], centres, extra]))
        values, near = search._sampled(points)
        upper, _, _ = search._bounds(_Strips(points[None], values[None], near[None]), 0.0)
        for a, b, bound in zip(points[:-1], points[1:], upper[0], strict=True):
            inside = _gains(form, np.linspace(a, b, 60))
            assert inside.max() <= bound + search._error


def test_every_resonance_is_an_end_of_intervals():
    for seed in range(20):
        plant = random_system(np.random.default_rng(seed), 6, damping=(None, 1e-4)[seed % 2])
        system, _ = as_realization(plant).balanced()
        basis = modal_basis(system.a, discrete=False)
        assert basis is not None
        form = modal_form(system, basis)
        assert form is not None
        seen: list[np.ndarray] = []
        search = _Search(form, 1e-9)
        bounds = search._bounds

        def spy(strips, target, seen=seen, bounds=bounds):
            seen.append(strips.points)
            return bounds(strips, target)

        search._bounds = spy
        search.run()
        points = seen[0][0]
        assert points[0] == 0.0
        assert (np.diff(points) >= 0.0).all()
        assert np.isin(np.imag(form.poles)[np.imag(form.poles) >= 0.0], points).all()
        # An interval from one pole's frequency to the next, which no sample splits, is what the distances allow.
        for strips in seen[1:]:
            for pole in np.imag(form.poles):
                assert not ((strips[:, :-1] < pole) & (pole < strips[:, 1:])).any()


def test_rows_of_zeros_have_exact_products():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 20)), rng.normal(size=(20, 3))
    a[3], b[:, 1] = 0.0, 0.0
    value, error = sharp_product(a, b)
    assert not value[3].any()
    assert not value[:, 1].any()
    assert error[3].max() < 1e-290
    assert error[:, 1].max() < 1e-290
    exact = _product(_exact(a), _exact(b))
    gap = [[abs(float(t - Fraction(float(x)))) for t, x in zip(*pair, strict=True)]
           for pair in zip(exact, value, strict=True)]  # fmt: skip
    assert (np.array(gap) <= error).all()


def test_a_state_space_is_copied_and_refused_where_it_is_not_finite():
    a = np.array([[-1.0]])
    plant = control.StateSpace(a, [[1.0]], [[2.0]], [[0.0]])
    plant.A = a
    system = as_realization(plant)
    a[0, 0] = 5.0
    assert system.A[0, 0] == -1.0
    for bad in (math.nan, math.inf):
        a[0, 0] = bad
        with pytest.raises(ValueError, match="in A"):
            hinf_norm(plant)
    # Squares that overflow are no infinite entries.
    large = control.ss([[-1.0]], [[1e200]], [[1e-200]], [[0.0]])
    assert 1.0 <= hinf_norm(large).value <= 1.0 + 1e-8


@pytest.mark.parametrize("which", range(3))
def test_wider_data_have_wider_bounds(which):
    plant = as_realization(random_system(np.random.default_rng(1), 4, 2, 2, damping=1e-2))
    exact = hinf_norm(plant)
    sides = [plant.b, plant.c, plant.d]
    sides[which] = MidRad(sides[which].mid, np.full(sides[which].shape, 1e-3))
    b, c, d = sides
    found = hinf_norm(Realization(plant.a, b, c, d, 0.0, "continuous time"))
    member = [side.mid for side in (plant.b, plant.c, plant.d)]
    member[which] = member[which] + 1e-3
    assert found.value >= grid_peak(control.StateSpace(plant.A, *member))
    assert found.value > exact.value
