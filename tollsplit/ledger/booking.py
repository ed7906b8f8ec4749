"""How a run gets into the book: its records and charges as rows, and the postings they make."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import TypeVar

from ..errors import IdentityError, LedgerError, OverdraftError, StateError
from ..limits import LEDGER_BATCH_RECORDS
from ..model import Charge, UsageRecord
from . import account
from .account import Key
from .chain import booked_digest, transaction_content
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
        self.opened: list[int] = []  # accounts that the run may have made
        self.content = ""  # what its transaction's link covers
        self._store = store
        self._run = run
        # Without gaps, in the order of booking: what came before a run is told by its number.
        ((self._number,),) = store.rows("SELECT coalesce(max(id), 0) + 1 FROM runs")
        (self._transaction,) = store.numbers("transactions", 1)
        self._accounts: dict[Key, int] = {}
        self._sponsors: dict[tuple[str, str], int] = {}  # identity and account → id
        self._records = self._charges = 0
        self._first_packet_ns: int | None = None
        self._totals: dict[str, int] = defaultdict(int)  # unit → what payers lose
        # unit → denominator → sum of numerators
        self._remainders: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._postings: list[Row] = []  # account, unit, amount, by account and unit
        self._carried: list[Row] = []  # unit, amount, what is carried on, by unit
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

    def _check_name(self, name: str, place: str) -> None:
        if name.startswith(OPERATOR):
            raise LedgerError(
                f'{place}: account "{name}": names with "{OPERATOR}" are the operator\'s own; '
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

    def _open(self, sql: str, names: Collection[Key], kind: str) -> None:
        """Know the accounts of those names, made where they are not there."""
        new = [name for name in dict.fromkeys(names) if name not in self._accounts]
        if not new:
            return
        known = account.numbers(self._store, new)
        if opened := sorted(set(new) - known.keys()):
            self._store.write(sql, [(*name, kind) for name in opened])
            made = account.numbers(self._store, opened)
            self.opened += made.values()
            known.update(made)
        self._accounts.update(known)

    def _write_usage(self, rows: list[Row], shares: list[Row]) -> None:
        store, number = self._store, self._number
        self._open(_ACCOUNT, [(row[4], OCTET) for row in rows], "subscriber")
        accounts = self._accounts
        store.copy("usage_records", _RECORD_COLUMNS, (
            (number, *row[:4], accounts[row[4], OCTET], *row[5:]) for row in rows
        ))  # fmt: skip
        self._know_sponsors({(share[1], share[2]) for share in shares})
        sponsors = self._sponsors
        store.copy("usage_shares", "run_id, sequence, sponsor_id, octets", (
            (number, share[0], sponsors[share[1], share[2]], share[3]) for share in shares
        ))  # fmt: skip

    def _know_sponsors(self, sponsors: Set[tuple[str, str]]) -> None:
        new = sorted(sponsors - self._sponsors.keys())
        if not new:
            return
        for _, name in new:
            self._check_name(name, self._run.title)
        self._open(_ACCOUNT, [(name, OCTET) for _, name in new], "sponsor")
        rows = [(identity, self._accounts[name, OCTET]) for identity, name in new]
        self._store.write(_SPONSOR, rows)
        known = {(identity, its): number for number, identity, its in self._store.rows(_SPONSORS)}
        self._sponsors.update(zip(new, (known[row] for row in rows), strict=True))

    def _write_money(self, rows: list[Row]) -> None:
        self._open(_MONEY_ACCOUNT, [(row[1], row[2]) for row in rows], "subscriber")
        accounts, number = self._accounts, self._number
        self._store.copy("charges", _CHARGE_COLUMNS, (
            (number, row[0], accounts[row[1], row[2]], *row[3:]) for row in rows
        ))  # fmt: skip

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
        self._apply()

    def _apply(self) -> None:
        """Change the balances; accounts are locked in the order of their names, as everywhere."""
        store, transaction = self._store, self._transaction
        for name, unit, state, balance, floor, amount in store.rows(
            _LOCKED + store.locking("a"), transaction
        ):
            if state != "open":
                raise StateError(f'{store.url}: account "{name}" ({unit}): it is closed')
            if floor is not None and balance + amount < floor:
                raise OverdraftError(
                    f'{store.url}: account "{name}" ({unit}): {balance + amount} would be below '
                    f"{floor}"
                )
            self._postings.append((name, unit, amount))
        if store.write(_APPLY, [(transaction,)]) != len(self._postings):
            raise OverdraftError(f"{store.url}: an account is closed or would be below its floor")

    def _carry(self, unit: str) -> int:
        """Whole micro-units that the remainders of this run and earlier ones make up."""
        amount = sum(
            (Fraction(n, d) for d, n in self._remainders[unit].items()), start=Fraction(0)
        )
        self._open(_ACCOUNT, [(REMAINDER, unit)], "remainder")
        its = self._accounts[REMAINDER, unit]
        before = Fraction(0)
        for (carried,) in self._store.rows(_CARRIED, its):
            before = Fraction(carried)
        whole = math.floor(before + amount)
        texts = str(amount), str(before + amount - whole)
        self._store.write(_REMAINDER, [(self._number, its, *texts)])
        self._carried.append((unit, *texts))
        return whole

    def _post(self, name: str, unit: str, kind: str, amount: int) -> None:
        self._open(_ACCOUNT, [(name, unit)], kind)
        if amount:
            self._store.write(_POSTING, [(self._transaction, self._accounts[name, unit], amount)])

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
        key, fingerprint, description = (
            run.idempotency_key, self.fingerprint.digest(), f"usage of {run.title}",
        )  # fmt: skip
        write(_TRANSACTION, [(transaction, key, fingerprint, now_ns, description)])
        booked = booked_digest(
            number, run.program, description, [name for name, _ in run.captures],
            self._postings, self._carried,
        )  # fmt: skip
        self.content = transaction_content(key, fingerprint, now_ns, booked)
        write(_RUN, [(
            number, transaction, *run.key, self._records, self._charges, self._first_packet_ns,
            run.rules_version, run.layer, run.at, run.program,
        )])  # fmt: skip
        self._store.copy("captures", "run_id, ordinal, name, digest", (
            (number, i, *capture) for i, capture in enumerate(run.captures)
        ))  # fmt: skip


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
        (SELECT kind FROM accounts WHERE name = ?1 AND unit = 'octet'), ?3))
    ON CONFLICT (name, unit) DO NOTHING"""
_RECORD_COLUMNS = """
    run_id, sequence, window_start_ns, window_end_ns, subscriber, account_id, rule, rating_group,
    sponsor_identity, asp_identity, uplink_packets, uplink_octets, downlink_packets,
    downlink_octets, subscriber_octets, first_packet_ns, last_packet_ns, flags"""
_SPONSOR = """
    INSERT INTO sponsors (identity, account_id) VALUES (?, ?)
    ON CONFLICT (identity, account_id) DO NOTHING"""
_SPONSORS = "SELECT id, identity, account_id FROM sponsors"
_CHARGE_COLUMNS = """
    run_id, ordinal, account_id, tariff, octets, rated_octets, amount_micros, remainder,
    period_start_ns"""
_PAYERS = """
    INSERT INTO postings (transaction_id, account_id, amount)
    SELECT ?1, account_id, -sum(amount) FROM (
        SELECT account_id, subscriber_octets AS amount FROM usage_records WHERE run_id = ?2
        UNION ALL
        SELECT s.account_id, u.octets FROM usage_shares u JOIN sponsors s ON s.id = u.sponsor_id
        WHERE u.run_id = ?2
        UNION ALL
        SELECT account_id, amount_micros FROM charges WHERE run_id = ?2) x
    GROUP BY account_id HAVING sum(amount) <> 0"""
_POSTING = "INSERT INTO postings (transaction_id, account_id, amount) VALUES (?, ?, ?)"
_SUMS = """
    SELECT a.unit, sum(p.amount) FROM postings p JOIN accounts a ON a.id = p.account_id
    WHERE p.transaction_id = ? GROUP BY a.unit HAVING sum(p.amount) <> 0"""
_LOCKED = """
    SELECT a.name, a.unit, a.state, a.balance - a.held, a.floor, p.amount
    FROM postings p JOIN accounts a ON a.id = p.account_id
    WHERE p.transaction_id = ? ORDER BY a.name, a.unit"""
_APPLY = """
    UPDATE accounts SET balance = balance + p.amount FROM postings p
    WHERE p.transaction_id = ? AND p.account_id = accounts.id AND state = 'open'
        AND (floor IS NULL OR balance + p.amount - held >= floor)"""
_CARRIED = "SELECT carried FROM remainders WHERE account_id = ? ORDER BY run_id DESC LIMIT 1"
_REMAINDER = "INSERT INTO remainders (run_id, account_id, amount, carried) VALUES (?, ?, ?, ?)"
_TRANSACTION = """
    INSERT INTO transactions (id, kind, idempotency_key, fingerprint, created_at_ns, description)
    VALUES (?, 'usage', ?, ?, ?, ?)"""
_RUN = """
    INSERT INTO runs (id, transaction_id, source, epoch, first_sequence, records, charges,
        first_packet_ns, rules_version, layer, at, program)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
