"""Statements: what an account used and owes in a period, from the rows behind its balance."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import LedgerError
from .store import OCTET, PAYERS, Row, Store, currency_of, instant_at, instant_ns, unit_of

# Since 1972 clocks everywhere are set off by whole quarters of an hour: days begin with one.
_QUARTER_NS = 900 * 1_000_000_000


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


@dataclass(frozen=True, slots=True)
class Entry:
    """A posting that is no usage and no charge of this account's own."""

    at: datetime  # UTC; when it was booked
    description: str
    unit: str
    amount: int  # + the account gains, − it loses


@dataclass(frozen=True, slots=True)
class Statement:
    """One account's period; for every unit, closing = opening − used or charged + entries.

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
    entries: tuple[Entry, ...]

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
        """By currency."""
        return _sum((line.currency, line.amount_micros) for line in self.charges)


def state(store: Store, account: str | None, period: str | None, zone: str) -> Statement:
    """The statement; see Ledger.statement."""
    calendar = _Calendar(zone, period)
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
    entries = _entries(store, account, calendar, opening)
    for unit, amount in opening.items():
        closing[unit] += amount
    for line in usage:
        closing[OCTET] -= line.paid_octets
    for charge in charges:
        closing[unit_of(charge.currency)] -= charge.amount_micros
    for entry in entries:
        closing[entry.unit] += entry.amount
    for unit in closing:
        opening.setdefault(unit, 0)
    return Statement(
        account, period, zone, start, end, dict(sorted(opening.items())),
        dict(sorted(closing.items())), usage, charges, entries,
    )  # fmt: skip


class _Calendar:
    """Days of a zone, before a period, in it and after it."""

    def __init__(self, zone: str, period: str | None) -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise LedgerError(
                f'zone: expected an IANA name as "Asia/Shanghai", got "{zone}"'
            ) from error
        first, after = _days(period)
        self.start = None if first is None else datetime.combine(first, time(), self._zone)
        self.end = None if after is None else datetime.combine(after, time(), self._zone)
        self._first, self._after = first or date.min, after or date.max
        self.day = cache(self._day)  # quarters of an hour are few

    def _day(self, quarter: int) -> date:
        return instant_at(quarter * _QUARTER_NS).astimezone(self._zone).date()

    def before(self, day: date) -> bool:
        return day < self._first

    def beyond(self, day: date) -> bool:
        return day >= self._after


def _days(period: str | None) -> tuple[date | None, date | None]:
    """The first day of a period and of what follows it."""
    if period is None:
        return None, None
    try:
        if re.fullmatch(r"\d{4}-\d{2}", period):
            first = date.fromisoformat(f"{period}-01")
            return first, (first + timedelta(days=31)).replace(day=1)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", period):
            first = date.fromisoformat(period)
            return first, first + timedelta(days=1)
    except (ValueError, OverflowError):
        pass
    raise LedgerError(
        f'period: expected a month as "2026-11" or a day as "2026-11-03", got "{period}"'
    )


def bounds_ns(period: str, zone: str) -> tuple[int, int]:
    """Start and end of a month or day of a zone, in ns. Raises LedgerError."""
    calendar = _Calendar(zone, period)
    assert calendar.start is not None and calendar.end is not None
    return instant_ns(calendar.start), instant_ns(calendar.end)


def days_of(
    period: str, zone: str
) -> tuple[datetime | None, datetime | None, Callable[[int], date]]:
    """A period's start and end, and what says on which day an instant in ns is."""
    calendar = _Calendar(zone, period)
    return calendar.start, calendar.end, lambda instant: calendar.day(instant // _QUARTER_NS)


def _usage(
    store: Store,
    account: str | None,
    calendar: _Calendar,
    opening: dict[str, int],
) -> tuple[UsageLine, ...]:
    """The lines of the period; what was used before it is taken off the opening balance."""
    counts: dict[tuple[date, str | None], Row] = {}
    sponsors: dict[tuple[date, str | None], dict[str, int]] = defaultdict(dict)
    records = "usage_records r" if account is None else _OF_ACCOUNT
    for quarter, rule, *figures in store.rows(_USAGE.format(records=records), account):
        day = calendar.day(quarter)
        if calendar.beyond(day):
            continue
        if calendar.before(day):
            opening[OCTET] -= figures[-1]
        elif (line := (day, rule)) in counts:
            counts[line] = tuple(map(sum, zip(counts[line], figures, strict=True)))
        else:
            counts[line] = tuple(figures)
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
            sponsors[line], paid,
        ))  # fmt: skip
    return tuple(lines)


def _charges(
    store: Store,
    account: str | None,
    calendar: _Calendar,
    opening: dict[str, int],
) -> tuple[ChargeLine, ...]:
    lines: dict[tuple[date, str, str], Row] = {}
    for quarter, tariff, unit, *figures in store.rows(_CHARGES, account):
        day = calendar.day(quarter)
        if calendar.beyond(day):
            continue
        if calendar.before(day):
            opening[unit] -= figures[-1]
            continue
        line = (day, tariff, currency_of(unit) or unit)
        known = lines.get(line, (0,) * len(figures))
        lines[line] = tuple(map(sum, zip(known, figures, strict=True)))
    return tuple(ChargeLine(*line, *figures) for line, figures in sorted(lines.items()))


def _entries(
    store: Store,
    account: str | None,
    calendar: _Calendar,
    opening: dict[str, int],
) -> tuple[Entry, ...]:
    start, end = calendar.start, calendar.end
    entries = []
    for at_ns, description, unit, amount in store.rows(_ENTRIES, account, *PAYERS):
        at = instant_at(at_ns)
        if end is not None and at >= end:
            continue
        if start is not None and at < start:
            opening[unit] += amount
        else:
            entries.append(Entry(at, description, unit, amount))
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
_RECORD_QUARTER = f"coalesce(r.window_start_ns, r.first_packet_ns) / {_QUARTER_NS}"
_USAGE = f"""
    SELECT {_RECORD_QUARTER} AS quarter, r.rule, count(*), sum(r.uplink_packets),
        sum(r.uplink_octets), sum(r.downlink_packets), sum(r.downlink_octets),
        sum(r.subscriber_octets),
        sum(CASE WHEN {_ITS} THEN r.subscriber_octets ELSE 0 END)
    FROM {{records}} JOIN accounts a ON a.id = r.account_id
    GROUP BY quarter, r.rule"""
_SHARES = f"""
    SELECT {_RECORD_QUARTER} AS quarter, r.rule, s.identity, sum(u.octets),
        sum(CASE WHEN {_ITS} THEN u.octets ELSE 0 END)
    FROM {{records}} JOIN usage_shares u ON u.run_id = r.run_id AND u.sequence = r.sequence
    JOIN sponsors s ON s.id = u.sponsor_id JOIN accounts a ON a.id = s.account_id
    GROUP BY quarter, r.rule, s.identity"""
_CHARGES = f"""
    SELECT coalesce(c.period_start_ns, q.first_packet_ns, t.created_at_ns) / {_QUARTER_NS}
            AS quarter,
        c.tariff, a.unit, count(*), sum(c.octets), sum(c.rated_octets), sum(c.amount_micros)
    FROM charges c JOIN accounts a ON a.id = c.account_id JOIN runs q ON q.id = c.run_id
    JOIN transactions t ON t.id = q.transaction_id
    WHERE {_ITS} GROUP BY quarter, c.tariff, a.unit"""
# A payer's postings of usage are its records and charges, and stand in their lines.
_ENTRIES = """
    SELECT t.created_at_ns, t.description, a.unit, sum(p.amount)
    FROM accounts a JOIN postings p ON p.account_id = a.id
    JOIN transactions t ON t.id = p.transaction_id
    WHERE (a.name = ?1 OR (CAST(?1 AS TEXT) IS NULL AND a.kind IN (?2, ?3)))
        AND NOT (t.kind = 'usage' AND a.kind IN (?2, ?3))
    GROUP BY t.id, a.unit ORDER BY t.created_at_ns, t.id, a.unit"""
