"""Figures as bytes and text, for reports that are one self-contained file."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import matplotlib as mpl

from lipctrl.plots.style import RC

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_png(figure: Figure, *, dpi: int = 110) -> bytes:
    """Return a figure as PNG bytes; the same figure gives the same bytes.

    Examples
    --------
    >>> from lipctrl.plots import subplots
    >>> figure_png(subplots()[0])[1:4]
    b'PNG'
    """
    stream = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


def figure_svg(figure: Figure) -> str:
    """Return a figure as an inline <svg> element, without XML prologue, date or outside references.

    Examples
    --------
    >>> from lipctrl.plots import subplots
    >>> figure_svg(subplots()[0])[:4]
    '<svg'
    """
    stream = io.StringIO()
    with mpl.rc_context(RC):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].strip()


def figure_html(figure: Figure, caption: str, *, alt: str | None = None) -> str:
    """Return a <figure> element with the picture embedded as PNG data, its caption and a text alternative.

    Examples
    --------
    >>> from lipctrl.plots import subplots
    >>> figure_html(subplots()[0], "Empty axes.")[:8]
    '<figure>'
    """
    data = base64.b64encode(figure_png(figure)).decode("ascii")
    text = html.escape(alt or caption, quote=True)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}" style="max-width:100%">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
