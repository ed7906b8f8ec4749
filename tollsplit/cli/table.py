"""Reports as tables that a person reads, at 80 columns."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import IO, TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..model import Charge, UsageRecord
from ..report import buckets_of
from .amount import money, quantity, share, size

if TYPE_CHECKING:
    from ..ledger import Balance, Origin, Receipt, RecordLine, Statement
    from ..report import Bucket, Report, Sums
    from ..rules.explain import Explanation, Side
    from ..snapshot import Snapshot

LAST = math.inf  # no rule comes after every precedence
COLUMNS = 80  # where the output is no terminal


def console(stream: IO[str]) -> Console:
    """A console on a stream; no colour, no wrapping width of its own where it is no terminal."""
    terminal = stream.isatty()
    return Console(file=stream, width=None if terminal else COLUMNS, highlight=False,
                   emoji=False, markup=False)


def grid(title: str, columns: Sequence[str], numbers: Iterable[int]) -> Table:
    """An empty table; the columns with these indices hold numbers."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold",
                  padding=(0, 1), pad_edge=False, collapse_padding=True)
    right = set(numbers)
    for index, name in enumerate(columns):
        if index in right:
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold", no_wrap=name == "day")
    return table


def print_account(report: Report, stream: IO[str], top: int) -> None:
    """Print the largest subscribers, who pays, what was charged, and the identity."""
    out = console(stream)
    _print_usage(report, out, top)
    _print_payers(report.tally, out)
    if report.charges:
        _print_charges(report.charges, out, top)
    lost = report.lost_kernel + report.lost_interface
    _print_identity(report.tally, report.identity_holds, lost, out)
    _print_notes(report.tally, out)
    metered = f"layer {report.layer}, {report.at} packet"
    out.print(Text(f"metered: {metered}; {report.seen.packets:,} packets in "
                   f"{report.elapsed_s:.3f} s"))
    if report.receipt is not None:
        out.print(Text(f"ledger: {receipt_text(report.receipt)}"))


def print_snapshot(found: Snapshot, stream: IO[str]) -> None:
    """Print a live run's end: its last window's largest subscribers, who paid, the identity."""
    out = console(stream)
    table = grid("Usage in the last window, largest subscribers first",
                 ("subscriber", "octets", "subscriber pays", "sponsors pay"), (1, 2, 3))
    for heavy in found.heaviest:
        octets = heavy.uplink_octets + heavy.downlink_octets
        name = heavy.subscriber if heavy.account == heavy.subscriber else (
            f"{heavy.subscriber}\n{heavy.account}")
        table.add_row(name, f"{octets:,}", f"{heavy.subscriber_octets:,}",
                      f"{octets - heavy.subscriber_octets:,}")
    if found.heaviest:
        out.print(table)
    _print_payers(found, out)
    _print_identity(found, found.identity_holds, found.lost_kernel + found.lost_interface, out)
    _print_notes(found, out)
    out.print(Text(f"metered: {found.seen.packets:,} packets in {found.running_s:.1f} s"))
    if found.has_ledger:
        waiting = f", {found.unbooked_batches:,} batches wait in the journal" if (
            found.unbooked_batches) else ""
        out.print(Text(f"ledger: {found.booked_records:,} records booked{waiting}"))


def _print_usage(report: Report, out: Console, top: int) -> None:
    import numpy as np

    from .overview import largest_subscribers

    usage = report.usage
    subscriber = usage.records["subscriber"]
    largest = largest_subscribers(usage, top)
    lines: dict[int, dict[str, _Line]] = {int(number): {} for number in largest}
    for index in np.flatnonzero(np.isin(subscriber, largest)):
        rules = lines[int(subscriber[index])]
        record = usage.record(int(index))
        rules.setdefault(record.rule or "-", _Line()).add(record)
    table = grid("Usage, largest subscribers first",
                 ("subscriber", "rule", "octets", "subscriber pays", "sponsors pay"), (2, 3, 4))
    order = {rule.id: rule.precedence for rule in usage.rules.rules}
    for number, rules in lines.items():
        name, account = usage.subscribers.name(number), usage.subscribers.account(number)
        shown = [name] if account == name else [name, account]
        cells = [(rule, f"{line.octets:,}", f"{line.subscriber_octets:,}",
                  f"{line.octets - line.subscriber_octets:,}")
                 for rule, line in sorted(rules.items(), key=lambda item: order.get(
                     item[0], LAST))]
        for first, rest in zip_longest(shown, cells, fillvalue=None):
            table.add_row(first or "", *(rest or ()))
    out.print(table)
    left = len(usage.subscribers) - len(largest)
    if left:
        out.print(Text(f"… and {left:,} more subscribers (--format json for all)\n"))


@dataclass(slots=True)
class _Line:
    """The sum of one subscriber's records under one rule."""

    octets: int = 0
    subscriber_octets: int = 0

    def add(self, record: UsageRecord) -> None:
        self.octets += record.octets
        self.subscriber_octets += record.subscriber_octets


def _print_payers(sums: Sums, out: Console) -> None:
    whole = sums.metered.octets
    table = grid("Who pays", ("payer", "octets", "size", "share"), (1, 2, 3))
    payers = [("subscribers", sums.subscriber_octets)]
    payers += [(f"sponsor {name}", octets) for name, octets in sums.sponsor_octets.items()]
    for name, octets in payers:
        table.add_row(name, f"{octets:,}", size(octets), share(octets, whole))
    table.add_section()
    table.add_row("metered", f"{whole:,}", size(whole), share(whole, whole))
    out.print(table)


def _print_charges(charges: Sequence[Charge], out: Console, top: int) -> None:
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for charge in charges:
        total = totals[charge.account, charge.currency]
        total[0] += charge.rated_octets
        total[1] += charge.total_micros - charge.amount_micros
        total[2] += charge.total_micros
    largest = heapq.nlargest(top, totals, key=lambda key: totals[key][2])
    taxed = any(charge.taxes for charge in charges)
    columns = ("account", "rated octets", *(("taxes",) if taxed else ()), "amount")
    table = grid("Charges", columns, range(1, len(columns)))
    for key in largest:
        rated, taxes, amount = totals[key]
        within = (money(taxes, key[1]),) if taxed else ()
        table.add_row(key[0], f"{rated:,}", *within, money(amount, key[1]))
    out.print(table)
    if len(totals) > top:
        out.print(Text(f"… and {len(totals) - top:,} more accounts (--format json for all)\n"))


def _print_identity(sums: Sums, holds: bool, lost: int, out: Console) -> None:
    table = grid("Every frame in one bucket", ("bucket", "packets", "octets"), (1, 2))
    faults = any(volume.packets for volume in sums.faults.values())
    for bucket in buckets_of(sums):
        if bucket.volume.packets or not bucket.name.startswith("fault:"):
            table.add_row(*bucket_cells(bucket))
    if not faults:
        table.add_row("faults", "0", "0")
    table.add_section()
    table.add_row("seen", f"{sums.seen.packets:,}", f"{sums.seen.octets:,}")
    out.print(table)
    out.print(Text(f"{identity_text(holds)}; lost {lost:,}"))


def bucket_cells(bucket: Bucket) -> tuple[str, str, str]:
    """A bucket's name, packets and octets."""
    sign = "−" if bucket.sign < 0 and bucket.volume.packets else ""
    name = bucket.name.replace("non_ip", "non-IP").replace("_", " ").replace(":", ": ")
    return name, f"{sign}{bucket.volume.packets:,}", f"{sign}{bucket.volume.octets:,}"


def identity_text(holds: bool) -> str:
    """Whether the buckets add up."""
    verdict = "the buckets add up to what was seen" if holds else (
        "THE BUCKETS DO NOT ADD UP TO WHAT WAS SEEN")
    return f"identity: {verdict}"


def notes(sums: Sums) -> Iterator[str]:
    """What is seldom, only where there is some: a line each."""
    if sums.tunnel_overhead_octets:
        yield f"tunnel overhead: {sums.tunnel_overhead_octets:,} octets, on no bill"
    if sums.coalesced.packets:
        yield f"coalesced: {sums.coalesced.packets:,} packets metered as captured"
    if sums.mismatch.packets:
        yield (f"mismatch: {sums.mismatch.packets:,} packets claim a sponsor that their server "
               "contradicts; subscribers pay")
    if sums.overlapping.packets:
        yield (f"overlapping: {sums.overlapping.packets:,} fragments bring what their datagram "
               "had already")
    if sums.untracked.packets:
        yield (f"untracked: {sums.untracked.packets:,} packets are metered by what they say "
               "themselves: too many fragments or flows at a time")
    if sums.suspicious.packets:
        yield (f"suspicious: {sums.suspicious.packets:,} packets bring other content for what was "
               "sent before; subscribers pay")
    if sums.unsolicited.packets:
        yield (f"unsolicited: {sums.unsolicited.packets:,} packets, "
               f"{sums.unsolicited.octets:,} octets, came to subscribers who said nothing in "
               "their flows")
    for reason, volume in sorted(sums.refused_tokens.items()):
        if volume.packets:
            yield (f"refused token: {volume.packets:,} packets carry one that opens nothing: "
                   f"{reason.replace('_', ' ')}")


def _print_notes(sums: Sums, out: Console) -> None:
    for note in notes(sums):
        out.print(Text(note))


def receipt_text(receipt: Receipt) -> str:
    """What the ledger did with a run."""
    booked = f"{receipt.booked_at:%Y-%m-%d %H:%M:%S} UTC"
    if not receipt.booked:
        return f"already booked on {booked}: nothing changed"
    return (f"booked {receipt.records:,} records and {receipt.charges:,} charges as "
            f"transaction {receipt.transaction}")


def print_statement(found: Statement, stream: IO[str]) -> None:
    """Print usage by day and rule, charges by day, and how the balances moved."""
    out = console(stream)
    whose = found.account or "all payers"
    out.print(Text(f"Statement of {whose}, {found.period or 'all time'}, days of {found.zone}\n"))
    sources = {key: f"S{number}" for number, key in enumerate(found.origins, 1)}
    usage = grid("Usage", ("day", "rule", "octets", "subscriber", "sponsors", "paid for",
                           "records"), (2, 3, 4, 5))  # fmt: skip
    for line in found.usage:
        octets = line.uplink_octets + line.downlink_octets
        usage.add_row(
            str(line.day), line.rule or "-", f"{octets:,}", f"{line.subscriber_octets:,}",
            f"{octets - line.subscriber_octets:,}", f"{line.paid_octets:,}",
            "\n".join(origin_text(origin, sources) for origin in line.origins))  # fmt: skip
    usage.add_section()
    total = found.uplink_octets + found.downlink_octets
    usage.add_row("total", "", f"{total:,}", f"{found.subscriber_octets:,}",
                  f"{total - found.subscriber_octets:,}", f"{found.paid_octets:,}")
    out.print(usage)
    _print_split(found, out)
    if found.charges:
        charges = grid("Charges", ("day", "tariff", "octets", "rated octets", "amount"), (2, 3, 4))
        for charge in found.charges:
            charges.add_row(str(charge.day), charge.tariff, f"{charge.octets:,}",
                            f"{charge.rated_octets:,}",
                            money(charge.amount_micros, charge.currency))
        charges.add_section()
        for currency, amount in found.charged_micros.items():
            charges.add_row("total", "", "", "", money(amount, currency))
        out.print(charges)
    if found.taxes:
        taxes = grid("Taxes", ("day", "tax", "amount"), (2,))
        for tax in found.taxes:
            taxes.add_row(str(tax.day), tax.tax, money(tax.amount_micros, tax.currency))
        taxes.add_section()
        for currency, amount in found.tax_micros.items():
            taxes.add_row("total", "", money(amount, currency))
        out.print(taxes)
    if found.entries:
        entries = grid("Other entries", ("booked", "what", "amount"), (2,))
        for entry in found.entries:
            entries.add_row(f"{entry.at:%Y-%m-%d %H:%M}", entry.description,
                            quantity(entry.amount, entry.unit))
        out.print(entries)
    moved = grid("Balance", ("unit", "opening", "closing"), (1, 2))
    for unit, opening in found.opening.items():
        moved.add_row(unit.partition("/")[0], quantity(opening, unit),
                      quantity(found.closing[unit], unit))
    out.print(moved)
    if found.records is not None:
        _print_records(found.records, sources, out)
    for (source, epoch), name in sources.items():
        out.print(Text(f"{name}: epoch {epoch} of {source}"))


def origin_text(origin: Origin, sources: Mapping[tuple[str, str], str]) -> str:
    """Where records are: "S1 0–41", with how many of these they are."""
    first, last = origin.first_sequence, origin.last_sequence
    name = sources[origin.source, origin.epoch]
    if origin.records == 1:
        return f"{name} {first}"
    all_of_them = origin.records == last - first + 1
    return f"{name} {first}–{last}" + ("" if all_of_them else f" ({origin.records})")


def _print_split(found: Statement, out: Console) -> None:
    whole = found.uplink_octets + found.downlink_octets
    split = grid("Who pays", ("payer", "octets", "size", "share"), (1, 2, 3))
    payers = [("subscribers", found.subscriber_octets)]
    payers += [(f"sponsor {name}", octets) for name, octets in found.sponsor_octets.items()]
    for name, octets in payers:
        share = f"{100 * octets / whole:.1f} %" if whole else "-"
        split.add_row(name, f"{octets:,}", size(octets), share)
    out.print(split)


def _print_records(
    records: Sequence[RecordLine], sources: Mapping[tuple[str, str], str], out: Console
) -> None:
    table = grid("Records", ("day", "rule", "record", "subscriber", "octets", "paid for"), (4, 5))
    for line in records:
        record = line.record
        name = f"{sources[record.source, record.epoch]} {record.sequence}"
        table.add_row(str(line.day), record.rule or "-", name, record.subscriber,
                      f"{record.octets:,}", f"{line.paid_octets:,}")  # fmt: skip
    out.print(table)


def print_balances(balances: Sequence[Balance], stream: IO[str]) -> None:
    """Print every account with what it holds."""
    out = console(stream)
    table = grid("Balances", ("account", "kind", "balance"), (2,))
    for balance in balances:
        table.add_row(balance.account, balance.kind, quantity(balance.balance, balance.unit))
    out.print(table)


def print_explanation(found: Explanation, stream: IO[str]) -> None:
    """Print one packet's fields, and each side's rules, verdict and split."""
    out = console(stream)
    said = "  ".join(f"{name} {text}" for name, text in found.fields)
    out.print(Text(f"packet {found.number:,}: {found.bucket.replace('_', ' ')}\n{said}\n"))
    for side in found.sides:
        held_by = "" if side.account == side.subscriber else f" (account {side.account})"
        title = f"{side.direction} of {side.subscriber}{held_by}"
        table = grid(title, ("rule", "condition", "expected", "found", "holds"), ())
        for judgement in side.judgements:
            shown = judgement.rule.id
            for condition in judgement.conditions:
                table.add_row(shown, condition.name, condition.expected, condition.found,
                              "yes" if condition.holds else "no")
                shown = ""
            if not judgement.conditions:
                table.add_row(shown, "none", "", "", "yes")
            if judgement.rule == side.rule:
                break
        out.print(table)
        _print_side(side, out)
        if yet := [judged.rule.id for judged in side.judgements
                   if judged.may_hold_yet and (
                       side.rule is None or judged.rule.precedence < side.rule.precedence)]:
            out.print(Text(f"unless its flow brings within 10 s what {', '.join(yet)} asks for: "
                           "what comes after the packet is not looked at"))


def _print_side(side: Side, out: Console) -> None:
    if side.rule is None:
        why = "; a claim was contradicted by its server (mismatch)" if side.mismatch else (
            "; it brings other content for what was sent before (suspicious)" if (
                side.suspicious) else "")
        out.print(Text(f"no rule matches{why}: the subscriber pays {side.octets:,} octets"))
        return
    out.print(Text(f"{side.rule.id} wins, precedence {side.rule.precedence}"))
    if side.rule.splits:
        after = side.before + side.octets
        out.print(Text(f"running total per {side.rule.per}: {side.before:,} → {after:,} octets"))
    for sponsor, octets in side.sponsor_octets:
        out.print(Text(f"  {sponsor} pays {octets:,}"))
    out.print(Text(f"  the subscriber pays {side.subscriber_octets:,}"))
