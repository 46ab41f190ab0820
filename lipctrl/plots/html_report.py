"""A stability report as one self-contained HTML page: verdict, scope, margins, criteria and figures."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lipctrl.plots.encoding import figure_html
from lipctrl.plots.response import LoopResponse, response_of_loop
from lipctrl.plots.style import BLUE, GREY, ORANGE, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"certified": BLUE, "inconclusive": ORANGE, "nominally unstable": VERMILION, "ill-posed": VERMILION}

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
.verdict { display: inline-block; color: #fff; padding: .3rem .9rem; border-radius: .3rem; font-weight: 700;
  font-size: 1.2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
th { font-weight: 600; color: #555; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; }
figcaption, .note { color: #555; font-size: .92rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem;
  align-items: start; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .8rem; border-radius: .3rem; }
@media (max-width: 30rem) { .figures { grid-template-columns: 1fr; } }
"""


def _response(report: Any) -> LoopResponse:
    verdict, scaled = str(report.verdict), not report.scales.trivial
    return response_of_loop(report.loop, report.ball, report.hinf, verdict, scaled=scaled)


def report_plot(report: Any, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the loop of a report against its ball: a Nyquist plot for one input, else singular values of T.

    Parameters
    ----------
    report : `lipctrl.analysis.StabilityReport`.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall, analyze
    >>> ball = IncrementalBall(center=[[-3.0]], radius=1.0)
    >>> report = analyze(control.tf([1], [1, -1]), ball, margins=False)
    >>> report_plot(report).get_xlabel()
    'Re'
    """
    from lipctrl.plots.nyquist import nyquist_plot
    from lipctrl.plots.sigma import sigma_plot

    response = _response(report)
    if response.plant.shape[2] == 1 and response.radius > 0.0:
        return nyquist_plot(response, ax=ax, title=title)
    return sigma_plot(response, ax=ax, title=title)


def report_figures(report: Any) -> dict[str, Figure]:
    """Draw the figures of a report; caption -> figure, in the order of the page.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall, analyze
    >>> ball = IncrementalBall(center=[[-3.0]], radius=1.0)
    >>> len(report_figures(analyze(control.tf([1], [1, -1]), ball, margins=False)))
    3
    """
    drawn: dict[str, Callable[[], Axes]] = {}
    response = _response(report)
    if response.plant.shape[2] == 1 and response.radius > 0.0:
        drawn["The loop, the set that the ball of policies forbids, and its centre."] = lambda: report_plot(
            report
        )
    if response.transformed is not None:
        drawn["Singular values of T over frequency; certified while the proved peak stays below 1/ρ."] = (
            lambda: _sigma(response)
        )
    if report.incremental_gain_margin is not None and response.radius > 0.0:
        drawn[
            "The whole policy scaled by k: certified where the proved product is below 1, falsified where a policy of "
            "the ball was found that destabilises."
        ] = lambda: _margins(report)
    if report.incremental_disk_margin is not None:
        drawn[
            "Gains and phases that every actuator may have at once with every policy of the ball, and those found to "
            "destabilise."
        ] = lambda: _disk(report)
    if report.loop.is_stable and report.loop.plant.states:
        drawn[
            "Closed-loop poles of sampled linear policies of the ball. Samples illustrate, they prove nothing."
        ] = lambda: _poles(report)
    beyond = _beyond(report)
    if beyond is not None:
        drawn[
            "The loop with a policy of the ball scaled a little less and a little more than its falsified factor."
        ] = lambda: beyond.plot()
    figures = {}
    for caption, draw in drawn.items():
        figure = draw().get_figure(root=True)
        assert figure is not None
        figures[caption] = figure
    return figures


def _beyond(report: Any) -> Any:
    """Return a simulation beyond the gain margin, the upper end first; None where there is nothing to show."""
    margin = report.incremental_gain_margin
    if margin is None or not margin.falsifiers:
        return None
    try:
        return margin.simulate("upper" if any(f.k > 1.0 for f in margin.falsifiers) else "lower")
    except ValueError:
        # No pair of a decaying and a growing run was found: the page does without this figure.
        return None


def _sigma(response: LoopResponse) -> Axes:
    from lipctrl.plots.sigma import sigma_plot

    return sigma_plot(response)


def _margins(report: Any) -> Axes:
    from lipctrl.plots.margins import gain_sweep, gain_sweep_plot

    return gain_sweep_plot(gain_sweep(report.loop.plant, report.ball, margin=report.incremental_gain_margin))


def _disk(report: Any) -> Axes:
    from lipctrl.plots.disk_margin import disk_margin_plot

    return disk_margin_plot(report.incremental_disk_margin)


def _poles(report: Any) -> Axes:
    from lipctrl.plots.poles import pole_spread, pole_spread_plot

    spread = pole_spread(report.loop.plant, report.ball)
    return pole_spread_plot(replace(spread, scaled=not report.scales.trivial))


def html_page(report: Any) -> str:
    """Return a report as one HTML page that needs no other file and no network.

    Parameters
    ----------
    report : `lipctrl.analysis.StabilityReport`.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall, analyze
    >>> ball = IncrementalBall(center=[[-3.0]], radius=1.0)
    >>> report = analyze(control.tf([1], [1, -1]), ball, margins=False)
    >>> html_page(report).startswith("<!doctype html>")
    True
    """
    from matplotlib import pyplot as plt

    from lipctrl.analysis.report import CONVENTIONS

    figures = report_figures(report)
    pictures = "".join(figure_html(figure, caption) for caption, figure in figures.items())
    for figure in figures.values():
        plt.close(figure)
    verdict = str(report.verdict)
    before = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Closed-loop report: {_text(verdict)}</title><style>{STYLE}</style></head><body>",
        "<h1>Closed-loop stability report</h1>",
        f'<p><span class="verdict" style="background:{COLORS.get(verdict, GREY)}">{_text(verdict)}</span></p>',
        f"<table><tr><th>plant</th><td>{_text(report.plant)}</td></tr>",
        f"<tr><th>policy</th><td>{_text(report.policy)}</td></tr></table>",
        "<h2>Scope of the claim</h2>",
        _items(report.limitations()),
        "<h2>Numbers</h2>",
        _numbers(report),
        "<h2>Criteria</h2>",
        _criteria(report.tests),
    ]
    after = [
        *_extras(report.extras),
        "<h2>Conventions</h2>",
        f'<div class="note">{_items(CONVENTIONS)}</div>',
        "</body></html>",
    ]
    drawn = [f'<h2>Figures</h2><div class="figures">{pictures}</div>'] if pictures else []
    texts = [report.in_units("\n".join(before)), *drawn, report.in_units("\n".join(after))]
    return "\n".join(texts) + "\n"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _items(lines: Any) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _numbers(report: Any) -> str:
    rows = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in report.numbers())
    return f"<table>{rows}</table>"


def _criteria(tests: Any) -> str:
    head = (
        '<tr><th>criterion</th><th>verdict</th><th class="number">margin [ratio]</th>'
        '<th class="number">at [rad/s]</th><th>statement and scope</th></tr>'
    )
    rows = []
    for test in tests:
        kind = "" if test.incremental else ' <span class="note">(non-incremental)</span>'
        scope = _items(test.scope) if test.scope else ""
        rows.append(
            f"<tr><td>{_text(test.name)}{kind}</td>"
            f'<td style="color:{COLORS.get(str(test.verdict), GREY)}"><b>{_text(test.verdict)}</b></td>'
            f'<td class="number">{_number(test.margin)}</td><td class="number">{_number(test.frequency)}</td>'
            f"<td>{_text(test.statement)}{scope}</td></tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.5g}"


def _extras(extras: dict[str, Any]) -> list[str]:
    if not extras:
        return []
    return [
        "<h2>Beside it</h2>",
        *(f"<p><b>{_text(k)}</b></p><pre>{_text(v)}</pre>" for k, v in extras.items()),
    ]
