"""A run's report as a page: what was used when, who pays, and that nothing is missing."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from .. import __version__
from ..report import instant_text
from .amount import money, share, size
from .overview import Line, Overview, duration
from .page import day_cell, fact, number_cell, numeric_cell, page, table, text_cell, wide
from .plot import Column, Series, bar, stacked
from .table import bucket_cells, notes, receipt_text

if TYPE_CHECKING:
    from ..report import Report

# The colours of the payers: subscribers, five sponsors, the others.
_KINDS = ("own", "sponsors", "second", "third", "fourth", "fifth", "rest")
_CAPTURES_MAX = 50  # named; the JSON document of a run over more has none at all


def report_page(report: Report, top: int) -> str:
    """The page's text; the same run gives the same page, but for the time that it took.

    top  how many subscribers and accounts it names
    """
    overview = Overview(report.usage)
    series = list(map(Series, overview.payers, _KINDS))
    return page(f"Usage: {_title(report)}", [
        *_header(report, overview), *_verdict(report), *_times(overview, series),
        *_payers(report, overview, series), *_rules(overview, series),
        *_subscribers(overview, series, top), *_charges(report, top), *_identity(report),
        *_faults(report), *_provenance(report),
    ])  # fmt: skip


def _title(report: Report) -> str:
    names = report.captures
    if len(names) == 1:
        return _legible(os.path.basename(names[0]) or names[0])
    return f"{len(names):,} captures"


def _legible(name: str) -> str:
    """A file's name, of whatever octets it is."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _header(report: Report, overview: Overview) -> Iterator[str]:
    yield "<header>"
    yield f"<p>Sponsored data, {escape(_span(report))}</p>"
    yield f"<h1><bdi>{escape(_title(report))}</bdi></h1>"
    yield "<dl>"
    seen, sponsored = report.seen, sum(report.sponsor_octets.values())
    yield fact("Seen", size(seen.octets), f"{seen.octets:,} octets in {seen.packets:,} packets")
    yield fact("Subscribers pay", size(report.subscriber_octets),
               f"{report.subscriber_octets:,} octets")
    yield fact("Sponsors pay", size(sponsored), f"{sponsored:,} octets")
    yield fact("Subscribers", f"{overview.subscriber_count:,}",
               f"{len(report.usage):,} usage records")
    for currency, amount, taxes in _totals(report):
        yield fact(f"Charged, {currency}", money(amount, currency),
                   "taxes included" if taxes else "")
    yield "</dl>"
    yield "</header>"


def _span(report: Report) -> str:
    """From the first packet that was metered to the last, in whole seconds."""
    records = report.usage.records
    if not len(report.usage):
        return "no traffic was metered"
    first, last = int(records["first_ns"].min()), int(records["last_ns"].max())
    start, end = (instant_text(instant)[:19].replace("T", " ") for instant in (first, last))
    return f"{start} to {end} UTC"


def _verdict(report: Report) -> Iterator[str]:
    seen = report.seen
    if report.identity_holds:
        yield ('<p class="verdict">Nothing is missing: each of the '
               f"{seen.packets:,} packets and {seen.octets:,} octets that were seen is in exactly "
               "one place below, and each metered octet has one payer.</p>")
    else:
        yield ('<p class="verdict bad">THE BUCKETS DO NOT ADD UP TO WHAT WAS SEEN: nothing here '
               "may be billed.</p>")
    for message in report.truncated:
        yield f'<p class="verdict bad"><bdi>{escape(_legible(message))}</bdi></p>'


# --- usage -----------------------------------------------------------------------------


def _times(overview: Overview, series: Sequence[Series]) -> Iterator[str]:
    yield "<h2>Usage over time</h2>"
    times = overview.times()
    if times is None:
        why = "No traffic." if not overview.subscriber_count else (
            'The rules\' window is "all": usage is not told by time.')
        yield f"<p>{escape(why)}</p>"
        return
    starts = [stretch.start.strftime(times.clock) for stretch in times.stretches]
    titles = [f"{stretch.start:%Y-%m-%d} {start}" if ":" in start else start
              for stretch, start in zip(times.stretches, starts, strict=True)]  # fmt: skip
    labels = [start[5:] if times.step == "day" else start for start in starts]
    title = f"Octets by {times.step}, wall time of {times.zone}"
    columns = list(map(Column, titles, labels, (stretch.paid for stretch in times.stretches)))
    yield f"<figure>{wide(title)}{stacked(title, series, columns)}</div>"
    yield f"<figcaption>{_legend(series)}</figcaption></figure>"
    yield f'<p class="note">{escape(title)}.</p>'
    yield "<details><summary>The figures</summary>"
    yield from table(
        title, ("From", ">Octets", *(f">{one.name}" for one in series)),
        [(day_cell(said), number_cell(sum(stretch.paid)), *map(number_cell, stretch.paid))
         for said, stretch in zip(titles, times.stretches, strict=True) if sum(stretch.paid)],
    )  # fmt: skip
    yield "</details>"


def _legend(series: Sequence[Series]) -> str:
    return "".join(f'<span><i class="{one.kind}"></i><bdi>{escape(one.name)}</bdi></span>'
                   for one in series)  # fmt: skip


def _payers(report: Report, overview: Overview, series: Sequence[Series]) -> Iterator[str]:
    yield "<h2>Who pays</h2>"
    whole = report.tally.metered.octets
    if whole:
        yield f"<figure>{bar(series, overview.paid, whole)}</figure>"
    yield from table(
        "Who pays", ("Payer", ">Octets", ">Size", ">Share"),
        [(f'<td class="text"><i class="{one.kind}"></i><bdi>{escape(one.name)}</bdi></td>',
          number_cell(octets), numeric_cell(size(octets)), numeric_cell(share(octets, whole)))
         for one, octets in zip(series, overview.paid, strict=True)],
        [(text_cell("Metered"), number_cell(whole), numeric_cell(size(whole)),
          numeric_cell(share(whole, whole)))],
    )  # fmt: skip


def _rules(overview: Overview, series: Sequence[Series]) -> Iterator[str]:
    lines = overview.rules()
    if lines:
        yield "<h2>By rule</h2>"
        yield from _lines("By rule", "Rule", lines, series)


def _subscribers(overview: Overview, series: Sequence[Series], top: int) -> Iterator[str]:
    lines = overview.subscribers(top)
    if not lines:
        return
    yield "<h2>Largest subscribers</h2>"
    yield from _lines("Largest subscribers", "Subscriber", lines, series)
    left = overview.subscriber_count - len(lines)
    if left:
        rest = sum(overview.paid) - sum(line.octets for line in lines)
        yield (f'<p class="note">{left:,} more subscribers used {rest:,} octets '
               f"({size(rest)}).</p>")


def _lines(
    title: str, what: str, lines: Sequence[Line], series: Sequence[Series]
) -> Iterator[str]:
    """A table of sums, each with a bar: as long as its share of the longest."""
    longest = max(1, *(line.octets for line in lines))
    yield from table(
        title, (what, "Who pays", ">Octets", ">Uplink", ">Downlink", ">Subscribers pay",
                ">Sponsors pay"),
        [(_named(line), f'<td class="bar">{bar(series, line.paid, longest)}</td>',
          *map(number_cell, (line.octets, line.uplink_octets, line.downlink_octets, line.paid[0],
                             sum(line.paid[1:])))) for line in lines],
    )  # fmt: skip


def _named(line: Line) -> str:
    held_by = "" if line.account in ("", line.name) else (
        f"<small><bdi>{escape(line.account)}</bdi></small>")
    return f'<td class="text"><bdi>{escape(line.name)}</bdi>{held_by}</td>'


# --- money -----------------------------------------------------------------------------


def _totals(report: Report) -> list[tuple[str, int, int]]:
    """Of each currency what is charged, and what of it are taxes."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for charge in report.charges:
        sums[charge.currency][0] += charge.total_micros
        sums[charge.currency][1] += charge.total_micros - charge.amount_micros
    return [(currency, total, taxes) for currency, (total, taxes) in sorted(sums.items())]


def _charges(report: Report, top: int) -> Iterator[str]:
    if not report.charges:
        return
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for charge in report.charges:
        taxes = charge.total_micros - charge.amount_micros
        for place, part in enumerate((charge.rated_octets, taxes, charge.total_micros)):
            sums[charge.account, charge.currency][place] += part
    largest = heapq.nlargest(top, sums, key=lambda key: sums[key][2])
    taxed = any(charge.taxes for charge in report.charges)

    def amounts(taxes: int, amount: int, currency: str) -> list[str]:
        parts = (taxes, amount) if taxed else (amount,)
        return [numeric_cell(money(part, currency)) for part in parts]

    yield "<h2>Charges</h2>"
    yield from table(
        "Charges", ("Account", ">Rated octets", *((">Taxes",) if taxed else ()), ">Amount"),
        [(text_cell(name), number_cell(rated), *amounts(taxes, amount, currency))
         for (name, currency), (rated, taxes, amount) in (
             (key, sums[key]) for key in largest)],
        [(text_cell("All accounts"), text_cell(""), *amounts(taxes, amount, currency))
         for currency, amount, taxes in _totals(report)],
    )  # fmt: skip
    if len(sums) > top:
        yield f'<p class="note">{len(sums) - top:,} more accounts are in the total.</p>'


# --- that nothing is missing -----------------------------------------------------------


def _identity(report: Report) -> Iterator[str]:
    yield "<h2>Every frame in one bucket</h2>"
    seen = report.seen
    yield from table(
        "Every frame in one bucket", ("Bucket", ">Packets", ">Octets"),
        [(text_cell(name), numeric_cell(packets), numeric_cell(octets))
         for name, packets, octets in map(bucket_cells, (
             bucket for bucket in report.buckets
             if bucket.volume.packets or not bucket.name.startswith("fault:")))],
        [(text_cell("seen"), number_cell(seen.packets), number_cell(seen.octets))],
    )  # fmt: skip
    lost = report.lost_kernel + report.lost_interface
    yield f'<p class="note">Lost before it was seen: {lost:,} packets, on no bill.</p>'


def _faults(report: Report) -> Iterator[str]:
    found = [volume for volume in report.tally.faults.values() if volume.packets]
    yield "<h2>Faults and notes</h2>"
    packets, octets = sum(v.packets for v in found), sum(v.octets for v in found)
    faults = "faults: none" if not found else (
        f"faults: {packets:,} packets, {octets:,} octets, cannot be understood")
    yield f"<ul><li>{faults}.</li>"
    for note in notes(report.tally):
        yield f"<li>{escape(note)}.</li>"
    yield "</ul>"


def _provenance(report: Report) -> Iterator[str]:
    rules = report.usage.rules
    rows = [
        ("Rules", f"{_legible(str(rules.path))}, {report.rules_version}"),
        ("Metered", f"layer {report.layer}, {report.at} packet"),
        ("Window and days", f"{_window(report)}, zone {rules.meter.zone}"),
        *(("Capture", text) for text in _captures(report)),
        *(("Ledger", receipt_text(receipt)) for receipt in (report.receipt,) if receipt),
        ("Program", f"tollsplit {__version__}, {report.elapsed_s:.3f} s"),
    ]  # fmt: skip
    yield "<h2>Where this comes from</h2>"
    yield from table(
        "Where this comes from", ("What", "Which"),
        [(f'<th scope="row">{escape(name)}</th>', text_cell(words)) for name, words in rows])
    yield ("<footer><p>Octets are whole numbers, amounts exact to the millionth. Sizes and shares "
           "are rounded for the eye.</p></footer>")


def _window(report: Report) -> str:
    meter = report.usage.rules.meter
    if meter.window_month:
        return "each month"
    return "one window" if meter.window_s is None else f"each {duration(meter.window_s)}"


def _captures(report: Report) -> Iterator[str]:
    digests = dict(report.run.captures) if report.run else {}
    for name in report.captures[:_CAPTURES_MAX]:
        digest = digests.get(name)
        yield _legible(name) + (f", {digest}" if digest else "")
    left = len(report.captures) - _CAPTURES_MAX
    if left > 0:
        yield f"{left:,} more"
