"""A statement as a page to print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from html import escape
from typing import TYPE_CHECKING

from .amount import money, quantity, size
from .page import (
    day_cell,
    fact,
    key_cell,
    number_cell,
    numeric_cell,
    page,
    table,
    text_cell,
    wide,
)
from .plot import Column, Series, stacked
from .table import origin_text

if TYPE_CHECKING:
    from ..ledger import BookedCharge, RecordLine, Statement

_DAYS_MAX = 124  # more columns than this could not be told apart: months then
_SERIES = (Series("subscribers", "own"), Series("sponsors", "sponsors"))


def statement_page(found: Statement) -> str:
    """The page's text; the same statement gives the same page."""
    sources = {key: f"S{number}" for number, key in enumerate(found.origins, 1)}
    return page(f"Statement: {found.account or 'all payers'}, {_period(found)}", [
        *_header(found), *_plot(found), *_usage(found, sources), *_split(found), *_charges(found),
        *_taxes(found), *_entries(found), *_balances(found), *_records(found, sources),
        *_charge_records(found.charge_records), *_footer(found, sources),
    ])  # fmt: skip


def _period(found: Statement) -> str:
    return found.period or "all time"


def _header(found: Statement) -> Iterator[str]:
    yield "<header>"
    yield f"<p>Statement, {escape(_period(found))}, days of {escape(found.zone)}</p>"
    yield f"<h1><bdi>{escape(found.account or 'All payers')}</bdi></h1>"
    yield "<dl>"
    total = found.uplink_octets + found.downlink_octets
    yield fact("Traffic", size(total), f"{total:,} octets")
    yield fact(_own(found), size(found.paid_octets), f"{found.paid_octets:,} octets")
    for currency, amount in found.charged_micros.items():
        taxes = found.tax_micros.get(currency, 0)
        small = f"and {money(taxes, currency)} of taxes" if taxes else ""
        yield fact(f"Charged, {currency}", money(amount, currency), small)
    for unit, closing in found.closing.items():
        currency, slash, _ = unit.partition("/")
        if slash:
            yield fact(f"Closing balance, {currency}", quantity(closing, unit), "")
    yield "</dl>"
    yield "</header>"


def _own(found: Statement) -> str:
    """What the statement's own part is called."""
    return "All payers" if found.account is None else "This account pays"


def _plot(found: Statement) -> Iterator[str]:
    if not found.usage:
        return
    title, columns = columns_of(found)
    yield f"<h2>{escape(title)}</h2>"
    yield f"<figure>{wide(title)}{stacked(title, _SERIES, columns)}</div><figcaption>"
    yield '<span><i class="own"></i>subscribers pay</span>'
    yield '<span><i class="sponsors"></i>sponsors pay</span></figcaption></figure>'


def columns_of(found: Statement) -> tuple[str, list[Column]]:
    """Octets by day or month, as the drawing has them, and its title."""
    days = _days(found)
    by_month = len(days) > _DAYS_MAX
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for date_ in days:
        sums[_label(date_, by_month)]  # days without traffic have a place, too
    for line in found.usage:
        column = sums[_label(line.day, by_month)]
        column[0] += line.subscriber_octets
        column[1] += sum(line.sponsor_octets.values())
    span = f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"Octets by {'month' if by_month else 'day'}, {span}", [
        Column(label, label if by_month else label[5:], octets) for label, octets in sums.items()]


def _days(found: Statement) -> list[date]:
    """Every day of the period, or from the first with traffic to the last."""
    first, last = found.usage[0].day, found.usage[-1].day
    if found.start is not None and found.end is not None:
        first, last = found.start.date(), found.end.date() - timedelta(days=1)
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _label(day: date, by_month: bool) -> str:
    return f"{day:%Y-%m}" if by_month else str(day)


def _usage(found: Statement, sources: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield "<h2>Usage</h2>"
    if not found.usage:
        yield "<p>No traffic in this period.</p>"
        return
    rows = [
        (
            day_cell(line.day), text_cell(line.rule or "no rule"),
            *map(number_cell, (
                line.uplink_octets, line.downlink_octets, line.uplink_octets + line.downlink_octets,
                line.subscriber_octets, sum(line.sponsor_octets.values()), line.paid_octets)),
            key_cell("<br>".join(escape(origin_text(origin, sources)) for origin in line.origins)),
        )
        for line in found.usage
    ]  # fmt: skip
    total = found.uplink_octets + found.downlink_octets
    foot = (
        text_cell("Total"), text_cell(""),
        *map(number_cell, (
            found.uplink_octets, found.downlink_octets, total, found.subscriber_octets,
            sum(found.sponsor_octets.values()), found.paid_octets)),
        text_cell(""),
    )  # fmt: skip
    yield from table(
        "Usage",
        ("Day", "Rule", ">Uplink", ">Downlink", ">Octets", ">Subscribers pay", ">Sponsors pay",
         f">{_own(found)}", "Records"), rows, [foot],
    )  # fmt: skip


def _split(found: Statement) -> Iterator[str]:
    whole = found.uplink_octets + found.downlink_octets
    if not whole:
        return
    payers = [("Subscribers", found.subscriber_octets)]
    payers += [(f"Sponsor {name}", octets) for name, octets in found.sponsor_octets.items()]
    yield "<h2>Who pays</h2>"
    yield from table(
        "Who pays",
        ("Payer", ">Octets", ">Size", ">Share"),
        [(text_cell(name), number_cell(octets), numeric_cell(size(octets)),
          numeric_cell(f"{100 * octets / whole:.1f} %")) for name, octets in payers],
        [(text_cell("Total"), number_cell(whole), numeric_cell(size(whole)),
          numeric_cell("100.0 %"))],
    )  # fmt: skip


def _charges(found: Statement) -> Iterator[str]:
    if not found.charges:
        return
    yield "<h2>Charges</h2>"
    rows = []
    for line in found.charges:
        first, last = line.first_transaction, line.last_transaction
        rows.append((
            day_cell(line.day), text_cell(line.tariff),
            *map(number_cell, (line.charges, line.octets, line.rated_octets)),
            numeric_cell(money(line.amount_micros, line.currency)),
            key_cell(f"{first}" if first == last else f"{first}–{last}"),
        ))  # fmt: skip
    foot = [
        (text_cell("Total"), *[text_cell("")] * 4, numeric_cell(money(amount, currency)),
         text_cell(""))
        for currency, amount in found.charged_micros.items()
    ]
    yield from table(
        "Charges",
        ("Day", "Tariff", ">Charges", ">Octets", ">Rated octets", ">Amount", "Transaction"),
        rows, foot,
    )  # fmt: skip


def _taxes(found: Statement) -> Iterator[str]:
    if not found.taxes:
        return
    yield "<h2>Taxes</h2>"
    yield from table(
        "Taxes",
        ("Day", "Tax", ">Amount"),
        [(day_cell(line.day), text_cell(line.tax),
          numeric_cell(money(line.amount_micros, line.currency)))
         for line in found.taxes],
        [(text_cell("Total"), text_cell(""), numeric_cell(money(amount, currency)))
         for currency, amount in found.tax_micros.items()],
    )  # fmt: skip


def _entries(found: Statement) -> Iterator[str]:
    if not found.entries:
        return
    yield "<h2>Other entries</h2>"
    yield from table(
        "Other entries",
        ("Booked (UTC)", "What", ">Amount", "Transaction"),
        [(key_cell(f"{entry.at:%Y-%m-%d %H:%M:%S}"), text_cell(entry.description),
          numeric_cell(quantity(entry.amount, entry.unit)), key_cell(str(entry.transaction)))
         for entry in found.entries],
    )  # fmt: skip


def _balances(found: Statement) -> Iterator[str]:
    """Opening, what changed it, closing: each row adds up."""
    yield "<h2>Balance</h2>"
    rows = []
    for unit, opening in found.opening.items():
        currency, slash, _ = unit.partition("/")
        charged = found.charged_micros.get(currency, 0) + found.tax_micros.get(currency, 0)
        used = charged if slash else found.paid_octets
        entered = sum(entry.amount for entry in found.entries if entry.unit == unit)
        rows.append((
            text_cell(currency), *(numeric_cell(quantity(amount, unit))
                               for amount in (opening, -used, entered, found.closing[unit])),
        ))  # fmt: skip
    yield from table(
        "Balance",
        ("Unit", ">Opening", ">Used, charged, taxed", ">Other entries", ">Closing"), rows)


def _records(found: Statement, sources: Mapping[tuple[str, str], str]) -> Iterator[str]:
    if not found.records:
        return
    yield "<h2>Records</h2>"
    yield from table(
        "Records",
        ("Day", "Rule", "Record", "Window (UTC)", "Subscriber", ">Uplink", ">Downlink",
         f">{_own(found)}"),
        [(day_cell(line.day), text_cell(line.record.rule or "no rule"),
          key_cell(f"{sources[line.record.source, line.record.epoch]} {line.record.sequence}"),
          key_cell(_window(line)), text_cell(line.record.subscriber),
          *map(number_cell, (
              line.record.uplink_octets, line.record.downlink_octets, line.paid_octets)))
         for line in found.records],
    )  # fmt: skip


def _window(line: RecordLine) -> str:
    start, end = line.record.window_start, line.record.window_end
    if start is None or end is None:
        return "the whole input"
    same = start.date() == end.date()
    return f"{start:%Y-%m-%d %H:%M} – {end:{'%H:%M' if same else '%Y-%m-%d %H:%M'}}"


def _charge_records(records: Sequence[tuple[object, BookedCharge]] | None) -> Iterator[str]:
    if not records:
        return
    yield "<h2>Charges, one by one</h2>"
    taxed = any(booked.charge.taxes for _, booked in records)
    rows = []
    for day, booked in records:
        charge = booked.charge
        taxes = money(charge.total_micros - charge.amount_micros, charge.currency)
        rows.append((
            day_cell(day), text_cell(charge.tariff),
            key_cell(f"transaction {booked.transaction}, charge {booked.ordinal}"),
            number_cell(charge.octets), number_cell(charge.rated_octets),
            numeric_cell(money(charge.amount_micros, charge.currency)),
            *((numeric_cell(taxes),) if taxed else ()),
        ))  # fmt: skip
    yield from table(
        "Charges, one by one",
        ("Day", "Tariff", "Charge", ">Octets", ">Rated octets", ">Amount",
         *((">Taxes",) if taxed else ())), rows,
    )  # fmt: skip


def _footer(found: Statement, sources: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield "<footer>"
    yield (
        "<p>Octets are whole numbers, amounts exact to the millionth. A balance falls as octets "
        "are used and money is owed. Usage counts on the day that its window begins.</p>"
    )
    if sources:
        yield "<p>Records are named by source and sequence:</p>"
    for (source, epoch), name in sources.items():
        yield f"<p>{name}: epoch {escape(epoch)} of {escape(source)}</p>"
    yield "</footer>"
