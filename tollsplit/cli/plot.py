"""Octets by day as a drawing: stacked columns in SVG."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from .amount import size

if TYPE_CHECKING:
    from ..ledger import Statement

_WIDTH, _HEIGHT = 720, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 4, 12, 24
_DAYS_MAX = 124  # more columns than this could not be told apart: months then
_LABEL_WIDTH = 48
_COLUMN_MAX = 44


class Plot(NamedTuple):
    title: str
    svg: str


def plot(found: Statement) -> Plot | None:
    """The drawing; None where there is no traffic."""
    if not found.usage:
        return None
    days = _days(found)
    by_month = len(days) > _DAYS_MAX
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for day in days:
        sums[_label(day, by_month)]  # days without traffic have a place, too
    for line in found.usage:
        column = sums[_label(line.day, by_month)]
        column[0] += line.subscriber_octets
        column[1] += sum(line.sponsor_octets.values())
    top = _top(max(map(sum, sums.values())))
    inner = _WIDTH - _LEFT - _RIGHT
    step = inner / len(sums)
    width = min(step * 0.72, _COLUMN_MAX)
    every = -(-_LABEL_WIDTH // max(int(step), 1))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Octets by {"month" if by_month else "day"}">'
    ]
    for fraction in range(5):
        y = _y(top * fraction // 4, top)
        kind = "grid" if fraction else "axis"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" '
                     f'y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                     f"{escape(size(top * fraction // 4))}</text>")
    for index, (label, (own, sponsored)) in enumerate(sums.items()):
        x = _LEFT + step * (index + 0.5)
        parts.append(f"<g><title>{escape(label)}: subscribers {own:,}, sponsors {sponsored:,} "
                     "octets</title>")
        for kind, low, high in (("own", 0, own), ("sponsors", own, own + sponsored)):
            if high > low:
                y = _y(high, top)
                parts.append(f'<rect class="{kind}" x="{x - width / 2:.1f}" y="{y}" '
                             f'width="{width:.1f}" height="{_y(low, top) - y:.1f}"/>')
        parts.append("</g>")
        if index % every == 0:
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">'
                         f"{label if by_month else label[5:]}</text>")
    parts.append("</svg>")
    span = f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return Plot(f"Octets by {'month' if by_month else 'day'}, {span}", "".join(parts))


def _days(found: Statement) -> list[date]:
    """Every day of the period, or from the first with traffic to the last."""
    first, last = found.usage[0].day, found.usage[-1].day
    if found.start is not None and found.end is not None:
        first, last = found.start.date(), found.end.date() - timedelta(days=1)
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _label(day: date, by_month: bool) -> str:
    return f"{day:%Y-%m}" if by_month else str(day)


def _top(octets: int) -> int:
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
