"""One door for plants: whatever the user brings becomes a checked state-space realisation, or a ValueError."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import real_array
from lipctrl.analysis.canonical import canonical_form
from lipctrl.analysis.midrad import MidRad, block, equilibrate
from lipctrl.analysis.names import given_names
from lipctrl.arithmetic import UNIT


@dataclass(frozen=True)
class Realization:
    """A finite state-space model x' = Ax + Bu (or x⁺ = Ax + Bu), y = Cx + Du, with rounding radii.

    `sample_time` is 0 in continuous time, else the sampling period [s]. `timebase` says in words how the
    user's `dt` was read. Hidden modes are kept: the states are those of the model that was given.
    """

    a: MidRad
    b: MidRad
    c: MidRad
    d: MidRad
    sample_time: float
    timebase: str
    static: bool = False
    # Whether modes may appear more often than the input-output map needs: a transfer matrix realised by entries.
    redundant: bool = False
    # What the user calls the signals; empty where nobody named them.
    input_names: tuple[str, ...] = field(default=(), compare=False)
    output_names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def A(self) -> np.ndarray:
        return self.a.mid

    @property
    def B(self) -> np.ndarray:
        return self.b.mid

    @property
    def C(self) -> np.ndarray:
        return self.c.mid

    @property
    def D(self) -> np.ndarray:
        return self.d.mid

    @property
    def states(self) -> int:
        return self.a.shape[0]

    @property
    def inputs(self) -> int:
        return self.d.shape[1]

    @property
    def outputs(self) -> int:
        return self.d.shape[0]

    @property
    def is_discrete(self) -> bool:
        return self.sample_time > 0.0

    @property
    def counts_samples(self) -> bool:
        """Whether time is counted in samples (dt=True), so that frequencies are in rad/sample."""
        return "dt=True" in self.timebase

    @property
    def highest_frequency(self) -> float:
        """Nyquist frequency π/dt [rad/s] in discrete time, inf in continuous time."""
        return math.pi / self.sample_time if self.is_discrete else math.inf

    def balanced(self) -> tuple[Realization, np.ndarray]:
        """Return the same system in states x̃ = x/t that equilibrate A, and t (powers of two: no rounding)."""
        return self._balanced

    @cached_property
    def _balanced(self) -> tuple[Realization, np.ndarray]:
        if self.states == 0:
            return self, np.ones(0)
        t = equilibrate(self.A)
        if not np.count_nonzero(t != 1.0):
            return self, t
        rows, columns = 1.0 / t[:, None], t[None, :]
        a = self.a.rescaled(rows * columns)
        b, c = (m.rescaled(np.broadcast_to(t, m.shape)) for m, t in ((self.b, rows), (self.c, columns)))
        return replace(self, a=a, b=b, c=c), t

    def point(self, omega: Any) -> Any:
        """Return jω, or e^{jω·dt} in discrete time, for one frequency or an array of them [rad/s]."""
        return np.exp(1j * omega * self.sample_time) if self.is_discrete else 1j * np.asarray(omega)

    def response(self, omega: float) -> np.ndarray:
        """Return the frequency response at omega [rad/s], shape (outputs, inputs), unverified float64."""
        if self.states == 0 or math.isinf(omega):
            return self.D.astype(np.complex128)
        pencil = self.point(omega) * np.eye(self.states) - self.A
        return self.C @ np.linalg.solve(pencil, self.B.astype(np.complex128)) + self.D


def as_realization(plant: Any, name: str = "plant") -> Realization:
    """Return the checked realisation of a plant; data that no theorem can be applied to is refused.

    Parameters
    ----------
    plant : `control.StateSpace`, `control.TransferFunction`, a nested list of these (rows are outputs), or a
        plain array (a static gain). `dt=0` is continuous, `dt>0` discrete [s]; `dt=True` counts time in
        samples (frequencies in rad/sample); `dt=None` is read as continuous time, as python-control does.
    name : how messages call the plant.

    A transfer function is realised with the poles that its denominators have, cancelled or not. Entries of a
    column (or row) share the poles that their denominators have in common, to about 1e-12. Poles shared across
    rows and columns are not merged, which takes a decision of rank; if such a pole is unstable, no feedback
    reaches its copies, and the verdict asks for a minimal state-space model.

    Raises
    ------
    ValueError
        For NaN or infinite data, an improper transfer function, complex coefficients, inconsistent sampling
        times, an empty model, or a type that has no finite realisation.

    Examples
    --------
    >>> import control
    >>> as_realization(control.tf([1, -1], [1, 1, -2])).states   # the cancelled pole at 1 stays
    2
    """
    if isinstance(plant, Realization):
        return plant
    if isinstance(plant, list | tuple) and any(_is_system(cell) for row in plant for cell in _row(row)):
        return _from_nested(plant, name)
    if _is_system(plant):
        return _named(_from_system(plant, name), plant)
    gain = None if plant is None else real_array(plant)
    if gain is None:
        raise ValueError(
            f"{name} is a {type(plant).__name__}; expected control.StateSpace, control.TransferFunction or an "
            "array (static gain). Linearise a nonlinear system, identify a model from frequency data"
        )
    if gain.ndim > 2:
        raise ValueError(
            f"{name} is an array of shape {gain.shape}; a static gain has shape (outputs, inputs)"
        )
    return _static(np.atleast_2d(gain), name)


def _named(system: Realization, plant: Any) -> Realization:
    """Return a realisation with python-control's labels, where the user gave any."""
    inputs = given_names(getattr(plant, "input_labels", ()), system.inputs)
    outputs = given_names(getattr(plant, "output_labels", ()), system.outputs)
    return replace(system, input_names=inputs, output_names=outputs) if inputs or outputs else system


def _row(row: Any) -> Any:
    return row if isinstance(row, list | tuple) else [row]


def _is_system(value: Any) -> bool:
    return hasattr(value, "dt") and hasattr(value, "ninputs") and hasattr(value, "noutputs")


def _static(gain: np.ndarray, name: str) -> Realization:
    _require_finite(gain, name, "gain")
    outputs, inputs = gain.shape
    if gain.size == 0:
        raise ValueError(f"{name} has {inputs} inputs and {outputs} outputs; expected at least one of each")
    return Realization(
        MidRad.exact(np.zeros((0, 0))),
        MidRad(np.zeros((0, inputs))),
        MidRad(np.zeros((outputs, 0))),
        MidRad.exact(gain),
        0.0,
        "static gain",
        static=True,
    )


def _sample_time(dt: Any, name: str) -> tuple[float, str]:
    if dt is None:
        return 0.0, "continuous time (dt=None, unspecified, read as continuous)"
    if dt is True:
        return 1.0, "discrete time (dt=True: unit of time is one sample, frequencies in rad/sample)"
    try:
        value = float(dt)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < 0.0:
        raise ValueError(f"{name} has dt={dt!r}; expected 0, a positive sampling time [s], True or None")
    return value, "continuous time" if value == 0.0 else f"discrete time, dt={value:g} s"


def _require_finite(values: np.ndarray, name: str, what: str) -> None:
    if np.iscomplexobj(values) and np.any(np.imag(values) != 0.0):
        raise ValueError(f"{name} has complex numbers in {what}; expected a real model")
    if not np.isfinite(values).all():
        bad = "NaN" if np.isnan(values).any() else "infinite"
        raise ValueError(
            f"{name} has {bad} entries in {what}; expected finite numbers. Check the linearisation or the "
            "identification that produced the model"
        )


def _from_system(plant: Any, name: str) -> Realization:
    if plant.ninputs is None or plant.noutputs is None or plant.ninputs < 1 or plant.noutputs < 1:
        raise ValueError(
            f"{name} has {plant.ninputs} inputs and {plant.noutputs} outputs; expected at least one of each"
        )
    sample_time, timebase = _sample_time(plant.dt, name)
    if all(hasattr(plant, field) for field in ("A", "B", "C", "D")):
        n = int(plant.nstates)
        shapes = ((n, n), (n, plant.ninputs), (plant.noutputs, n), (plant.noutputs, plant.ninputs))
        exact = [plant.A, plant.B, plant.C, plant.D]
        # The common case in few calls; whatever is amiss is named below.
        if all(type(m) is np.ndarray and m.dtype == np.float64 for m in exact) and _fit(exact, shapes):
            flat = np.concatenate([m.ravel() for m in exact])
            if np.count_nonzero(np.isfinite(flat)) == flat.size:
                a, b, c, d = _views(flat, shapes)
                return Realization(a, b, c, d, sample_time, timebase, static=n == 0 and plant.dt is None)
        a, b, c, d = (_matrix(m, shape, name, f) for m, shape, f in zip(exact, shapes, "ABCD", strict=True))
        return Realization(a, b, c, d, sample_time, timebase, static=n == 0 and plant.dt is None)
    if hasattr(plant, "num") and hasattr(plant, "den"):
        a, b, c, d = canonical_form(*_polynomials(plant.num, plant.den, name))
        static = a.shape[0] == 0 and plant.dt is None
        redundant = min(plant.ninputs, plant.noutputs) > 1
        return Realization(a, b, c, d, sample_time, timebase, static=static, redundant=redundant)
    raise ValueError(
        f"{name} is a {type(plant).__name__}, which has no finite linear realisation; expected "
        "control.StateSpace or control.TransferFunction. Linearise a nonlinear system "
        "(control.linearize); identify a model from frequency data"
    )


def _fit(matrices: Sequence[np.ndarray], shapes: Sequence[tuple[int, int]]) -> bool:
    return all(
        m.shape == shape or m.size == 0 == shape[0] * shape[1]
        for m, shape in zip(matrices, shapes, strict=True)
    )


def _matrix(given: Any, shape: tuple[int, int], name: str, what: str) -> MidRad:
    """Read one matrix of a state-space model; numbers that no double holds are enclosed."""
    values = np.asarray(given)
    if values.dtype.kind == "c":
        _require_finite(values, name, what)
        values = np.real(values)
    try:
        if np.ma.is_masked(given) or values.dtype.kind not in "fiubO":
            raise TypeError
        with np.errstate(over="ignore"):
            mid = values.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} has a {type(given).__name__} as {what}; expected a dense array of real numbers"
        ) from None
    _require_finite(mid, name, what)
    # A vector may be flat; a matrix that lies otherwise would be read in another order.
    if (mid.ndim > 1 and mid.size and mid.shape != shape) or mid.size != shape[0] * shape[1]:
        raise ValueError(f"{name} has {what} of shape {mid.shape}; expected {shape}")
    # Large integers are compared as doubles: those beyond 2⁵³ may have been rounded.
    rounded = np.asarray(mid != values, dtype=bool) | ((values.dtype.kind in "iu") & (np.abs(mid) >= 2.0**53))
    loose = np.where(rounded, 2.0 * UNIT * np.abs(mid), 0.0).reshape(shape)
    return MidRad(mid.reshape(shape), loose if np.count_nonzero(rounded) else None)


def _views(flat: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[MidRad]:
    """Return the matrices that follow one another in a vector."""
    out, start = [], 0
    for rows, columns in shapes:
        out.append(MidRad(flat[start : start + rows * columns].reshape(rows, columns)))
        start += rows * columns
    return out


def _polynomials(num: Any, den: Any, name: str) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Check the coefficients; return monic-free trimmed polynomials, numerators padded to proper length."""
    tops, bottoms = [], []
    for i in range(len(num)):
        tops.append([])
        bottoms.append([])
        for j in range(len(num[i])):
            top, bottom = np.asarray(num[i][j]), np.asarray(den[i][j])
            where = "its transfer function" if len(num) * len(num[0]) == 1 else f"entry ({i}, {j})"
            _require_finite(top, name, f"the numerator of {where}")
            _require_finite(bottom, name, f"the denominator of {where}")
            top = np.trim_zeros(np.real(top).astype(float), "f")
            bottom = np.trim_zeros(np.real(bottom).astype(float), "f")
            if bottom.size == 0:
                raise ValueError(f"{name} has a zero denominator in {where}; expected a non-zero polynomial")
            if top.size > bottom.size:
                raise ValueError(
                    f"{name} is improper: {where} has a numerator of degree {top.size - 1} over a denominator "
                    f"of degree {bottom.size - 1}, an ideal differentiator, which has no state-space model and "
                    "an infinite gain. Add the actuator's or a filter's pole, for example 1/(tau s + 1)"
                )
            tops[-1].append(top)
            bottoms[-1].append(bottom)
    return tops, bottoms


def _from_nested(rows: Any, name: str) -> Realization:
    cells = [[as_realization(cell, f"{name}[{i}][{j}]") for j, cell in enumerate(_row(row))]
             for i, row in enumerate(rows)]  # fmt: skip
    if len({len(row) for row in cells}) != 1:
        raise ValueError(f"{name} has rows of {[len(row) for row in cells]} blocks; expected equal lengths")
    flat = [cell for row in cells for cell in row]
    sample_time, timebase = common_timebase(flat, name)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            if cell.outputs != row[0].outputs or cell.inputs != cells[0][j].inputs:
                raise ValueError(
                    f"{name}[{i}][{j}] is {cell.outputs}×{cell.inputs}; its row and column differ"
                )
    parts: dict[str, list[list[MidRad]]] = {"a": [], "b": [], "c": []}
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            position = i * len(row) + j
            parts["a"].append([cell.a if k == position else _zeros(cell.states, other.states)
                               for k, other in enumerate(flat)])  # fmt: skip
            parts["b"].append([cell.b if k == j else _zeros(cell.states, other.inputs)
                               for k, other in enumerate(cells[0])])  # fmt: skip
        parts["c"].append([other.c if k // len(row) == i else _zeros(row[0].outputs, other.states)
                           for k, other in enumerate(flat)])  # fmt: skip
    d = block([[cell.d for cell in row] for row in cells])
    static = all(cell.static for cell in flat)
    a, b, c = (block(parts[key]) for key in ("a", "b", "c"))
    redundant = any(cell.redundant for cell in flat) or sum(cell.states > 0 for cell in flat) > 1
    return Realization(a, b, c, d, sample_time, timebase, static=static, redundant=redundant)


def _zeros(rows: int, columns: int) -> MidRad:
    return MidRad(np.zeros((rows, columns)))


def common_timebase(systems: list[Realization], name: str = "loop") -> tuple[float, str]:
    """Return the sample time and timebase that all systems share (static gains fit everywhere)."""
    dynamic = [s for s in systems if not s.static]
    if not dynamic:
        return systems[0].sample_time, systems[0].timebase
    if len({s.sample_time for s in dynamic}) > 1:
        times = sorted({s.timebase for s in dynamic})
        raise ValueError(
            f"{name} mixes {' and '.join(times)}; expected one timebase. Convert with control.sample_system or "
            "state the same dt everywhere"
        )
    return dynamic[0].sample_time, dynamic[0].timebase


def to_control(system: Realization, dt: Any) -> Any:
    """Return the midpoints of a realisation as a `control.StateSpace` with python-control's timebase dt."""
    import control

    return control.ss(system.A, system.B, system.C, system.D, dt)
