"""The derivation tree of a certificate as a picture: which rule turned which gains into the claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lipctrl.certificate import Certificate
from lipctrl.plots.style import CERTIFIED, GREEN, GREY, ORANGE, PURPLE, axes_or_new, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAVES = {"linear", "scaling", "identity", "activation"}


@dataclass(frozen=True)
class TreeRow:
    """One printed row of the tree: its depth, its text, its gain, how many equal-looking siblings it stands for."""

    depth: int
    rule: str
    shape: str
    gain: float
    count: int
    parent: int


def tree_rows(certificate: Certificate, *, max_depth: int = 6, max_rows: int = 24) -> list[TreeRow]:
    """Lay the tree out, one row a node; runs of siblings of the same rule and shape become one row with a count.

    A folded row carries the product of its siblings' gains under `series`, else the largest of them. Rows
    beyond `max_depth` or `max_rows` are left out, the last row then says how many.

    Examples
    --------
    >>> from lipctrl import rules
    >>> certificate = rules.series(rules.scaling([2.0]), rules.linear([[3.0]]), rules.elementwise("tanh", 1))
    >>> [(row.depth, row.rule) for row in tree_rows(certificate)]
    [(0, 'series'), (1, 'scaling'), (1, 'linear'), (1, 'activation')]
    """
    rows: list[TreeRow] = []
    stack: list[tuple[Certificate, int, int, int, float]] = [(certificate, 0, 1, -1, certificate.gain)]
    left_out = 0
    while stack:
        node, depth, count, parent, gain = stack.pop()
        if len(rows) >= max_rows:
            left_out += 1
            continue
        index = len(rows)
        rows.append(
            TreeRow(depth, node.rule, f"{node.in_features} → {node.out_features}", gain, count, parent)
        )
        groups: list[list[Certificate]] = []
        for part in node.parts if depth < max_depth else ():
            key = (part.rule, part.in_features, part.out_features, bool(part.parts))
            last = groups[-1][-1] if groups else None
            if last and key == (last.rule, last.in_features, last.out_features, bool(last.parts)):
                groups[-1].append(part)
            else:
                groups.append([part])
        for group in reversed(groups):
            gain = max(p.gain for p in group)
            if node.rule == "series":
                gain = 1.0
                for part in group:
                    gain *= part.gain
            stack.append((group[0], depth + 1, len(group), index, gain))
    if left_out:
        rows.append(TreeRow(1, f"… and {left_out} more branches", "", float("nan"), 1, 0))
    return rows


@styled
def tree_plot(
    certificate: Certificate,
    *,
    max_depth: int = 6,
    max_rows: int = 24,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a certificate as an indented tree: one row a rule, its dimensions, the gain it proves.

    Runs of alike siblings share a row ("× 8"), with the product of their gains in a series and the largest elsewhere.

    Examples
    --------
    >>> from lipctrl import rules
    >>> certificate = rules.series(rules.scaling([2.0]), rules.linear([[3.0]]), rules.elementwise("tanh", 1))
    >>> [text.get_text() for text in tree_plot(certificate).texts[:3]]
    ['series', '1 → 1', '6']
    """
    rows = tree_rows(certificate, max_depth=max_depth, max_rows=max_rows)
    ax = axes_or_new(ax, (7.2, 0.9 + 0.36 * len(rows)))
    right = 3.2 + 0.5 * max(row.depth for row in rows)
    for y, row in enumerate(rows):
        x = 0.5 * row.depth
        if row.parent >= 0:
            ax.plot([x - 0.34, x - 0.34, x - 0.1], [row.parent + 0.28, y, y], color=GREY, lw=1.3)
        ax.plot(x, y, "s", color=_color(row), markersize=9)
        times = f" × {row.count}" if row.count > 1 else ""
        ax.text(x + 0.16, y, f"{row.rule}{times}", va="center", weight="bold" if row.depth == 0 else "normal")
        ax.text(right, y, row.shape, va="center", ha="right", color=GREY)
        if row.gain == row.gain:
            ax.text(right + 0.9, y, f"{row.gain:.4g}", va="center", ha="right", weight="bold")
    ax.text(right, -0.95, "in → out", ha="right", color=GREY, va="center")
    ax.text(right + 0.9, -0.95, "gain ≤", ha="right", va="center")
    ax.set(xlim=(-0.25, right + 1.0), ylim=(len(rows) - 0.4, -1.4))
    ax.set_axis_off()
    ax.set_title(title or "Certificate: rules and proved gains")
    return ax


def _color(row: TreeRow) -> str:
    if row.rule in {"neurons", "network", "dense"}:
        return ORANGE
    if row.rule in LEAVES:
        return GREEN
    return PURPLE if row.depth else CERTIFIED
