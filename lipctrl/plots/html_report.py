"""A stability report as one self-contained page: every claim with its scope, every figure inside."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lipctrl.plots.encoding import figure_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lipctrl.analysis.report import StabilityReport

CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { display: inline-block; padding: .1rem .7rem; border-radius: .4rem; color: white; background: #555; }
.verdict.certified { background: #00694b; } .verdict.nominally-unstable, .verdict.ill-posed { background: #a03c00; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ddd; }
figure { margin: 1rem 0 2rem; } figcaption { color: #444; font-size: .9rem; }
.scope li { font-weight: 600; } footer { color: #444; font-size: .9rem; margin-top: 2rem; }
"""


def report_plot(report: StabilityReport, *, ax: Axes | None = None) -> Axes:
    """Draw the loop of a report against its ball: the singular values of T with 1/ρ and the proved norm."""
    from lipctrl.plots.response import loop_response
    from lipctrl.plots.sigma import sigma_plot

    return sigma_plot(loop_response(report.loop.plant, report.ball), ax=ax)


def html_page(report: StabilityReport) -> str:
    """Return a report as one HTML page without outside references (no scripts, fonts or links)."""
    verdict = str(report.verdict)
    scope = report.scope or ("all inputs and all initial states",)
    parts = [
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Stability report: {_text(verdict)}</title><style>{CSS}</style></head><body>",
        "<h1>Closed-loop stability report</h1>",
        f"<p>Verdict: <strong class='verdict {verdict.replace(' ', '-')}'>{_text(verdict)}</strong></p>",
        _table([("Plant", report.plant), ("Policy", report.policy), ("Nominal loop", str(report.hinf))]),
        "<h2>What exactly is claimed</h2>",
        "<ul class='scope'>" + "".join(f"<li>{_text(line)}</li>" for line in scope) + "</ul>",
        "<h2>Margins</h2>",
        _table(_margin_rows(report)),
        "<h2>Criteria</h2>",
        _criteria(report),
        "<h2>Figures</h2>",
        *_figures(report),
        "<footer>" + "".join(f"<p>{_text(line)}</p>" for line in _conventions()) + "</footer></body></html>",
    ]
    return "\n".join(parts)


def _conventions() -> tuple[str, ...]:
    from lipctrl.analysis.report import CONVENTIONS

    return CONVENTIONS


def _text(value: Any) -> str:
    return html.escape(str(value)).replace("\n", "<br>")


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th scope='row'>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def _margin_rows(report: StabilityReport) -> list[tuple[str, str]]:
    rows = [(name, str(margin)) for name, margin in report.margins().items()]
    if report.stability_radius is not None:
        text = f"{report.stability_radius:.6g}; the policy uses {report.ball.radius:.6g}"
        rows.insert(0, ("largest radius that this centre tolerates", text))
    rows += [(name, str(extra)) for name, extra in report.extras.items()]
    return rows or [("none", "no margin is stated where nothing is certified")]


def _criteria(report: StabilityReport) -> str:
    head = "<tr><th>criterion</th><th>verdict</th><th>statement</th><th>margin</th><th>rad/s</th></tr>"
    rows = []
    for test in report.tests:
        name = test.name if test.incremental else f"{test.name} (non-incremental)"
        statement = "\n".join([test.statement, *(f"Scope: {line}" for line in test.scope)])
        margin = "" if math.isnan(test.margin) else f"{test.margin:.6g}"
        omega = f"{test.frequency:.6g}" if math.isfinite(test.frequency) else ""
        values = (name, test.verdict, statement, margin, omega)
        rows.append("<tr>" + "".join(f"<td>{_text(v)}</td>" for v in values) + "</tr>")
    return f"<table>{head}{''.join(rows)}</table>"


def _figures(report: StabilityReport) -> list[str]:
    """Draw what the loop admits: a plant with one input has a Nyquist plot, a certified loop a gain sweep."""
    from matplotlib import pyplot as plt

    from lipctrl.plots.margins import gain_sweep, gain_sweep_plot
    from lipctrl.plots.nyquist import nyquist_plot
    from lipctrl.plots.poles import pole_spread, pole_spread_plot
    from lipctrl.plots.response import loop_response
    from lipctrl.plots.sigma import sigma_plot

    if report.loop.system is None or not report.loop.plant.states:
        return ["<p>The loop has no dynamics to draw, or is ill-posed.</p>"]
    plant, ball = report.loop.plant, report.ball
    response = loop_response(plant, ball)
    drawn: list[tuple[str, Callable[[], Any]]] = [
        (
            "Singular values of T = P(I - K₀P)⁻¹ and the line 1/ρ that they must not reach.",
            lambda: sigma_plot(response),
        ),
    ]
    if plant.inputs == 1:
        drawn.insert(
            0,
            (
                "The loop and the set it must avoid for every policy of the ball.",
                lambda: nyquist_plot(response),
            ),
        )
    if report.incremental_gain_margin is not None:
        drawn.append(
            (
                "The small-gain product over the factor k on the policy, with certified and falsified ends.",
                lambda: gain_sweep_plot(gain_sweep(plant, ball)),
            )
        )
    drawn.append(
        (
            "Closed-loop poles of linear policies in the ball.",
            lambda: pole_spread_plot(pole_spread(plant, ball)),
        )
    )
    pages = []
    for caption, draw in drawn:
        figure = draw().get_figure(root=True)
        pages.append(figure_html(figure, caption))
        plt.close(figure)
    return pages
