"""What an analysis found, in one object that prints itself, saves itself and can be drawn."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lipctrl.analysis.ball import IncrementalBall
from lipctrl.analysis.hinf import HinfNorm
from lipctrl.analysis.loop import NominalLoop
from lipctrl.analysis.scales import Scales
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict
from lipctrl.storage import replace_file

CONVENTIONS = (
    "Signs: the policy acts as u = π(y) + r (positive feedback, the policy carries its sign); slopes [a, b] speak of "
    "u = -φ(y).",
    "Norm: Euclidean; all gains are incremental (differences of any two trajectories). Frequencies in rad/s.",
    "Certificates concern the real-arithmetic map of the stored weights; rounding when a network runs is not in them.",
)


@dataclass(frozen=True)
class TestResult:
    """One criterion: its verdict in its own words, the margin it leaves (> 1 when certified) and where."""

    __test__ = False  # not a test case for pytest

    name: str
    verdict: Verdict
    statement: str
    margin: float = math.nan
    frequency: float = math.nan
    scope: tuple[str, ...] = ()
    incremental: bool = True


@dataclass(frozen=True)
class StabilityReport:
    """The closed loop of a plant and a policy: what is certified, by how much, and for what exactly.

    Attributes
    ----------
    verdict : "certified", "inconclusive", "nominally unstable" or "ill-posed".
    scope : every limitation of the claim, one sentence each; an empty scope is a global claim.
    plant, policy : descriptions in words.
    ball : the incremental ball of the policy, in the units of `scales`.
    scales : sizes of observations and actions in which the policy's certificate bounds it (1 where it has none).
        `ball`, `loop`, `hinf` and `stability_radius` speak of signals divided by them, matrices of margins of raw ones.
    loop : the nominal loop T = P(I - K₀P)⁻¹, for plots.
    hinf : the enclosure of ‖T‖_∞.
    tests : the criteria that were evaluated.
    incremental_gain_margin : the margin of the scaled policy k·π (None where the loop is not certified).
    residual_gain_margin : the margin of u = K₀y + kφ(y).
    incremental_phase_margin, incremental_delay_margin, incremental_disk_margin : where they were asked for
        (`analyze(..., margins="all")`; the phase margin also for small loops), else None.
    stability_radius : the largest radius of a ball around K₀ that the plant tolerates (None: no stable centre).
    extras : further results by name, such as classical margins; they print themselves.
    """

    verdict: Verdict
    scope: tuple[str, ...]
    plant: str
    policy: str
    ball: IncrementalBall
    scales: Scales
    loop: NominalLoop = field(repr=False)
    hinf: HinfNorm
    tests: tuple[TestResult, ...]
    incremental_gain_margin: Any = None
    residual_gain_margin: Any = None
    stability_radius: float | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    incremental_phase_margin: Any = None
    incremental_delay_margin: Any = None
    incremental_disk_margin: Any = None

    @property
    def certified(self) -> bool:
        """Whether some criterion proved the loop."""
        return self.verdict is Verdict.CERTIFIED

    def summary(self) -> str:
        """Return the report as text: verdict, scope, margins with their frequencies (rad/s and Hz), conventions."""
        lines = [f"verdict: {self.verdict}", f"plant:   {self.plant}", f"policy:  {self.policy}"]
        lines += [f"scope:   {line}" for line in self.limitations()]
        lines.append("")
        lines += [f"{name}: {value}" for name, value in self.numbers()]
        lines += ["", "criteria:"]
        for test in self.tests:
            kind = "" if test.incremental else " [non-incremental]"
            lines.append(f"  {test.name}{kind}: {test.verdict} — {test.statement}{_where(test)}")
            lines += [f"    scope: {line}" for line in test.scope]
        for name, extra in self.extras.items():
            lines.append(f"{name}: {extra}")
        return self.in_units("\n".join([*lines, "", *CONVENTIONS]))

    def numbers(self) -> list[tuple[str, Any]]:
        """Return what a reader reads first, by name: units, norm of the loop, radius, margins."""
        rows: list[tuple[str, Any]] = []
        if not self.scales.trivial:
            units = (
                f"norm and radii below are between scaled signals, {self.scales}; all else is in raw units"
            )
            rows.append(("units", units))
        rows.append(("nominal loop", self.hinf))
        if self.stability_radius is not None:
            used = f"{self.stability_radius:.6g} (the policy uses {self.ball.radius:.6g})"
            rows.append(("stability radius around the centre", used))
        return rows + list(self.margins().items())

    def in_units(self, text: str) -> str:
        """Return text with the units of the plant's time: samples and rad/sample where dt=True counts samples."""
        return in_units(text, self.loop.plant.counts_samples)

    def limitations(self) -> tuple[str, ...]:
        """Return what limits the claim in sentences, also where nothing does and where nothing was proved."""
        if self.verdict is Verdict.INCONCLUSIVE:
            return (*self.scope, "no criterion decided: inconclusive does not mean unstable")
        if self.verdict in (Verdict.NOMINALLY_UNSTABLE, Verdict.ILL_POSED):
            about = "the verdict is about the centre K₀ and the class of policies around it"
            if not self.ball.center.any():
                about += (
                    "; K₀ is 0 here: a residual around a stabilising gain can be certified where this cannot, "
                    "and `basin` may prove a region for this very policy"
                )
            return (*self.scope, about)
        return self.scope or ("all inputs and initial states of the linear plant",)

    def margins(self) -> dict[str, Any]:
        """Return the incremental margins that were computed, by name."""
        named = {
            "incremental gain margin, whole policy k·π": self.incremental_gain_margin,
            "incremental gain margin, residual K₀y + k·φ": self.residual_gain_margin,
            "incremental phase margin, e^{jθ}·π in all channels": self.incremental_phase_margin,
            "incremental delay margin, the same constant delay in all channels": self.incremental_delay_margin,
            "incremental disk margin, a perturbation of its own in every channel": self.incremental_disk_margin,
        }
        return {name: margin for name, margin in named.items() if margin is not None}

    def __str__(self) -> str:
        return self.summary()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; infinities and NaN become words."""
        data = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "loop"}
        return {"format": "lipctrl-stability-report", "version": 1, **data, "conventions": list(CONVENTIONS)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, atomically: `.json`, `.html` (one self-contained page with figures) or `.txt`.

        Raises
        ------
        ValueError
            For another suffix.
        """
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        elif path.suffix == ".txt":
            text = self.summary() + "\n"
        elif path.suffix == ".html":
            # Figures live on a higher floor; the page is written there, looked up by name.
            text = importlib.import_module("lipctrl.plots.html_report").html_page(self)
        else:
            raise ValueError(f"cannot save a report as {path.suffix!r}; expected .json, .html or .txt")
        return replace_file(path, text.encode())

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the loop against the ball of policies (`lipctrl.plots.report_plot`); returns the axes."""
        return importlib.import_module("lipctrl.plots.html_report").report_plot(self, ax=ax)


def _where(test: TestResult) -> str:
    words = []
    if not math.isnan(test.margin):
        words.append(f"margin {test.margin:.6g}")
    if math.isfinite(test.frequency):
        words.append(f"at {test.frequency:.6g} rad/s ({test.frequency / (2.0 * math.pi):.6g} Hz)")
    return f" ({', '.join(words)})" if words else ""


def _plain(value: Any) -> Any:
    """Turn results into JSON values."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, complex | np.complexfloating):
        return {"real": _plain(float(value.real)), "imag": _plain(float(value.imag))}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, NominalLoop):
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    return str(value)
