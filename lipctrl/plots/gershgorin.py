"""Gershgorin discs of a certificate's LMI over its true eigenvalues: why the discs over-constrain a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.certificate import Certificate
from lipctrl.plots.style import CERTIFIED, FALSIFIED, GREY, SKY, axes_or_new, fit_height, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class GershgorinDiscs:
    """Discs |z - centers[i]| ≤ radii[i] that hold every eigenvalue of the LMI's symmetric matrix N.

    `sizes` are the numbers of rows that belong to the input and to each layer, in that order.
    """

    centers: np.ndarray
    radii: np.ndarray
    eigenvalues: np.ndarray
    sizes: tuple[int, ...]

    @property
    def dominant(self) -> bool:
        """Tell whether every disc lies in the right half plane, which is what Gershgorin networks enforce."""
        return not self.reaching_left.any()

    @property
    def reaching_left(self) -> np.ndarray:
        """Tell which discs reach left of zero by more than rounding in single precision."""
        return self.centers - self.radii < -1e-6 * np.abs(self.centers)


def lmi_matrix(certificate: Certificate) -> tuple[np.ndarray, tuple[int, ...]]:
    """Assemble N of a `neurons` certificate in float64: N ⪰ 0 proves the gain (Fazlyab et al. 2019, Theorem 2).

    Returns the (k, k) matrix over the increments of the input and of all neurons, and the block sizes. For
    pictures only: a proof bounds the rounding errors, this does not.

    Raises
    ------
    ValueError
        When the certificate is a composition: pass one of its `parts`.

    Examples
    --------
    >>> from lipctrl import rules
    >>> layer, output = rules.Layer({0: [[2.0]]}, "relu"), rules.Output({1: [[3.0]]})
    >>> certificate = rules.neurons([layer], output, [[9.0]], 6.1, in_features=1)
    >>> matrix, sizes = lmi_matrix(certificate)
    >>> matrix.round(2).tolist(), sizes
    ([[37.21, -18.0], [-18.0, 9.0]], (1, 1))
    """
    from lipctrl.rules.neurons import performance, read_graph

    if certificate.rule != "neurons":
        raise ValueError(
            f"the certificate is a {certificate.rule!r} node; expected 'neurons': pass one of its parts, "
            "e.g. next(c for c in certificate.nodes() if c.rule == 'neurons')"
        )
    graph = read_graph(certificate)
    sizes = graph.sizes[:-1]
    edges = np.concatenate([[0], np.cumsum(sizes)])
    eye = np.eye(edges[-1])
    rows = [eye[edges[j] : edges[j + 1]] for j in range(len(sizes))]

    def stacked(sources: dict[int, np.ndarray], height: int) -> np.ndarray:
        return sum((w @ rows[j] for j, w in sources.items()), np.zeros((height, eye.shape[0])))

    output = stacked(graph.sources[-1], graph.sizes[-1])
    a, b, c = performance(certificate)
    cross = rows[0].T @ output if b else np.zeros_like(eye)
    matrix = a * rows[0].T @ rows[0] + b * (cross + cross.T) + c * output.T @ output
    for l, (low, high) in enumerate(graph.slopes, start=1):
        inner = stacked(graph.sources[l - 1], sizes[l])
        multiplier = certificate.witness[f"multiplier{l}"]
        half = (rows[l] - low[:, None] * inner).T @ (multiplier[:, None] * (rows[l] - high[:, None] * inner))
        matrix = matrix + half + half.T
    return matrix, tuple(int(size) for size in sizes)


def gershgorin_discs(certificate: Certificate, scaling: Any = None) -> GershgorinDiscs:
    """Return the discs and eigenvalues of the LMI of one `neurons` certificate.

    Parameters
    ----------
    certificate : a node whose rule is "neurons".
    scaling : positive vector v (k,), default ones. The discs are those of diag(v)⁻¹ N diag(v), which has the
        eigenvalues of N: row i is dominated when N_ii v_i ≥ Σ_{j≠i} |N_ij| v_j.

    Examples
    --------
    >>> from lipctrl.rules import Layer, Output, neurons
    >>> node = neurons([Layer({0: [[0.5]]}, "relu")], Output({1: [[1.0]]}), [[1.0]], 1.0, in_features=1)
    >>> gershgorin_discs(node).dominant
    True
    """
    matrix, sizes = lmi_matrix(certificate)
    v = np.ones(len(matrix)) if scaling is None else np.asarray(scaling, dtype=np.float64)
    if v.shape != (len(matrix),) or not (np.isfinite(v).all() and (v > 0.0).all()):
        raise ValueError(f"scaling must hold {len(matrix)} positive finite numbers; got {scaling!r}")
    centers = np.diag(matrix).copy()
    off = np.abs(matrix - np.diag(centers))
    return GershgorinDiscs(centers, off @ v / v, np.linalg.eigvalsh(matrix), sizes)


@styled
def gershgorin_plot(discs: GershgorinDiscs, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw Gershgorin's discs of N and its eigenvalues on the real line; N ⪰ 0 is needed, dominance is sufficient.

    Discs that reach left of zero are vermilion: no Gershgorin argument proves that network, although all
    eigenvalues may be positive.

    Examples
    --------
    >>> from lipctrl import rules
    >>> layer, output = rules.Layer({0: [[2.0]]}, "relu"), rules.Output({1: [[3.0]]})
    >>> certificate = rules.neurons([layer], output, [[9.0]], 6.1, in_features=1)
    >>> gershgorin_plot(gershgorin_discs(certificate)).get_xlabel()
    'Re'
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Circle

    created = ax is None
    ax = axes_or_new(ax, (5.6, 5.8))
    left = discs.reaching_left
    for chosen, color, name in ((~left, SKY, "disc right of 0"), (left, FALSIFIED, "disc reaches left of 0")):
        patches = [
            Circle((c, 0.0), r) for c, r in zip(discs.centers[chosen], discs.radii[chosen], strict=True)
        ]
        if patches:
            ax.add_collection(
                PatchCollection(patches, facecolor=(color, 0.03), edgecolor=(color, 0.6), lw=1.0)
            )
            ax.plot([], [], "o", color=color, alpha=0.5, markersize=10, label=f"{name}: {len(patches)}")
    values = discs.eigenvalues
    ax.plot(values, np.zeros_like(values), "|", color=CERTIFIED, markersize=16, markeredgewidth=1.6,
            label=f"eigenvalues of N, smallest {values.min():.2g}")  # fmt: skip
    ax.axvline(0.0, color=GREY, lw=1.4)
    reach = float(np.max(discs.radii, initial=0.0)) or 1.0
    low = min(float((discs.centers - discs.radii).min()), float(values.min()), 0.0)
    high = max(float((discs.centers + discs.radii).max()), float(values.max()), 0.0)
    ax.set(xlim=(low - 0.05 * (high - low), high + 0.05 * (high - low)), ylim=(-1.1 * reach, 1.1 * reach))
    ax.set(xlabel="Re", ylabel="Im", title=title or "Gershgorin discs of the LMI matrix N")
    ax.set_aspect("equal")
    if created:
        fit_height(ax, 3)
    legend_below(ax)
    return ax
