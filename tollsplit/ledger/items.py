"""What a period holds of each account: its items, a line each, and the leaf that sums them up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from operator import itemgetter

from .store import Row, Store, compact

LEAF = "tollsplit.leaf/1"
# (account, link, kind of line, place among its like, line): sorts as items are listed.
_Line = tuple[str, int, int, object, object]
_BALANCE, _POSTING, _RECORD, _CHARGE, _TAX, _UNCOLLECTED = range(6)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One account's period."""

    account: str
    units: tuple[tuple[str, int, int], ...]  # unit, opening and closing balance, by unit
    items: int
    digest: str  # SHA-256 over the items' lines, hexadecimal

    @property
    def text(self) -> str:
        return compact((LEAF, self.account, self.units, self.items, self.digest))


def digest_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 over lines, each ended by a line feed."""
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\n".encode())
    return found.hexdigest()


def leaves(store: Store, first: int, last: int) -> Iterator[Leaf]:
    """The leaf of every account with a posting up to the last link, or with an item between the
    first and the last, by name.
    """
    for account, lines in groupby(_lines(store, first, last, None), itemgetter(0)):
        yield _leaf(account, lines, [])


def leaf_of(store: Store, first: int, last: int, account: str) -> tuple[Leaf, list[str]]:
    """One account's leaf, and the lines of its items."""
    found: list[str] = []
    leaf = _leaf(account, _lines(store, first, last, account), found)
    return leaf, found


def _leaf(account: str, lines: Iterable[_Line], kept: list[str]) -> Leaf:
    units: list[tuple[str, int, int]] = []
    kept.clear()
    for _, _, kind, _, content in lines:
        if kind == _BALANCE:
            units.append(content)  # type: ignore[arg-type]
        else:
            kept.append(compact(content))
    return Leaf(account, tuple(units), len(kept), digest_of_lines(kept))


def _lines(store: Store, first: int, last: int, account: str | None) -> Iterator[_Line]:
    """Balances and items of all accounts or one, as they are listed."""
    bounds = first, last, account
    yield from merge(
        _balances(store.rows(_BALANCES, *bounds)), _postings(store.rows(_POSTINGS, *bounds)),
        _records(store.rows(_RECORDS, *bounds)), _charges(store.rows(_CHARGES, *bounds)),
        _taxes(store.rows(_TAXES, *bounds)), _uncollected(store.rows(_UNCOLLECTED_ROWS, *bounds)),
        key=itemgetter(slice(0, 4)),
    )  # fmt: skip


def _balances(rows: Iterable[Row]) -> Iterator[_Line]:
    for name, unit, opening, closing in rows:
        yield name, 0, _BALANCE, unit, (unit, opening, closing)


def _postings(rows: Iterable[Row]) -> Iterator[_Line]:
    for name, link, *columns in rows:
        yield name, link, _POSTING, columns[-2], ("posting", link, *columns)


def _records(rows: Iterable[Row]) -> Iterator[_Line]:
    """Rows of one record, one for each of its shares, become one line."""
    for (name, link, sequence), group in groupby(rows, itemgetter(0, 1, 4)):
        shares = list(group)
        *columns, own = shares[0][2:-6]
        octets = [(row[-6], row[-5]) for row in shares if row[-6] is not None]
        paid = own + sum(row[-4] for row in shares)
        yield name, link, _RECORD, sequence, (
            "record", link, *columns, octets, paid, *shares[0][-3:],
        )  # fmt: skip


def _charges(rows: Iterable[Row]) -> Iterator[_Line]:
    for name, link, *columns in rows:
        yield name, link, _CHARGE, columns[1], ("charge", link, *columns)


def _taxes(rows: Iterable[Row]) -> Iterator[_Line]:
    for name, link, *columns in rows:
        yield name, link, _TAX, columns[:2], ("tax", link, *columns)


def _uncollected(rows: Iterable[Row]) -> Iterator[_Line]:
    for name, link, *columns in rows:
        yield name, link, _UNCOLLECTED, columns[-2], ("uncollected", link, *columns)


_ITS = "(CAST(?3 AS TEXT) IS NULL OR a.name = ?3)"
_BALANCES = f"""
    SELECT a.name, a.unit, sum(CASE WHEN c.number < ?1 THEN p.amount ELSE 0 END), sum(p.amount)
    FROM chain c JOIN postings p ON p.transaction_id = c.subject
    JOIN accounts a ON a.id = p.account_id
    WHERE c.kind = 'transaction' AND c.number <= ?2 AND {_ITS}
    GROUP BY a.name, a.unit ORDER BY a.name, a.unit"""
_POSTINGS = f"""
    SELECT a.name, c.number, c.at_ns, t.id, t.kind, t.created_at_ns, t.description, t.reverses,
        t.service_request, t.tariff, t.rules_version, a.unit, p.amount
    FROM chain c JOIN transactions t ON t.id = c.subject
    JOIN postings p ON p.transaction_id = t.id JOIN accounts a ON a.id = p.account_id
    WHERE c.kind = 'transaction' AND c.number BETWEEN ?1 AND ?2 AND {_ITS}
    ORDER BY a.name, c.number, a.unit"""
# An account's records are its own, and those that it pays a part of.
_RECORDS = f"""
    WITH mine AS (
        SELECT c.number, r.run_id, r.sequence, r.account_id
        FROM chain c JOIN runs q ON q.transaction_id = c.subject
        JOIN usage_records r ON r.run_id = q.id
        WHERE c.kind = 'transaction' AND c.number BETWEEN ?1 AND ?2
        UNION
        SELECT c.number, u.run_id, u.sequence, s.account_id
        FROM chain c JOIN runs q ON q.transaction_id = c.subject
        JOIN usage_shares u ON u.run_id = q.id JOIN sponsors s ON s.id = u.sponsor_id
        WHERE c.kind = 'transaction' AND c.number BETWEEN ?1 AND ?2
    )
    SELECT a.name, m.number, q.source, q.epoch, r.sequence, r.window_start_ns, r.window_end_ns,
        r.subscriber, r.rule, q.rules_version, r.rating_group, r.sponsor_identity, r.asp_identity,
        q.layer, r.uplink_packets, r.uplink_octets, r.downlink_packets, r.downlink_octets,
        r.subscriber_octets,
        CASE WHEN r.account_id = m.account_id THEN r.subscriber_octets ELSE 0 END,
        s.identity, u.octets, CASE WHEN s.account_id = m.account_id THEN u.octets ELSE 0 END,
        r.first_packet_ns, r.last_packet_ns, r.flags
    FROM mine m JOIN accounts a ON a.id = m.account_id
    JOIN usage_records r ON r.run_id = m.run_id AND r.sequence = m.sequence
    JOIN runs q ON q.id = r.run_id
    LEFT JOIN usage_shares u ON u.run_id = r.run_id AND u.sequence = r.sequence
    LEFT JOIN sponsors s ON s.id = u.sponsor_id
    WHERE {_ITS}
    ORDER BY a.name, m.number, r.sequence, s.identity"""
# The time that says on which day a charge and its taxes count.
_CHARGE_AT = "coalesce(h.period_start_ns, q.first_packet_ns, t.created_at_ns)"
_CHARGES = f"""
    SELECT a.name, c.number, t.id, h.ordinal, h.tariff, a.unit, h.octets, h.rated_octets,
        h.amount_micros, h.remainder, h.period_start_ns, {_CHARGE_AT}
    FROM chain c JOIN runs q ON q.transaction_id = c.subject
    JOIN transactions t ON t.id = c.subject
    JOIN charges h ON h.run_id = q.id JOIN accounts a ON a.id = h.account_id
    WHERE c.kind = 'transaction' AND c.number BETWEEN ?1 AND ?2 AND {_ITS}
    ORDER BY a.name, c.number, h.ordinal"""
_TAXES = f"""
    SELECT a.name, c.number, h.ordinal, x.tax, g.name, a.unit, x.amount_micros, x.remainder,
        {_CHARGE_AT}
    FROM chain c JOIN runs q ON q.transaction_id = c.subject
    JOIN transactions t ON t.id = c.subject
    JOIN charge_taxes x ON x.run_id = q.id
    JOIN charges h ON h.run_id = x.run_id AND h.ordinal = x.ordinal
    JOIN accounts a ON a.id = h.account_id JOIN accounts g ON g.id = x.account_id
    WHERE c.kind = 'transaction' AND c.number BETWEEN ?1 AND ?2 AND {_ITS}
    ORDER BY a.name, c.number, h.ordinal, x.tax"""
_UNCOLLECTED_ROWS = f"""
    SELECT a.name, c.number, c.at_ns, t.id, t.created_at_ns, t.description, a.unit, u.amount
    FROM chain c JOIN runs q ON q.transaction_id = c.subject
    JOIN transactions t ON t.id = c.subject
    JOIN uncollected u ON u.run_id = q.id JOIN accounts a ON a.id = u.account_id
    WHERE c.kind = 'transaction' AND c.number BETWEEN ?1 AND ?2 AND {_ITS}
    ORDER BY a.name, c.number, a.unit"""
