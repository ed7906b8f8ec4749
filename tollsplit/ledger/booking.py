"""How a run gets into the book: its records and charges as rows, and the postings they make."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import TypeVar

from ..errors import IdentityError, OverdraftError, UnbookableError
from ..limits import LEDGER_BATCH_RECORDS
from ..model import Charge, UsageRecord
from . import account, event, reserve
from .account import Account, Key
from .chain import POSTINGS, Chain, booked_digest, transaction_content
from .store import (
    OCTET,
    REVENUE,
    TAX,
    TRAFFIC,
    UNCOLLECTED,
    Fingerprint,
    Receipt,
    Row,
    Run,
    Store,
    among,
    instant_at,
    instant_ns,
    is_own,
    remainder_of,
    unit_of,
)

_Item = TypeVar("_Item")


class Booking:
    """One run on its way into the book."""

    def __init__(self, store: Store, chain: Chain, run: Run) -> None:
        self.fingerprint = Fingerprint(run)
        self.opened: list[int] = []  # accounts that the run may have made
        self.content = ""  # what its transaction's link covers
        self._store = store
        self._chain = chain
        self._run = run
        # Without gaps, in the order of booking: what came before a run is told by its number.
        ((self._number,),) = store.rows("SELECT coalesce(max(id), 0) + 1 FROM runs")
        (self._transaction,) = store.numbers("transactions", 1)
        self._accounts: dict[Key, int] = {}
        self._sponsors: dict[tuple[str, str], int] = {}  # identity and account → id
        self._records = self._charges = 0
        self._first_packet_ns: int | None = None
        self._gains: dict[Key, int] = defaultdict(int)  # who gains it → what payers lose
        # who gains it → denominator → sum of numerators
        self._remainders: dict[Key, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        # As a link's content has them (see booked_digest).
        self._postings: list[Row] = []
        self._carried: list[Row] = []
        self._missing: list[Row] = []
        self._ended: list[Key] = []  # whose balance is at its end
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
            self._write_money(*self._money(money))
        self._settle(now_ns)
        self._write_run(now_ns)
        noticed = self._run.source, self._run.epoch
        return Receipt(
            True, self._number, self._transaction, instant_at(now_ns), self._records, self._charges,
            event.record_ends(self._store, self._chain, self._ended, noticed, now_ns),
        )  # fmt: skip

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
        self._gains[TRAFFIC, OCTET] += sum(record.octets for record in batch)
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
            and not is_own(record.account)
            and shares.keys() <= run.sponsor_accounts.keys()
        ):
            return
        place = f"{run.title}: record {record.sequence}"
        found = (record.source, record.epoch, record.sequence, record.rules_version, record.layer)
        expected = (run.source, run.epoch, sequence, run.rules_version, run.layer)
        if found != expected:
            raise UnbookableError(
                f"{place}: expected source, epoch, sequence, rules version and layer {expected}, "
                f"got {found}"
            )
        if not shares.keys() <= run.sponsor_accounts.keys():
            missing = ", ".join(sorted(shares.keys() - run.sponsor_accounts.keys()))
            raise UnbookableError(f"{place}: no account is known for the sponsor {missing}")
        self._check_name(record.account, place)
        raise IdentityError(
            f"{place}: {record.octets} octets metered, "
            f"{record.subscriber_octets + sum(shares.values())} split among payers"
        )

    def _check_name(self, name: str, place: str) -> None:
        if is_own(name):
            raise UnbookableError(f"{place}: {account.own_name(name)}")

    def _money(self, batch: Sequence[Charge]) -> tuple[list[Row], list[Row]]:
        """Rows of charges and of their taxes, in the fingerprint."""
        rows: list[Row] = []
        taxes: list[Row] = []
        for ordinal, charge in enumerate(batch, self._charges):
            self._check_name(charge.account, f"{self._run.title}: charge {ordinal}")
            unit = unit_of(charge.currency)
            remainder = self._gain(REVENUE, unit, charge.amount_micros, charge.remainder)
            start = charge.period_start
            rows.append((
                ordinal, charge.account, unit, charge.tariff, charge.octets, charge.rated_octets,
                charge.amount_micros, remainder, None if start is None else self._ns(start),
            ))  # fmt: skip
            for tax, its, amount, fraction in sorted(charge.taxes):
                if not its.startswith(TAX):
                    raise UnbookableError(
                        f'{self._run.title}: charge {ordinal}: tax "{tax}": expected an account '
                        f'whose name begins with "{TAX}", got "{its}"'
                    )
                taxes.append((ordinal, tax, its, amount, self._gain(its, unit, amount, fraction)))
        self.fingerprint.add("charges", rows)
        self.fingerprint.add("taxes", taxes)
        self._charges += len(rows)
        return rows, taxes

    def _gain(self, name: str, unit: str, amount: int, remainder: tuple[int, int]) -> str:
        """Count what an account gains; the fraction as it is stored."""
        numerator, denominator = remainder
        self._remainders[name, unit][denominator] += numerator
        self._gains[name, unit] += amount
        return f"{numerator}/{denominator}"

    # --- rows to tables -----------------------------------------------------------------

    def _open(self, sql: str, names: Collection[Key], kind: str) -> None:
        """Know the accounts of those names, made where they are not there."""
        accounts = self._accounts
        unknown = {name for name in names if name not in accounts}
        accounts.update(account.numbers(self._store, unknown))
        if missing := sorted(unknown - accounts.keys()):
            self._store.write(sql, [(*name, kind) for name in missing])
            made = account.numbers(self._store, missing)
            self.opened += made.values()
            accounts.update(made)

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

    def _write_money(self, rows: list[Row], taxes: list[Row]) -> None:
        self._open(_MONEY_ACCOUNT, [(row[1], row[2]) for row in rows], "subscriber")
        accounts, number = self._accounts, self._number
        self._store.copy("charges", _CHARGE_COLUMNS, (
            (number, row[0], accounts[row[1], row[2]], *row[3:]) for row in rows
        ))  # fmt: skip
        if taxes:
            units = {row[0]: row[2] for row in rows}
            self._open(_ACCOUNT, [(tax[2], units[tax[0]]) for tax in taxes], "settlement")
            self._store.copy("charge_taxes", _TAX_COLUMNS, (
                (number, *tax[:2], accounts[tax[2], units[tax[0]]], *tax[3:]) for tax in taxes
            ))  # fmt: skip

    def _settle(self, now_ns: int) -> None:
        """Post what was booked: payers by the rows, the operator by what was counted on the way."""
        store, transaction = self._store, self._transaction
        owed: dict[Key, int] = {}
        for (name, unit), total in sorted(self._gains.items()):
            whole = 0
            self._open(_ACCOUNT, [(name, unit)], "operator")
            if unit != OCTET:
                its = remainder_of(name), unit
                self._open(_ACCOUNT, [its], "remainder")
                whole = self._carry((name, unit), its)
                owed[its] = -whole
            owed[name, unit] = total + whole
        for unit, amount in self._uncollected(now_ns).items():
            self._open(_ACCOUNT, [(UNCOLLECTED, unit)], "operator")
            owed[UNCOLLECTED, unit] = -amount
        store.write(_PAYERS, [(transaction, self._number)])
        store.write(_POSTING, (
            (transaction, self._accounts[key], owing) for key, owing in owed.items() if owing
        ))  # fmt: skip
        self._postings = list(store.rows(POSTINGS, transaction))
        sums: dict[str, int] = defaultdict(int)
        for _, unit, amount in self._postings:
            sums[unit] += amount
        for unit, amount in sums.items():
            if amount:
                raise IdentityError(
                    f"{self._run.title}: postings in {unit} sum to {amount}, expected 0"
                )
        if store.write(_APPLY, [(transaction,)]) != len(self._postings):
            raise OverdraftError(f"{store.url}: an account is closed or would be below its floor")

    def _uncollected(self, now_ns: int) -> dict[str, int]:
        """Note what payers owe and cannot pay: beyond a floor, or of a closed account. By unit.

        Usage has been used, so it is booked, whoever cannot pay for it; and a floor is a floor.
        """
        store = self._store
        reserved = self._released(now_ns)
        bounded = self._bounded()
        rows: list[Row] = []
        sums: dict[str, int] = defaultdict(int)
        for number, due in store.rows(_DUE, self._number) if bounded else ():
            if (its := bounded.get(number)) is None:
                continue
            left = its.available or 0
            missing = due - left
            # What is given back goes to an open account, and not to a closed one.
            if missing > 0 or (missing and its.state != "open"):
                rows.append((self._number, number, missing))
                sums[its.unit] += missing
                self._missing.append((its.name, its.unit, missing))
            # Where all that was left was reserved, it was told when it was.
            if missing >= 0 and left > reserved.get((its.name, its.unit), 0):
                self._ended.append((its.name, its.unit))
        store.copy("uncollected", "run_id, account_id, amount", rows)
        return sums

    def _released(self, now_ns: int) -> dict[Key, int]:
        """Release what was reserved for this run while it was open, by account.

        Accounts are locked from here on, in the order of their names, as everywhere.
        """
        store = self._store
        held = reserve.of_run(store, self._run)
        if store.locking("a"):  # elsewhere who writes has all of it
            known = account.numbers(store, [(UNCOLLECTED, unit) for _, unit in self._gains])
            account.lock(store, [*self._accounts, *known, *(one.name for one in held)])
        if held:
            reserve.release(store, self._chain, held, now_ns)
        return {one.name: one.amount for one in held}

    def _bounded(self) -> dict[int, Account]:
        """Those of the run's accounts that may refuse."""
        store = self._store
        if not list(store.rows(_ANY_BOUNDED)):  # mostly there is none in all the ledger
            return {}
        return {row[0]: Account(*row) for row in among(store, _BOUNDED, self._accounts.values())}

    def _carry(self, gains: Key, remainder: Key) -> int:
        """Whole micro-units that the remainders of this run and earlier ones make up."""
        amount = sum(
            (Fraction(n, d) for d, n in self._remainders[gains].items()), start=Fraction(0)
        )
        its = self._accounts[remainder]
        before = Fraction(0)
        for (carried,) in self._store.rows(_CARRIED, its):
            before = Fraction(carried)
        whole = math.floor(before + amount)
        texts = str(amount), str(before + amount - whole)
        self._store.write(_REMAINDER, [(self._number, its, *texts)])
        self._carried.append((*remainder, *texts))
        return whole

    def _write_run(self, now_ns: int) -> None:
        run, number, transaction = self._run, self._number, self._transaction
        for first, records in self._store.rows(
            _OVERLAP, run.source, run.epoch, run.first_sequence + self._records, run.first_sequence
        ):
            raise UnbookableError(
                f"{run.title}: records {first} to {first + records - 1} of this epoch are booked "
                "already, in a batch that begins elsewhere"
            )
        write = self._store.write
        key, fingerprint, description = (
            run.idempotency_key, self.fingerprint.digest(), f"usage of {run.title}",
        )  # fmt: skip
        write(_TRANSACTION, [(transaction, key, fingerprint, now_ns, description)])
        made = booked_digest(
            number, run.program, description, [name for name, _ in run.captures],
            self._postings, sorted(self._carried), sorted(self._missing),
        )  # fmt: skip
        self.content = transaction_content(key, fingerprint, now_ns, made)
        write(_RUN, [(
            number, transaction, *run.key, self._records, self._charges, self._first_packet_ns,
            run.rules_version, run.layer, run.at, run.program,
        )])  # fmt: skip
        self._store.copy("captures", "run_id, ordinal, name, digest", (
            (number, i, *capture) for i, capture in enumerate(run.captures)
        ))  # fmt: skip


def booked(store: Store, run: Run) -> tuple[Receipt, str] | None:
    """The receipt and the fingerprint of a run that was booked; None: it was not."""
    for number, transaction, at, records, charges, mark in store.rows(_BOOKED, *run.key):
        return Receipt(False, number, transaction, instant_at(at), records, charges), mark
    return None


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, LEDGER_BATCH_RECORDS)):
        yield batch


_BOOKED = """
    SELECT r.id, t.id, t.created_at_ns, r.records, r.charges, t.fingerprint
    FROM runs r JOIN transactions t ON t.id = r.transaction_id
    WHERE r.source = ? AND r.epoch = ? AND r.first_sequence = ?"""
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
_TAX_COLUMNS = "run_id, ordinal, tax, account_id, amount_micros, remainder"
# What each payer owes of a run by its rows.
_DUES = """
        SELECT account_id, subscriber_octets AS amount FROM usage_records WHERE run_id = ?{run}
        UNION ALL
        SELECT s.account_id, u.octets FROM usage_shares u JOIN sponsors s ON s.id = u.sponsor_id
        WHERE u.run_id = ?{run}
        UNION ALL
        SELECT account_id, amount_micros FROM charges WHERE run_id = ?{run}
        UNION ALL
        SELECT c.account_id, x.amount_micros FROM charge_taxes x
        JOIN charges c ON c.run_id = x.run_id AND c.ordinal = x.ordinal WHERE x.run_id = ?{run}"""
_DUE = f"""
    SELECT account_id, sum(amount) FROM ({_DUES.format(run=1)}) x GROUP BY account_id"""
_ANY_BOUNDED = "SELECT 1 FROM accounts WHERE floor IS NOT NULL OR state <> 'open' LIMIT 1"
_BOUNDED = """
    SELECT id, name, unit, state, balance, held, floor FROM accounts
    WHERE id IN ({}) AND (floor IS NOT NULL OR state <> 'open')"""
_PAYERS = f"""
    INSERT INTO postings (transaction_id, account_id, amount)
    SELECT ?1, account_id, -sum(amount) FROM ({_DUES.format(run=2)}
        UNION ALL
        SELECT account_id, -amount FROM uncollected WHERE run_id = ?2) x
    GROUP BY account_id HAVING sum(amount) <> 0"""
_POSTING = "INSERT INTO postings (transaction_id, account_id, amount) VALUES (?, ?, ?)"
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
