"""A small anti-aliased raster of lines, discs and polygons in pure numpy, for rgb_array rendering."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Point = Sequence[float] | np.ndarray
Color = tuple[int, int, int]


class Canvas:
    """Draw shapes given in metres on a white picture, each by its signed distance, one pixel of smoothing.

    >>> canvas = Canvas(40, 60)
    >>> canvas.view(center=(0.0, 0.0), width=3.0)
    >>> canvas.circle((0.0, 0.0), 0.5, canvas.accent)
    >>> canvas.image.shape, tuple(int(v) for v in canvas.image[20, 30])
    ((40, 60, 3), (214, 90, 49))
    """

    paper: Color = (250, 250, 248)
    faint: Color = (205, 208, 212)
    body: Color = (120, 130, 140)
    dark: Color = (40, 48, 58)
    accent: Color = (214, 90, 49)
    second: Color = (38, 112, 158)

    def __init__(self, height: int, width: int) -> None:
        self._pixels = np.empty((height, width, 3), dtype=np.float32)
        self._pixels[:] = self.paper
        self._center = np.zeros(2)
        self._scale = 1.0

    @property
    def image(self) -> np.ndarray:
        """Return the picture so far as uint8 (height, width, 3)."""
        return np.rint(self._pixels).astype(np.uint8)

    def view(self, center: Point, width: float) -> None:
        """Show `width` metres across the picture, around `center` (x right, y up)."""
        self._center = np.asarray(center, dtype=np.float64)
        self._scale = self._pixels.shape[1] / width

    def _pixel(self, point: Point) -> np.ndarray:
        height, width = self._pixels.shape[:2]
        x, y = (np.asarray(point, dtype=np.float64) - self._center) * self._scale
        # Far outside is far outside: bounding it keeps a diverged state from costing memory or overflow.
        far = 4.0 * (height + width)
        return np.clip(np.nan_to_num([width / 2 + x, height / 2 - y], nan=far), -far, far)

    def _grid(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, np.ndarray, np.ndarray]:
        height, width = self._pixels.shape[:2]
        left, right = np.clip([math.floor(low[0]) - 1, math.ceil(high[0]) + 2], 0, width).astype(int)
        top, bottom = np.clip([math.floor(low[1]) - 1, math.ceil(high[1]) + 2], 0, height).astype(int)
        xs = np.arange(left, right, dtype=np.float32)[None, :] + 0.5
        ys = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
        return slice(top, bottom), slice(left, right), xs, ys

    def _blend(self, rows: slice, columns: slice, distance: np.ndarray, color: Color) -> None:
        cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        patch = self._pixels[rows, columns]
        patch += cover * (np.asarray(color, dtype=np.float32) - patch)

    def line(self, start: Point, end: Point, thickness: float, color: Color) -> None:
        """Draw a segment with round ends; `thickness` in metres, at least one pixel."""
        a, b = self._pixel(start), self._pixel(end)
        radius = max(0.5 * thickness * self._scale, 0.5)
        rows, columns, xs, ys = self._grid(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
        d = b - a
        along = np.clip(((xs - a[0]) * d[0] + (ys - a[1]) * d[1]) / max(float(d @ d), 1e-12), 0.0, 1.0)
        distance = np.hypot(xs - a[0] - along * d[0], ys - a[1] - along * d[1]) - radius
        self._blend(rows, columns, distance, color)

    def circle(self, center: Point, radius: float, color: Color, outline: float = 0.0) -> None:
        """Draw a disc, or its rim when `outline` (thickness in metres) is given."""
        c, r = self._pixel(center), radius * self._scale
        rim = max(0.5 * outline * self._scale, 0.5) if outline else 0.0
        rows, columns, xs, ys = self._grid(c - r - rim, c + r + rim)
        distance = np.hypot(xs - c[0], ys - c[1]) - r
        self._blend(rows, columns, np.abs(distance) - rim if outline else distance, color)

    def polygon(self, corners: Sequence[Point], color: Color) -> None:
        """Fill a convex polygon."""
        points = np.array([self._pixel(p) for p in corners])
        x, y = points.T
        if float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) < 0.0:
            points = points[::-1]
        rows, columns, xs, ys = self._grid(points.min(axis=0), points.max(axis=0))
        inside = np.full(np.broadcast_shapes(xs.shape, ys.shape), -np.inf, dtype=np.float32)
        for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
            edge = b - a
            size = max(float(np.hypot(*edge)), 1e-9)
            inside = np.maximum(inside, ((xs - a[0]) * edge[1] - (ys - a[1]) * edge[0]) / size)
        self._blend(rows, columns, inside, color)

    def box(self, center: Point, size: Point, color: Color, angle: float = 0.0) -> None:
        """Fill a rectangle of `size` = (width, height), turned counter-clockwise by `angle` [rad]."""
        c, s = math.cos(angle), math.sin(angle)
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.asarray(size, dtype=np.float64) / 2
        corners = np.asarray(center, dtype=np.float64) + half @ np.array([[c, s], [-s, c]])
        self.polygon(list(corners), color)

    def arrow(self, start: Point, vector: Point, color: Color | None = None) -> None:
        """Draw an arrow for a force or a speed; nothing when it is shorter than three pixels."""
        color = color or self.second
        begin, way = np.asarray(start, dtype=np.float64), np.asarray(vector, dtype=np.float64)
        length = float(np.hypot(*way))
        if not length * self._scale >= 3.0:
            return
        unit, head = way / length, min(0.5 * length, 12.0 / self._scale)
        side = np.array([-unit[1], unit[0]]) * 0.5 * head
        neck = begin + way - unit * head
        self.line(begin, neck, 4.0 / self._scale, color)
        self.polygon([begin + way, neck + side, neck - side], color)

    def spring(self, start: Point, end: Point, radius: float, color: Color, coils: int = 6) -> None:
        """Draw a spring as a zigzag between two points."""
        a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        way = b - a
        side = np.array([-way[1], way[0]]) / max(float(np.hypot(*way)), 1e-9) * radius
        turns = np.linspace(0.0, 1.0, 2 * coils + 2)
        sway = np.array([0.0, *[(-1.0) ** k for k in range(2 * coils)], 0.0])
        points = a + turns[:, None] * way + sway[:, None] * side
        for p, q in itertools.pairwise(points):
            self.line(p, q, 2.0 / self._scale, color)

    def turn(self, center: Point, radius: float, share: float, color: Color | None = None) -> None:
        """Draw a torque as an arc from the top, clockwise for a positive share of the largest torque."""
        color = color or self.second
        if not abs(share) >= 0.02:
            return
        angles = np.linspace(0.0, 2.0 * max(-1.0, min(1.0, share)), 24)
        points = np.asarray(center) + radius * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        for p, q in itertools.pairwise(points):
            self.line(p, q, 4.0 / self._scale, color)
        tangent = (points[-1] - points[-2]) / max(float(np.hypot(*(points[-1] - points[-2]))), 1e-9)
        self.arrow(points[-1], tangent * 14.0 / self._scale, color)
