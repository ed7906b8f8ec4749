"""How a run gets into the book: its records and charges as rows, and the postings they make."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import TypeVar

from ..errors import IdentityError, LedgerError
from ..limits import LEDGER_BATCH_RECORDS
from ..model import Charge, UsageRecord
from .store import (
    OCTET,
    OPERATOR,
    REMAINDER,
    REVENUE,
    TRAFFIC,
    Fingerprint,
    Receipt,
    Row,
    Run,
    Store,
    instant_at,
    instant_ns,
    unit_of,
)

_Item = TypeVar("_Item")


class Booking:
    """One run on its way into the book."""

    def __init__(self, store: Store, run: Run) -> None:
        self.fingerprint = Fingerprint(run)
        self._store = store
        self._run = run
        ((self._number,),) = store.rows("SELECT coalesce(max(id), 0) + 1 FROM runs")
        ((self._transaction,),) = store.rows("SELECT coalesce(max(id), 0) + 1 FROM transactions")
        self._records = self._charges = 0
        self._first_packet_ns: int | None = None
        self._totals: dict[str, int] = defaultdict(int)  # unit → what payers lose
        # unit → denominator → sum of numerators
        self._remainders: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._ns = cache(instant_ns)  # windows and days are few

    def read(self, records: Iterable[UsageRecord], charges: Iterable[Charge]) -> None:
        """Take the fingerprint alone."""
        for usage in _batches(records):
            self._usage(usage)
        for money in _batches(charges):
            self._money(money)

    def write(
        self, records: Iterable[UsageRecord], charges: Iterable[Charge], now_ns: int
    ) -> Receipt:
        for usage in _batches(records):
            self._write_usage(*self._usage(usage))
        for money in _batches(charges):
            self._write_money(self._money(money))
        self._settle()
        self._write_run(now_ns)
        return Receipt(
            True, self._number, self._transaction, instant_at(now_ns), self._records, self._charges
        )

    # --- nouns to rows ------------------------------------------------------------------

    def _usage(self, batch: Sequence[UsageRecord]) -> tuple[list[Row], list[Row]]:
        """Rows of records and of their sponsors' shares, checked and in the fingerprint."""
        rows: list[Row] = []
        shares: list[Row] = []
        accounts = self._run.sponsor_accounts
        ns = self._ns
        sequence = self._run.first_sequence + self._records
        for record in batch:
            self._check(record, sequence)
            start, end = record.window_start, record.window_end
            rows.append((
                sequence, None if start is None else ns(start), None if end is None else ns(end),
                record.subscriber, record.account, record.rule, record.rating_group,
                record.sponsor_identity, record.asp_identity, record.uplink_packets,
                record.uplink_octets, record.downlink_packets, record.downlink_octets,
                record.subscriber_octets, record.first_packet_ns, record.last_packet_ns,
                ",".join(record.flags),
            ))  # fmt: skip
            for sponsor, octets in sorted(record.sponsor_octets.items()):
                shares.append((sequence, sponsor, accounts[sponsor], octets))
            sequence += 1
        self.fingerprint.add("records", rows)
        self.fingerprint.add("shares", shares)
        self._records += len(rows)
        self._totals[OCTET] += sum(record.octets for record in batch)
        first = min(record.first_packet_ns for record in batch)
        known = self._first_packet_ns
        self._first_packet_ns = first if known is None else min(first, known)
        return rows, shares

    def _check(self, record: UsageRecord, sequence: int) -> None:
        run = self._run
        shares = record.sponsor_octets
        if (
            record.sequence == sequence
            and record.source == run.source
            and record.epoch == run.epoch
            and record.rules_version == run.rules_version
            and record.layer == run.layer
            and record.octets == record.subscriber_octets + sum(shares.values())
            and not record.account.startswith(OPERATOR)
            and shares.keys() <= run.sponsor_accounts.keys()
        ):
            return
        place = f"{run.title}: record {record.sequence}"
        found = (record.source, record.epoch, record.sequence, record.rules_version, record.layer)
        expected = (run.source, run.epoch, sequence, run.rules_version, run.layer)
        if found != expected:
            raise LedgerError(
                f"{place}: expected source, epoch, sequence, rules version and layer {expected}, "
                f"got {found}"
            )
        if not shares.keys() <= run.sponsor_accounts.keys():
            missing = ", ".join(sorted(shares.keys() - run.sponsor_accounts.keys()))
            raise LedgerError(f"{place}: no account is known for the sponsor {missing}")
        self._check_name(record.account, place)
        raise IdentityError(
            f"{place}: {record.octets} octets metered, "
            f"{record.subscriber_octets + sum(shares.values())} split among payers"
        )

    def _check_name(self, account: str, place: str) -> None:
        if account.startswith(OPERATOR):
            raise LedgerError(
                f'{place}: account "{account}": names with "{OPERATOR}" are the operator\'s own; '
                "choose another"
            )

    def _money(self, batch: Sequence[Charge]) -> list[Row]:
        """Rows of charges, in the fingerprint."""
        rows: list[Row] = []
        for ordinal, charge in enumerate(batch, self._charges):
            self._check_name(charge.account, f"{self._run.title}: charge {ordinal}")
            unit = unit_of(charge.currency)
            numerator, denominator = charge.remainder
            self._remainders[unit][denominator] += numerator
            self._totals[unit] += charge.amount_micros
            start = charge.period_start
            rows.append((
                ordinal, charge.account, unit, charge.tariff, charge.octets, charge.rated_octets,
                charge.amount_micros, f"{numerator}/{denominator}",
                None if start is None else self._ns(start),
            ))  # fmt: skip
        self.fingerprint.add("charges", rows)
        self._charges += len(rows)
        return rows

    # --- rows to tables -----------------------------------------------------------------

    def _write_usage(self, rows: list[Row], shares: list[Row]) -> None:
        write, number = self._store.write, self._number
        write(_ACCOUNT, ((name, OCTET, "subscriber") for name in dict.fromkeys(r[4] for r in rows)))
        write(_RECORD, ((number, *row) for row in rows))
        sponsors = dict.fromkeys((share[1], share[2]) for share in shares)
        for _, account in sponsors:
            self._check_name(account, self._run.title)
        write(_ACCOUNT, ((account, OCTET, "sponsor") for _, account in sponsors))
        write(_SPONSOR, sponsors)
        write(_SHARE, ((number, *share) for share in shares))

    def _write_money(self, rows: list[Row]) -> None:
        self._store.write(_MONEY_ACCOUNT, dict.fromkeys((row[1], row[2]) for row in rows))
        self._store.write(_CHARGE, ((self._number, *row) for row in rows))

    def _settle(self) -> None:
        """Post what was booked: payers by the rows, the operator by what was counted on the way."""
        store, transaction = self._store, self._transaction
        store.write(_PAYERS, [(transaction, self._number)])
        for unit, total in sorted(self._totals.items()):
            if unit == OCTET:
                self._post(TRAFFIC, unit, "operator", total)
            else:
                whole = self._carry(unit)
                self._post(REMAINDER, unit, "remainder", -whole)
                self._post(REVENUE, unit, "operator", total + whole)
        for unit, amount in store.rows(_SUMS, transaction):
            raise IdentityError(
                f"{self._run.title}: postings in {unit} sum to {amount}, expected 0"
            )
        for name, unit, state, balance, floor in store.rows(_REFUSALS, transaction):
            why = "it is closed" if state != "open" else f"{balance} would be below {floor}"
            raise LedgerError(f'{store.url}: account "{name}" ({unit}): {why}')
        store.write(_APPLY, [(transaction,)])

    def _carry(self, unit: str) -> int:
        """Whole micro-units that the remainders of this run and earlier ones make up."""
        amount = sum(
            (Fraction(n, d) for d, n in self._remainders[unit].items()), start=Fraction(0)
        )
        self._store.write(_ACCOUNT, [(REMAINDER, unit, "remainder")])
        before = Fraction(0)
        for (carried,) in self._store.rows(_CARRIED, REMAINDER, unit):
            before = Fraction(carried)
        whole = math.floor(before + amount)
        self._store.write(
            _REMAINDER,
            [(self._number, REMAINDER, unit, str(amount), str(before + amount - whole))],
        )
        return whole

    def _post(self, name: str, unit: str, kind: str, amount: int) -> None:
        self._store.write(_ACCOUNT, [(name, unit, kind)])
        if amount:
            self._store.write(_POSTING, [(self._transaction, name, unit, amount)])

    def _write_run(self, now_ns: int) -> None:
        run, number, transaction = self._run, self._number, self._transaction
        for first, records in self._store.rows(
            _OVERLAP, run.source, run.epoch, run.first_sequence + self._records, run.first_sequence
        ):
            raise LedgerError(
                f"{run.title}: records {first} to {first + records - 1} of this epoch are booked "
                "already, in a batch that begins elsewhere"
            )
        write = self._store.write
        write(_TRANSACTION, [(
            transaction, run.idempotency_key, self.fingerprint.digest(), now_ns,
            f"usage of {run.title}",
        )])  # fmt: skip
        write(_RUN, [(
            number, transaction, *run.key, self._records, self._charges, self._first_packet_ns,
            run.rules_version, run.layer, run.at, run.program,
        )])  # fmt: skip
        write(_CAPTURE, ((number, i, *capture) for i, capture in enumerate(run.captures)))


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, LEDGER_BATCH_RECORDS)):
        yield batch


_OVERLAP = """
    SELECT first_sequence, records FROM runs
    WHERE source = ? AND epoch = ? AND first_sequence < ? AND first_sequence + records > ?"""

_ACCOUNT = """
    INSERT INTO accounts (name, unit, kind) VALUES (?, ?, ?) ON CONFLICT (name, unit) DO NOTHING"""
# Who uses octets as a sponsor owes money as a sponsor.
_MONEY_ACCOUNT = """
    INSERT INTO accounts (name, unit, kind) VALUES (?1, ?2, coalesce(
        (SELECT kind FROM accounts WHERE name = ?1 AND unit = 'octet'), 'subscriber'))
    ON CONFLICT (name, unit) DO NOTHING"""
_RECORD = """
    INSERT INTO usage_records (
        run_id, sequence, window_start_ns, window_end_ns, subscriber, account_id, rule,
        rating_group, sponsor_identity, asp_identity, uplink_packets, uplink_octets,
        downlink_packets, downlink_octets, subscriber_octets, first_packet_ns, last_packet_ns,
        flags)
    VALUES (?, ?, ?, ?, ?, (SELECT id FROM accounts WHERE name = ? AND unit = 'octet'),
        ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SPONSOR = """
    INSERT INTO sponsors (identity, account_id)
    SELECT ?, id FROM accounts WHERE name = ? AND unit = 'octet'
    ON CONFLICT (identity, account_id) DO NOTHING"""
_SHARE = """
    INSERT INTO usage_shares (run_id, sequence, sponsor_id, octets)
    VALUES (?, ?, (SELECT s.id FROM sponsors s JOIN accounts a ON a.id = s.account_id
        WHERE s.identity = ? AND a.name = ? AND a.unit = 'octet'), ?)"""
_CHARGE = """
    INSERT INTO charges (run_id, ordinal, account_id, tariff, octets, rated_octets, amount_micros,
        remainder, period_start_ns)
    VALUES (?, ?, (SELECT id FROM accounts WHERE name = ? AND unit = ?), ?, ?, ?, ?, ?, ?)"""
_PAYERS = """
    INSERT INTO postings (transaction_id, account_id, amount)
    SELECT ?1, account_id, -sum(amount) FROM (
        SELECT account_id, subscriber_octets AS amount FROM usage_records WHERE run_id = ?2
        UNION ALL
        SELECT s.account_id, u.octets FROM usage_shares u JOIN sponsors s ON s.id = u.sponsor_id
        WHERE u.run_id = ?2
        UNION ALL
        SELECT account_id, amount_micros FROM charges WHERE run_id = ?2)
    GROUP BY account_id HAVING sum(amount) <> 0"""
_POSTING = """
    INSERT INTO postings (transaction_id, account_id, amount)
    VALUES (?, (SELECT id FROM accounts WHERE name = ? AND unit = ?), ?)"""
_SUMS = """
    SELECT a.unit, sum(p.amount) FROM postings p JOIN accounts a ON a.id = p.account_id
    WHERE p.transaction_id = ? GROUP BY a.unit HAVING sum(p.amount) <> 0"""
_REFUSALS = """
    SELECT a.name, a.unit, a.state, a.balance + p.amount - a.held, a.floor
    FROM postings p JOIN accounts a ON a.id = p.account_id
    WHERE p.transaction_id = ?
        AND (a.state <> 'open' OR a.balance + p.amount - a.held < a.floor)"""
_APPLY = """
    UPDATE accounts SET balance = balance + p.amount FROM postings p
    WHERE p.transaction_id = ? AND p.account_id = accounts.id"""
_CARRIED = """
    SELECT r.carried FROM remainders r JOIN accounts a ON a.id = r.account_id
    WHERE a.name = ? AND a.unit = ? ORDER BY r.run_id DESC LIMIT 1"""
_REMAINDER = """
    INSERT INTO remainders (run_id, account_id, amount, carried)
    VALUES (?, (SELECT id FROM accounts WHERE name = ? AND unit = ?), ?, ?)"""
_TRANSACTION = """
    INSERT INTO transactions (id, kind, idempotency_key, fingerprint, created_at_ns, description)
    VALUES (?, 'usage', ?, ?, ?, ?)"""
_RUN = """
    INSERT INTO runs (id, transaction_id, source, epoch, first_sequence, records, charges,
        first_packet_ns, rules_version, layer, at, program)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_CAPTURE = "INSERT INTO captures (run_id, ordinal, name, digest) VALUES (?, ?, ?, ?)"
