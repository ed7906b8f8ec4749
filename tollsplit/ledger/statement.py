"""Statements: what an account used and owes in a period, from the rows behind its balance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from operator import itemgetter

from ..errors import LedgerError
from ..model import UsageRecord
from .calendar import QUARTER_NS, Calendar
from .journal import (
    CHARGE_COLUMNS,
    RECORD_COLUMNS,
    TAXES_OF_CHARGES,
    BookedCharge,
    booked_charge,
    usage_record,
)
from .store import OCTET, PAYERS, Row, Store, currency_of, instant_at, instant_ns, unit_of

NOT_COVERED = "not covered, uncollected: "  # leads an entry's description


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a line's records are: some or all of these sequences, by (source, epoch)."""

    source: str
    epoch: str
    first_sequence: int
    last_sequence: int
    records: int


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The traffic of one day under one rule."""

    day: date
    rule: str | None
    records: int
    uplink_packets: int
    uplink_octets: int
    downlink_packets: int
    downlink_octets: int
    subscriber_octets: int
    sponsor_octets: Mapping[str, int]  # by the sponsor's identity
    paid_octets: int  # the part that the statement's account pays for
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """What one tariff cost on one day."""

    day: date
    tariff: str
    currency: str
    charges: int
    octets: int
    rated_octets: int
    amount_micros: int
    first_transaction: int = 0  # the transactions that booked them
    last_transaction: int = 0


@dataclass(frozen=True, slots=True)
class TaxLine:
    """What one tax came to on one day."""

    day: date
    tax: str
    currency: str
    amount_micros: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A posting that is no usage and no charge of this account's own; or what of these its balance
    did not cover, which the account owes as before.
    """

    at: datetime  # UTC; when it was booked
    description: str
    unit: str
    amount: int  # + the account gains, − it loses
    transaction: int = 0


@dataclass(frozen=True, slots=True)
class RecordLine:
    """One usage record behind the lines."""

    day: date
    record: UsageRecord
    paid_octets: int  # the part that the statement's account pays for


@dataclass(frozen=True, slots=True)
class Statement:
    """One account's period; for every unit, closing = opening − used, charged and taxed + entries.

    Balances fall as an account uses octets and owes money: −5,000,000 in CNY/1000000 is a debt
    of 5 CNY. Usage counts on the day that its window begins (without windows: of its first
    packet), charges on their day, entries when they were booked.
    """

    account: str | None  # None: all payers together
    period: str | None
    zone: str
    start: datetime | None
    end: datetime | None
    opening: Mapping[str, int]  # by unit
    closing: Mapping[str, int]
    usage: tuple[UsageLine, ...]
    charges: tuple[ChargeLine, ...]
    taxes: tuple[TaxLine, ...]
    entries: tuple[Entry, ...]
    records: tuple[RecordLine, ...] | None = None  # where they were asked for
    charge_records: tuple[tuple[date, BookedCharge], ...] | None = None

    @property
    def origins(self) -> tuple[tuple[str, str], ...]:
        """Every (source, epoch) that usage comes from, in order of appearance."""
        found = ((o.source, o.epoch) for line in self.usage for o in line.origins)
        return tuple(dict.fromkeys(found))

    @property
    def uplink_octets(self) -> int:
        return sum(line.uplink_octets for line in self.usage)

    @property
    def downlink_octets(self) -> int:
        return sum(line.downlink_octets for line in self.usage)

    @property
    def paid_octets(self) -> int:
        return sum(line.paid_octets for line in self.usage)

    @property
    def subscriber_octets(self) -> int:
        return sum(line.subscriber_octets for line in self.usage)

    @property
    def sponsor_octets(self) -> dict[str, int]:
        """By the sponsor's identity."""
        return _sum((s, n) for line in self.usage for s, n in line.sponsor_octets.items())

    @property
    def charged_micros(self) -> dict[str, int]:
        """By currency, without taxes."""
        return _sum((line.currency, line.amount_micros) for line in self.charges)

    @property
    def tax_micros(self) -> dict[str, int]:
        """By currency."""
        return _sum((line.currency, line.amount_micros) for line in self.taxes)


def state(
    store: Store, account: str | None, period: str | None, zone: str, *, records: bool
) -> Statement:
    """The statement; see Ledger.statement."""
    calendar = Calendar(zone, period)
    start, end = calendar.start, calendar.end
    opening: dict[str, int] = defaultdict(int)
    closing: dict[str, int] = defaultdict(int)
    if account is not None:
        for (unit,) in store.rows("SELECT unit FROM accounts WHERE name = ?", account):
            opening[unit] = closing[unit] = 0
        if not opening:
            raise LedgerError(f'{store.url}: no account "{account}"')
    usage = _usage(store, account, calendar, opening)
    charges = _charges(store, account, calendar, opening)
    taxes = _taxes(store, account, calendar, opening)
    entries = _entries(store, account, calendar, opening)
    for unit, amount in opening.items():
        closing[unit] += amount
    for line in usage:
        closing[OCTET] -= line.paid_octets
    for charge in charges:
        closing[unit_of(charge.currency)] -= charge.amount_micros
    for tax in taxes:
        closing[unit_of(tax.currency)] -= tax.amount_micros
    for entry in entries:
        closing[entry.unit] += entry.amount
    for unit in closing:
        opening.setdefault(unit, 0)
    return Statement(
        account, period, zone, start, end, dict(sorted(opening.items())),
        dict(sorted(closing.items())), usage, charges, taxes, entries,
        tuple(_records(store, account, calendar)) if records else None,
        tuple(_charge_records(store, account, calendar)) if records else None,
    )  # fmt: skip


def _usage(
    store: Store,
    account: str | None,
    calendar: Calendar,
    opening: dict[str, int],
) -> tuple[UsageLine, ...]:
    """The lines of the period; what was used before it is taken off the opening balance."""
    counts: dict[tuple[date, str | None], Row] = {}
    origins: dict[tuple[date, str | None], dict[tuple[str, str], Origin]] = defaultdict(dict)
    sponsors: dict[tuple[date, str | None], dict[str, int]] = defaultdict(dict)
    records = "usage_records r" if account is None else _OF_ACCOUNT
    for quarter, rule, source, epoch, first, last, *figures in store.rows(
        _USAGE.format(records=records), account
    ):
        day = calendar.day(quarter)
        if calendar.beyond(day):
            continue
        if calendar.before(day):
            opening[OCTET] -= figures[-1]
            continue
        line = (day, rule)
        known = counts.get(line, (0,) * len(figures))
        counts[line] = tuple(map(sum, zip(known, figures, strict=True)))
        add_origin(origins[line], Origin(source, epoch, first, last, figures[0]))
    shares = store.rows(_SHARES.format(records=records), account)
    for quarter, rule, sponsor, octets, paid in shares:
        day = calendar.day(quarter)
        if calendar.beyond(day):
            continue
        if calendar.before(day):
            opening[OCTET] -= paid
        else:
            line = (day, rule)
            sponsors[line][sponsor] = sponsors[line].get(sponsor, 0) + octets
            counts[line] = (*counts[line][:-1], counts[line][-1] + paid)
    # Traffic without a rule comes last, as its precedence does.
    order = sorted(counts, key=lambda line: (line[0], line[1] is None, line[1] or ""))
    lines = []
    for line in order:
        *figures, paid = counts[line]
        records, uplink_packets, uplink, downlink_packets, downlink, subscriber = figures
        lines.append(UsageLine(
            *line, records, uplink_packets, uplink, downlink_packets, downlink, subscriber,
            sponsors[line], paid, tuple(origins[line][key] for key in sorted(origins[line])),
        ))  # fmt: skip
    return tuple(lines)


def add_origin(origins: dict[tuple[str, str], Origin], more: Origin) -> None:
    """Add records to those of their source and epoch."""
    key = (more.source, more.epoch)
    known = origins.get(key, more)
    origins[key] = Origin(
        *key, min(known.first_sequence, more.first_sequence),
        max(known.last_sequence, more.last_sequence),
        more.records + (known.records if key in origins else 0),
    )  # fmt: skip


def _records(store: Store, account: str | None, calendar: Calendar) -> Iterator[RecordLine]:
    """The records of the period, by day and rule as their lines are, then by key."""
    which = "usage_records r" if account is None else _OF_ACCOUNT
    found = []
    rows = store.rows(_RECORDS.format(records=which), account, *calendar.bounds_ns)
    for _, lines in groupby(rows, itemgetter(0, 1)):
        shares = list(lines)
        record = usage_record(shares)
        paid = shares[0][-2] + sum(share[-1] or 0 for share in shares)
        start = record.window_start
        at_ns = record.first_packet_ns if start is None else instant_ns(start)
        found.append(RecordLine(calendar.day_of(at_ns), record, paid))
    found.sort(key=lambda line: (line.day, line.record.rule is None, line.record.rule or ""))
    yield from found


def _charge_records(
    store: Store, account: str | None, calendar: Calendar
) -> Iterator[tuple[date, BookedCharge]]:
    rows = store.rows(_CHARGE_RECORDS, account, *calendar.bounds_ns)
    found = [
        (calendar.day_of(at_ns), booked_charge([line[1:] for line in lines]))
        for (at_ns, *_), lines in groupby(rows, itemgetter(0, 1, 4))
    ]
    yield from sorted(found, key=lambda item: (item[0], item[1].charge.tariff))


def _charges(
    store: Store,
    account: str | None,
    calendar: Calendar,
    opening: dict[str, int],
) -> tuple[ChargeLine, ...]:
    lines: dict[tuple[date, str, str], Row] = {}
    transactions: dict[tuple[date, str, str], tuple[int, int]] = {}
    for quarter, tariff, unit, first, last, *figures in store.rows(_CHARGES, account):
        day = calendar.day(quarter)
        if calendar.beyond(day):
            continue
        if calendar.before(day):
            opening[unit] -= figures[-1]
            continue
        line = (day, tariff, currency_of(unit) or unit)
        known = lines.get(line, (0,) * len(figures))
        lines[line] = tuple(map(sum, zip(known, figures, strict=True)))
        before = transactions.get(line, (first, last))
        transactions[line] = min(first, before[0]), max(last, before[1])
    return tuple(
        ChargeLine(*line, *(*figures, *transactions[line]))
        for line, figures in sorted(lines.items())
    )


def _taxes(
    store: Store,
    account: str | None,
    calendar: Calendar,
    opening: dict[str, int],
) -> tuple[TaxLine, ...]:
    lines: dict[tuple[date, str, str], int] = defaultdict(int)
    for quarter, tax, unit, amount in store.rows(_TAXES, account):
        day = calendar.day(quarter)
        if calendar.before(day):
            opening[unit] -= amount
        elif not calendar.beyond(day):
            lines[day, tax, currency_of(unit) or unit] += amount
    return tuple(TaxLine(*line, amount) for line, amount in sorted(lines.items()))


def _entries(
    store: Store,
    account: str | None,
    calendar: Calendar,
    opening: dict[str, int],
) -> tuple[Entry, ...]:
    start, end = calendar.start, calendar.end
    entries = []
    for number, at_ns, description, unit, amount in store.rows(_ENTRIES, account, *PAYERS):
        at = instant_at(at_ns)
        if end is not None and at >= end:
            continue
        if start is not None and at < start:
            opening[unit] += amount
        else:
            entries.append(Entry(at, description, unit, amount, number))
    return tuple(entries)


def _sum(items: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for key, amount in items:
        total[key] = total.get(key, 0) + amount
    return total


# Records of an account's own, and records that it sponsors.
_OF_ACCOUNT = """(
        SELECT o.run_id, o.sequence FROM usage_records o
        JOIN accounts a ON a.id = o.account_id WHERE a.name = ?1
        UNION
        SELECT u.run_id, u.sequence FROM usage_shares u
        JOIN sponsors s ON s.id = u.sponsor_id JOIN accounts a ON a.id = s.account_id
        WHERE a.name = ?1
    ) k JOIN usage_records r ON r.run_id = k.run_id AND r.sequence = k.sequence"""
# All of them, or the statement's.
_ITS = "(CAST(?1 AS TEXT) IS NULL OR a.name = ?1)"
# The instant that a record counts at, in quarters of an hour.
_RECORD_QUARTER = f"coalesce(r.window_start_ns, r.first_packet_ns) / {QUARTER_NS}"
_USAGE = f"""
    SELECT {_RECORD_QUARTER} AS quarter, r.rule, q.source, q.epoch, min(r.sequence),
        max(r.sequence), count(*), sum(r.uplink_packets), sum(r.uplink_octets),
        sum(r.downlink_packets), sum(r.downlink_octets), sum(r.subscriber_octets),
        sum(CASE WHEN {_ITS} THEN r.subscriber_octets ELSE 0 END)
    FROM {{records}} JOIN accounts a ON a.id = r.account_id JOIN runs q ON q.id = r.run_id
    GROUP BY quarter, r.rule, q.source, q.epoch"""
_SHARES = f"""
    SELECT {_RECORD_QUARTER} AS quarter, r.rule, s.identity, sum(u.octets),
        sum(CASE WHEN {_ITS} THEN u.octets ELSE 0 END)
    FROM {{records}} JOIN usage_shares u ON u.run_id = r.run_id AND u.sequence = r.sequence
    JOIN sponsors s ON s.id = u.sponsor_id JOIN accounts a ON a.id = s.account_id
    GROUP BY quarter, r.rule, s.identity"""
_CHARGE_AT = "coalesce(c.period_start_ns, q.first_packet_ns, t.created_at_ns)"
_CHARGES = f"""
    SELECT {_CHARGE_AT} / {QUARTER_NS} AS quarter, c.tariff, a.unit, min(t.id), max(t.id),
        count(*), sum(c.octets), sum(c.rated_octets), sum(c.amount_micros)
    FROM charges c JOIN accounts a ON a.id = c.account_id JOIN runs q ON q.id = c.run_id
    JOIN transactions t ON t.id = q.transaction_id
    WHERE {_ITS} GROUP BY quarter, c.tariff, a.unit"""
_TAXES = f"""
    SELECT {_CHARGE_AT} / {QUARTER_NS} AS quarter, x.tax, a.unit, sum(x.amount_micros)
    FROM charge_taxes x JOIN charges c ON c.run_id = x.run_id AND c.ordinal = x.ordinal
    JOIN accounts a ON a.id = c.account_id JOIN runs q ON q.id = c.run_id
    JOIN transactions t ON t.id = q.transaction_id
    WHERE {_ITS} GROUP BY quarter, x.tax, a.unit"""
_RECORDS = f"""
    SELECT {RECORD_COLUMNS}, s.identity, u.octets,
        CASE WHEN {_ITS} THEN r.subscriber_octets ELSE 0 END,
        CASE WHEN CAST(?1 AS TEXT) IS NULL OR b.name = ?1 THEN u.octets ELSE 0 END
    FROM {{records}} JOIN runs q ON q.id = r.run_id JOIN accounts a ON a.id = r.account_id
    LEFT JOIN usage_shares u ON u.run_id = r.run_id AND u.sequence = r.sequence
    LEFT JOIN sponsors s ON s.id = u.sponsor_id LEFT JOIN accounts b ON b.id = s.account_id
    WHERE coalesce(r.window_start_ns, r.first_packet_ns) >= ?2
        AND coalesce(r.window_start_ns, r.first_packet_ns) < ?3
    ORDER BY r.run_id, r.sequence, u.sponsor_id"""
_CHARGE_RECORDS = f"""
    SELECT {_CHARGE_AT}, {CHARGE_COLUMNS}
    FROM charges c JOIN runs q ON q.id = c.run_id JOIN accounts a ON a.id = c.account_id
    JOIN transactions t ON t.id = q.transaction_id
    {TAXES_OF_CHARGES}
    WHERE {_CHARGE_AT} >= ?2 AND {_CHARGE_AT} < ?3 AND {_ITS}
    ORDER BY c.run_id, c.ordinal, x.tax"""
# A payer's postings of usage are its records, charges and taxes, and stand in their lines; what it
# could not pay of them was posted elsewhere.
_ENTRIES = f"""
    SELECT id, at_ns, description, unit, amount FROM (
        SELECT t.created_at_ns AS at_ns, t.id, t.description, a.unit, sum(p.amount) AS amount
        FROM accounts a JOIN postings p ON p.account_id = a.id
        JOIN transactions t ON t.id = p.transaction_id
        WHERE (a.name = ?1 OR (CAST(?1 AS TEXT) IS NULL AND a.kind IN (?2, ?3)))
            AND NOT (t.kind = 'usage' AND a.kind IN (?2, ?3))
        GROUP BY t.id, a.unit
        UNION ALL
        SELECT t.created_at_ns, t.id, '{NOT_COVERED}' || t.description, a.unit,
            sum(u.amount)
        FROM uncollected u JOIN accounts a ON a.id = u.account_id JOIN runs q ON q.id = u.run_id
        JOIN transactions t ON t.id = q.transaction_id
        WHERE {_ITS}
        GROUP BY t.id, a.unit
    ) x ORDER BY at_ns, id, unit, description"""
