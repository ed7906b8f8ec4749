"""Octets as drawings in SVG: stacked columns over time, and a bar of who pays."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from .amount import size

_WIDTH, _HEIGHT = 720, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 4, 12, 24
_CHARACTER_WIDTH = 6.4  # of a label, generously
_COLUMN_MAX = 44


class Series(NamedTuple):
    """One colour of the columns."""

    name: str
    kind: str  # the class that the page's style colours


class Column(NamedTuple):
    """A stretch of time."""

    title: str
    label: str  # under the axis, where there is room
    octets: Sequence[int]  # of each series, from below


def stacked(title: str, series: Sequence[Series], columns: Sequence[Column]) -> str:
    """The drawing of columns, none of which is missing where there was nothing."""
    top = scale_top(max(sum(column.octets) for column in columns))
    step = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    width = min(step * 0.72, _COLUMN_MAX)
    longest = max(len(column.label) for column in columns) * _CHARACTER_WIDTH + 10
    every = max(1, -(-int(longest) // max(int(step), 1)))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
    ]
    for fraction in range(5):
        y = _y(top * fraction // 4, top)
        kind = "grid" if fraction else "axis"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" '
                     f'y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                     f"{escape(size(top * fraction // 4))}</text>")
    last = _WIDTH - _RIGHT - longest / 2  # a label further right would be cut
    for index, column in enumerate(columns):
        x = _LEFT + step * (index + 0.5)
        said = ", ".join(f"{one.name} {octets:,}"
                         for one, octets in zip(series, column.octets, strict=True))
        parts.append(f"<g><title>{escape(column.title)}: {escape(said)} octets</title>")
        low = 0
        for one, octets in zip(series, column.octets, strict=True):
            if octets:
                y = _y(low + octets, top)
                parts.append(f'<rect class="{one.kind}" x="{x - width / 2:.1f}" y="{y}" '
                             f'width="{width:.1f}" height="{_y(low, top) - y:.1f}"/>')
            low += octets
        parts.append("</g>")
        if index % every == 0 and (x <= last or len(columns) == 1):
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">'
                         f"{escape(column.label)}</text>")
    parts.append("</svg>")
    return "".join(parts)


def bar(series: Sequence[Series], octets: Sequence[int], whole: int) -> str:
    """Parts of a whole side by side, as wide as what they stand in; text says the same."""
    parts = ['<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" '
             'aria-hidden="true">']  # fmt: skip
    low = 0
    for one, part in zip(series, octets, strict=True):
        if part > 0:
            x, end = 1000 * low / whole, 1000 * (low + part) / whole
            parts.append(f'<rect class="{one.kind}" x="{x:.1f}" y="0" width="{end - x:.1f}" '
                         'height="10"/>')
        low += part
    parts.append("</svg>")
    return "".join(parts)


def scale_top(octets: int) -> int:
    """The top of the scale: four round steps that hold so many octets."""
    unit = 1
    while unit * 1024 * 4 <= octets:
        unit *= 1024
    for step in (1, 2, 3, 4, 5, 8, 10, 15, 20, 25, 40, 50, 75, 100, 150, 200, 256, 384, 512, 768):
        if step * unit * 4 >= octets:
            return step * unit * 4
    return 1024 * unit * 4


def _y(octets: int, top: int) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * octets / top, 1)
