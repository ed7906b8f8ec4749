"""A statement as a page to print: one file, without scripts or anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .amount import money, quantity, size
from .plot import plot
from .table import origin_text

if TYPE_CHECKING:
    from ..ledger import BookedCharge, RecordLine, Statement

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --paper: #ffffff; --wash: #f5f7f9; --own: #2463a8; --sponsors: #d98324; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1;
  --line: #3a424c; --paper: #16191d; --wash: #20252b; --own: #6ea8e6; --sponsors: #e9a35a; } }
* { box-sizing: border-box; }
body { margin: 2.5rem auto; padding: 0 1rem; max-width: 66rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
header { border-bottom: 2px solid var(--ink); padding-bottom: .9rem; margin-bottom: 1.4rem; }
header p { margin: 0; color: var(--soft); }
h1 { margin: .1rem 0 .3rem; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; font-size: 1.05rem; break-after: avoid; }
dl { display: flex; flex-wrap: wrap; gap: .9rem 2.6rem; margin: 0; }
dl div { min-width: 8rem; }
dt { color: var(--soft); font-size: .82rem; }
dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .82rem; color: var(--soft); }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .78rem; }
th { text-align: left; font-weight: 600; font-size: .76rem; line-height: 1.25; color: var(--soft);
  border-bottom: 1px solid var(--ink); vertical-align: bottom; }
th, td { padding: .28rem .36rem; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
td.text { min-width: 5rem; max-width: 16rem; overflow-wrap: break-word; }
td.key { color: var(--soft); font-size: .76rem; white-space: nowrap; }
.n { text-align: right; }
td.n { white-space: nowrap; }
.day { white-space: nowrap; }
tfoot td { font-weight: 600; border-bottom: 0; border-top: 1px solid var(--ink); }
thead { display: table-header-group; }
tfoot { display: table-row-group; }
tr { break-inside: avoid; }
figure { margin: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
.own { fill: var(--own); } .sponsors { fill: var(--sponsors); }
.grid { stroke: var(--line); } .axis { stroke: var(--ink); }
figcaption { color: var(--soft); font-size: .82rem; margin-top: .3rem; }
figcaption i { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 0; }
figcaption span { margin-right: 1.4em; }
i.own { background: var(--own); } i.sponsors { background: var(--sponsors); }
footer { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: .7rem;
  color: var(--soft); font-size: .82rem; }
footer p { margin: .25rem 0; overflow-wrap: anywhere; }
@page { size: A4; margin: 16mm 14mm;
  @bottom-right { content: counter(page) " / " counter(pages); font: 8pt sans-serif; } }
@media print { :root { color-scheme: light; }
  body { margin: 0; padding: 0; max-width: none; font-size: 9pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h1 { font-size: 17pt; } dd { font-size: 12pt; } th, td { padding: 1mm 1.2mm; }
  table { font-size: 8.5pt; } th, td.key { font-size: 7.5pt; } td.text { min-width: 18mm; }
  .wide { overflow: visible; } }
"""


def page(found: Statement) -> str:
    """The page's text; the same statement gives the same page."""
    sources = {key: f"S{number}" for number, key in enumerate(found.origins, 1)}
    title = f"Statement: {found.account or 'all payers'}, {_period(found)}"
    parts = [
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        'style-src \'unsafe-inline\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", "</head>", "<body>",
        *_header(found), *_plot(found), *_usage(found, sources), *_split(found), *_charges(found),
        *_taxes(found), *_entries(found), *_balances(found), *_records(found, sources),
        *_charge_records(found.charge_records), *_footer(found, sources), "</body>", "</html>", "",
    ]  # fmt: skip
    return "\n".join(parts)


def _period(found: Statement) -> str:
    return found.period or "all time"


def _header(found: Statement) -> Iterator[str]:
    yield "<header>"
    yield f"<p>Statement, {escape(_period(found))}, days of {escape(found.zone)}</p>"
    yield f"<h1><bdi>{escape(found.account or 'All payers')}</bdi></h1>"
    yield "<dl>"
    total = found.uplink_octets + found.downlink_octets
    yield _fact("Traffic", size(total), f"{total:,} octets")
    yield _fact(_own(found), size(found.paid_octets), f"{found.paid_octets:,} octets")
    for currency, amount in found.charged_micros.items():
        taxes = found.tax_micros.get(currency, 0)
        small = f"and {money(taxes, currency)} of taxes" if taxes else ""
        yield _fact(f"Charged, {currency}", money(amount, currency), small)
    for unit, closing in found.closing.items():
        currency, slash, _ = unit.partition("/")
        if slash:
            yield _fact(f"Closing balance, {currency}", quantity(closing, unit), "")
    yield "</dl>"
    yield "</header>"


def _own(found: Statement) -> str:
    """What the statement's own part is called."""
    return "All payers" if found.account is None else "This account pays"


def _fact(name: str, value: str, small: str) -> str:
    more = f"<small>{escape(small)}</small>" if small else ""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{more}</dd></div>"


def _plot(found: Statement) -> Iterator[str]:
    drawn = plot(found)
    if drawn is not None:
        yield f"<h2>{escape(drawn.title)}</h2>"
        yield f"<figure>{drawn.svg}<figcaption>"
        yield '<span><i class="own"></i>subscribers pay</span>'
        yield '<span><i class="sponsors"></i>sponsors pay</span></figcaption></figure>'


def _usage(found: Statement, sources: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield "<h2>Usage</h2>"
    if not found.usage:
        yield "<p>No traffic in this period.</p>"
        return
    rows = [
        (
            _day(line.day), _text(line.rule or "no rule"), _number(line.uplink_octets),
            _number(line.downlink_octets), _number(line.uplink_octets + line.downlink_octets),
            _number(line.subscriber_octets), _number(sum(line.sponsor_octets.values())),
            _number(line.paid_octets),
            _key("<br>".join(escape(origin_text(origin, sources)) for origin in line.origins)),
        )
        for line in found.usage
    ]  # fmt: skip
    total = found.uplink_octets + found.downlink_octets
    foot = (
        _text("Total"), _text(""), _number(found.uplink_octets), _number(found.downlink_octets),
        _number(total), _number(found.subscriber_octets),
        _number(sum(found.sponsor_octets.values())), _number(found.paid_octets), _text(""),
    )  # fmt: skip
    yield from _table(
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
    yield from _table(
        ("Payer", ">Octets", ">Size", ">Share"),
        [(_text(name), _number(octets), _numeric(size(octets)),
          _numeric(f"{100 * octets / whole:.1f} %")) for name, octets in payers],
        [(_text("Total"), _number(whole), _numeric(size(whole)), _numeric("100.0 %"))],
    )  # fmt: skip


def _charges(found: Statement) -> Iterator[str]:
    if not found.charges:
        return
    yield "<h2>Charges</h2>"
    rows = []
    for line in found.charges:
        first, last = line.first_transaction, line.last_transaction
        rows.append((
            _day(line.day), _text(line.tariff), _number(line.charges), _number(line.octets),
            _number(line.rated_octets), _numeric(money(line.amount_micros, line.currency)),
            _key(f"{first}" if first == last else f"{first}–{last}"),
        ))  # fmt: skip
    foot = [
        (_text("Total"), *[_text("")] * 4, _numeric(money(amount, currency)), _text(""))
        for currency, amount in found.charged_micros.items()
    ]
    yield from _table(
        ("Day", "Tariff", ">Charges", ">Octets", ">Rated octets", ">Amount", "Transaction"),
        rows, foot,
    )  # fmt: skip


def _taxes(found: Statement) -> Iterator[str]:
    if not found.taxes:
        return
    yield "<h2>Taxes</h2>"
    yield from _table(
        ("Day", "Tax", ">Amount"),
        [(_day(line.day), _text(line.tax), _numeric(money(line.amount_micros, line.currency)))
         for line in found.taxes],
        [(_text("Total"), _text(""), _numeric(money(amount, currency)))
         for currency, amount in found.tax_micros.items()],
    )  # fmt: skip


def _entries(found: Statement) -> Iterator[str]:
    if not found.entries:
        return
    yield "<h2>Other entries</h2>"
    yield from _table(
        ("Booked (UTC)", "What", ">Amount", "Transaction"),
        [(_key(f"{entry.at:%Y-%m-%d %H:%M:%S}"), _text(entry.description),
          _numeric(quantity(entry.amount, entry.unit)), _key(str(entry.transaction)))
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
            _text(currency), *(_numeric(quantity(amount, unit))
                               for amount in (opening, -used, entered, found.closing[unit])),
        ))  # fmt: skip
    yield from _table(
        ("Unit", ">Opening", ">Used, charged, taxed", ">Other entries", ">Closing"), rows)


def _records(found: Statement, sources: Mapping[tuple[str, str], str]) -> Iterator[str]:
    if not found.records:
        return
    yield "<h2>Records</h2>"
    yield from _table(
        ("Day", "Rule", "Record", "Window (UTC)", "Subscriber", ">Uplink", ">Downlink",
         f">{_own(found)}"),
        [(_day(line.day), _text(line.record.rule or "no rule"),
          _key(f"{sources[line.record.source, line.record.epoch]} {line.record.sequence}"),
          _key(_window(line)), _text(line.record.subscriber), _number(line.record.uplink_octets),
          _number(line.record.downlink_octets), _number(line.paid_octets))
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
            _day(day), _text(charge.tariff),
            _key(f"transaction {booked.transaction}, charge {booked.ordinal}"),
            _number(charge.octets), _number(charge.rated_octets),
            _numeric(money(charge.amount_micros, charge.currency)),
            *((_numeric(taxes),) if taxed else ()),
        ))  # fmt: skip
    yield from _table(
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


# --- cells ---------------------------------------------------------------------------------


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], foot: Iterable[Sequence[str]] = ()
) -> Iterator[str]:
    """A table of cells that are HTML already; ">" marks the heads of numbers."""
    yield '<div class="wide"><table>'
    cells = (
        f'<th class="n">{escape(name[1:])}</th>' if name.startswith(">")
        else f"<th>{escape(name)}</th>" for name in head
    )  # fmt: skip
    yield f"<thead><tr>{''.join(cells)}</tr></thead>"
    yield "<tbody>"
    for row in rows:
        yield f"<tr>{''.join(row)}</tr>"
    yield "</tbody>"
    below = [f"<tr>{''.join(row)}</tr>" for row in foot]
    if below:
        yield f"<tfoot>{''.join(below)}</tfoot>"
    yield "</table></div>"


def _text(text: str) -> str:
    return f'<td class="text"><bdi>{escape(text)}</bdi></td>' if text else "<td></td>"


def _day(day: object) -> str:
    return f'<td class="day">{escape(str(day))}</td>'


def _number(number: int) -> str:
    return _numeric(f"{number:,}")


def _numeric(text: str) -> str:
    return f'<td class="n">{escape(text)}</td>'


def _key(html: str) -> str:
    return f'<td class="key">{html}</td>'
