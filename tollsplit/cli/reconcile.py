"""`tollsplit reconcile`: two parties' records, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from .output import Output

if TYPE_CHECKING:
    from ..reconcile import Comparison, Figure, Finding, Summary

DIFFER = 1

_COLUMNS = (
    "line", "verdict", "lines", "window_start", "window_end", "subscriber", "account", "rule",
    "rating_group", "figure", "ours", "theirs", "difference", "percent",
)  # fmt: skip


@click.command()
@click.argument("ours", metavar="OURS")
@click.argument("theirs", metavar="THEIRS")
@click.option("--by", metavar="KEYS", default="window,subscriber,rule", show_default=True,
              help="What makes two lines the same one: window, day or month; subscriber, account, "
              "rule, rating_group.")
@click.option("--tolerance", metavar="N|P%", default="0", show_default=True,
              help="How far figures may differ: octets (100), or a part of ours (0.5%).")
@click.option("--map", "mapping", metavar="FILE",
              help="Which of THEIRS' columns means what (TOML).")
@click.option("--sponsor", metavar="NAME", help="Only records that this sponsor has a part in.")
@click.option("--period", metavar="PERIOD", help="A month (2026-11) or a day (2026-11-03).")
@click.option("--zone", metavar="ZONE", default="UTC", show_default=True,
              help="The zone whose days and months count (IANA name).")
@click.option("--format", "form", type=click.Choice(("table", "json", "csv")), default="table",
              show_default=True, help="How the result is written.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path),
              help="Write the result to FILE; it appears only when it is whole.")
@click.option("--all", "everything", is_flag=True, help="List lines that agree, too.")
@click.option("--top", metavar="N", type=click.IntRange(1), default=20, show_default=True,
              help="How many lines the table shows.")
def reconcile(
    ours: str,
    theirs: str,
    by: str,
    tolerance: str,
    mapping: str | None,
    sponsor: str | None,
    period: str | None,
    zone: str,
    form: str,
    output: Path | None,
    everything: bool,
    top: int,
) -> int:
    """Compare two parties' usage records and charges, line by line.

    OURS and THEIRS are each what `tollsplit account` wrote (--format json or csv), a ledger's URL,
    or a CSV or JSON file of an operator's; of such a file columns are known by their names, or by
    a mapping (docs/reconcile.md). Lines with the same key are added up first. Windows of different
    lengths are compared by the longer ones where these hold the others.

    What only one side states is not compared, and the result says so. Differences are theirs
    less ours. A line that one side lacks never lies within the tolerance.

    \b
    Exit codes:
      0  all lines agree, or differ within the tolerance
      1  some differ or are missing; or the result cannot be written
      2  usage
      3  bad input: a file, a mapping or a ledger cannot be read, or the two
         cannot be compared

    \b
    Example:
      tollsplit reconcile sqlite:///books.db operator.csv --map operator.toml
    """
    from ..reconcile import reconcile as compare

    with Output(output, form) as result, compare(
        ours, theirs, by=by, tolerance=tolerance, mapping=mapping, sponsor=sponsor, period=period,
        zone=zone,
    ) as found:  # fmt: skip
        if form == "json":
            result.write_text(
                lambda stream: _write_json(found, stream, tolerance, period, zone, everything))
        elif form == "csv":
            from ..report import write_lines

            result.write_text(
                lambda stream: write_lines(stream, _COLUMNS, _lines(found, everything)))
        else:
            from .comparison import print_comparison

            result.write_text(lambda stream: print_comparison(found, stream, top, everything))
        return 0 if found.agrees else DIFFER


def _write_json(
    found: Comparison, stream: IO[str], tolerance: str, period: str | None, zone: str,
    everything: bool,
) -> None:  # fmt: skip
    """Write the document, holding one line at a time."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    head = {
        "schema": "tollsplit.reconcile/1",
        "ours": found.ours.name,
        "theirs": found.theirs.name,
        "by": list(found.by.names),
        "tolerance": tolerance,
        "sponsor": found.sponsor,
        "period": period,
        "zone": zone,
        "agrees": found.agrees,
        "notes": found.notes,
        "usage": _summary(found.usage),
        "charges": _summary(found.charges),
    }
    stream.write("{")
    for key, value in head.items():
        stream.write(f"{encode(key)}: {encode(value)},\n ")
    stream.write('"lines": [')
    separator = "\n  "
    for finding in found.findings(everything=everything):
        entry = {**_key(finding), "figures": list(map(_figure, finding.figures))}
        stream.write(separator + encode(entry))
        separator = ",\n  "
    stream.write("]}\n")


def _summary(summary: Summary) -> dict[str, Any]:
    return {"lines": summary.counts, "totals": list(map(_figure, summary.figures()))}


def _lines(found: Comparison, everything: bool) -> Iterator[dict[str, Any]]:
    """The document as flat lines: counts, totals, then each figure of each line."""
    for kind, summary in (("usage", found.usage), ("charge", found.charges)):
        for verdict, count in summary.counts.items():
            yield {"line": f"{kind} count", "verdict": verdict, "lines": count}
        for figure in summary.figures():
            yield {"line": f"{kind} total", **_figure(figure)}
    for finding in found.findings(everything=everything):
        for figure in finding.figures:
            yield {**_key(finding), **_figure(figure)}
    for note in found.notes:
        yield {"line": "note", "figure": note}


def _key(finding: Finding) -> dict[str, Any]:
    from ..report import instant_text

    start, end = finding.window
    return {
        "line": finding.kind, "verdict": finding.verdict,
        "window_start": None if start is None else instant_text(start),
        "window_end": None if end is None else instant_text(end), **finding.key,
    }  # fmt: skip


def _figure(figure: Figure) -> dict[str, Any]:
    percent = figure.percent
    return {
        "figure": figure.name, "ours": figure.ours, "theirs": figure.theirs,
        "difference": figure.difference, "percent": None if percent is None else round(percent, 6),
    }  # fmt: skip
