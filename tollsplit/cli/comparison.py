"""A comparison as tables that a person reads, at 80 columns."""

from __future__ import annotations

import heapq
from typing import IO

from rich.console import Console
from rich.text import Text

from ..reconcile import AGREEING, Comparison, Figure, Finding
from .amount import quantity
from .table import console, grid

_VERDICTS = {
    "agreeing": "agreeing", "within_tolerance": "within the tolerance", "differing": "differing",
    "missing_ours": "missing in ours", "missing_theirs": "missing in theirs",
}  # fmt: skip

_ROW = "  {:<20}{:>16}{:>16}{:>15}{:>11}"  # 80 columns


def print_comparison(found: Comparison, stream: IO[str], top: int, everything: bool) -> None:
    """Print the totals, how many lines agree, and the lines that do not, largest first."""
    out = console(stream)
    by = ", ".join(found.by.names).replace("_", " ")
    out.print(Text(f"ours    {found.ours.name}\ntheirs  {found.theirs.name}"))
    out.print(Text(f"by      {by or 'nothing: totals only'}\n"))
    _print_totals(found, out)
    _print_counts(found, out)
    _print_findings(found, out, top, everything)
    for note in found.notes:
        out.print(Text(f"note: {note}"))
    verdict = "the two agree" if found.agrees else "THE TWO DO NOT AGREE"
    out.print(Text(f"reconciled: {verdict}"))


def _print_totals(found: Comparison, out: Console) -> None:
    table = grid("Totals", ("figure", "ours", "theirs", "difference", "of ours"), (1, 2, 3, 4))
    for summary in (found.usage, found.charges):
        for figure in summary.figures():
            table.add_row(*_cells(figure))
    out.print(table)


def _print_counts(found: Comparison, out: Console) -> None:
    table = grid("Lines", ("", "usage", "charges"), (1, 2))
    for verdict, text in _VERDICTS.items():
        usage, charges = (s.counts[verdict] for s in (found.usage, found.charges))  # type: ignore[index]
        table.add_row(text, f"{usage:,}", f"{charges:,}")
    out.print(table)


def _print_findings(found: Comparison, out: Console, top: int, everything: bool) -> None:
    largest = heapq.nlargest(top, found.findings(everything=everything), key=_size)
    if not largest:
        return
    title = "All lines, largest difference first" if everything else (
        "What does not agree, largest first")
    out.print(Text(f"{title}\n", style="bold"))
    for finding in largest:
        out.print(Text(_title(found, finding)))
        for figure in finding.figures:
            if figure.difference or finding.verdict == "agreeing":
                out.print(Text(_ROW.format(*_cells(figure))))
    summaries = (found.usage, found.charges)
    listed = sum(
        count for summary in summaries for verdict, count in summary.counts.items()
        if everything or verdict not in AGREEING
    )  # fmt: skip
    if listed > len(largest):
        out.print(Text(f"… and {listed - len(largest):,} more lines (--format json for all)\n"))


def _size(finding: Finding) -> int:
    return max((abs(figure.difference) for figure in finding.figures), default=0)


def _title(found: Comparison, finding: Finding) -> str:
    words = [] if finding.window == (None, None) else [found.calendar.text(finding.window)]
    words += ["-" if value is None else str(value) for value in finding.key.values()]
    kind = "charge, " if finding.kind == "charge" else ""
    return f"{'  '.join(words) or 'all'}: {kind}{_VERDICTS[finding.verdict]}"


def _cells(figure: Figure) -> tuple[str, ...]:
    name, _, rest = figure.name.partition(".")
    percent = figure.percent
    share = "-" if percent is None else f"{percent:+.2f} %"
    if name == "amount_micros":
        unit = f"{rest}/1000000"
        shown = [quantity(n or 0, unit) for n in (figure.ours, figure.theirs, figure.difference)]
        return ("amount", *shown, share)
    text = f"{name} {rest}".strip().replace("sponsor_octets", "octets of").replace("_", " ")
    numbers = ("-" if n is None else f"{n:,}" for n in (figure.ours, figure.theirs))
    return (text, *numbers, f"{figure.difference:+,}", share)
