"""Everything in the book, row by row in the order of booking: for exports and comparisons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..model import Charge, TaxPart, UsageRecord
from .store import Balance, Row, Run, Store, currency_of, instant_at
from .transfer import Provenance


@dataclass(frozen=True, slots=True)
class BookedPosting:
    """What one account gained (+) or lost (−) by a transaction."""

    account: str
    kind: str  # of the account
    unit: str
    amount: int


@dataclass(frozen=True, slots=True)
class Booked:
    """A transaction as it stands in the book."""

    number: int
    kind: str
    idempotency_key: str
    fingerprint: str
    booked_at: datetime  # UTC
    description: str
    reverses: int | None  # the number of another one
    run: Run | None  # where it is usage; without its sponsors' accounts
    provenance: Provenance
    postings: tuple[BookedPosting, ...]


@dataclass(frozen=True, slots=True)
class BookedRun:
    """A run as it was booked."""

    transaction: int
    booked_at: datetime  # UTC
    reversed: bool
    run: Run  # without its sponsors' accounts
    records: int
    charges: int
    first_packet_ns: int | None  # None: no record


@dataclass(frozen=True, slots=True)
class BookedCharge:
    """A charge, with the run that booked it."""

    transaction: int
    source: str
    epoch: str
    ordinal: int  # among the run's charges
    charge: Charge


class Journal:
    """A ledger's rows; nothing here holds more than one transaction of them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def accounts(self) -> Iterator[Balance]:
        """In the order of their opening."""
        for row in self._store.rows(_ACCOUNTS):
            yield Balance(*row)

    def transactions(self) -> Iterator[Booked]:
        captures: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for run, name, digest in self._store.rows(_CAPTURES):
            captures[run].append((name, digest))
        rows = self._store.rows(_TRANSACTIONS)
        for _, lines in groupby(rows, itemgetter(0)):
            first, *more = lines
            number, kind, key, fingerprint, at, description, reverses = first[:7]
            provenance, run, of_run = Provenance(*first[7:11]), first[11], first[12:19]
            postings = tuple(
                BookedPosting(*line[19:]) for line in (first, *more) if line[19] is not None
            )
            yield Booked(
                number, kind, key, fingerprint, instant_at(at), description, reverses,
                None if run is None else _run(of_run, captures.pop(run, [])), provenance, postings,
            )  # fmt: skip

    def runs(self) -> list[BookedRun]:
        """In the order of their booking."""
        captures: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for run, name, digest in self._store.rows(_CAPTURES):
            captures[run].append((name, digest))
        return [
            BookedRun(number, instant_at(at), bool(reversed_), _run(of_run, captures[run]), *sums)
            for number, at, reversed_, run, *of_run, sums in (
                (*row[:11], row[11:]) for row in self._store.rows(_RUNS))
        ]  # fmt: skip

    def layers(self) -> list[str]:
        """The layers that usage was metered at, by name."""
        return [layer for (layer,) in self._store.rows(_LAYERS)]

    def usage(
        self, *, standing: bool = False, transaction: int | None = None
    ) -> Iterator[UsageRecord]:
        """Every usage record.

        standing     leave out the records of runs that were reversed
        transaction  the run's whose records are wanted; None: all runs
        """
        rows = self._rows(_USAGE, standing, transaction)
        for _, lines in groupby(rows, itemgetter(0, 1)):
            yield usage_record(list(lines))

    def charges(
        self, *, standing: bool = False, transaction: int | None = None
    ) -> Iterator[BookedCharge]:
        """Every charge; `standing` and `transaction` as for usage."""
        rows = self._rows(_CHARGES, standing, transaction)
        for _, lines in groupby(rows, itemgetter(0, 3)):
            yield booked_charge(list(lines))

    def _rows(self, sql: str, standing: bool, transaction: int | None) -> Iterator[Row]:
        """What a query says of all runs, of those that stand, or of one."""
        conditions = [_STANDING] * standing + [_ONE] * (transaction is not None)
        which = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        values = () if transaction is None else (transaction,)
        return self._store.rows(sql.format(which=which), *values)


def usage_record(lines: Sequence[Row]) -> UsageRecord:
    """A record from its rows: RECORD_COLUMNS, a sponsor's identity and octets; one for each share,
    or one without.
    """
    (
        _, sequence, source, epoch, rules_version, layer, start, end, subscriber, account, rule,
        group, sponsor, asp, up_packets, up, down_packets, down, own, first_ns, last_ns, flags,
        identity, octets, *_,
    ) = lines[0]  # fmt: skip
    shares = {} if identity is None else {identity: octets}
    for line in lines[1:]:  # an identity may have had two accounts
        shares[line[22]] = shares.get(line[22], 0) + line[23]
    return UsageRecord(
        source, epoch, sequence, _instant(start), _instant(end), subscriber, account, rule,
        rules_version, group, sponsor, asp, layer, up_packets, up, down_packets, down, own,
        shares, first_ns, last_ns, tuple(flags.split(",")) if flags else (),
    )  # fmt: skip


def booked_charge(lines: Sequence[Row]) -> BookedCharge:
    """A charge from its rows: CHARGE_COLUMNS; one for each tax, or one without."""
    (
        transaction, source, epoch, ordinal, account, unit, tariff, octets, rated, amount,
        remainder, start, *_,
    ) = lines[0]  # fmt: skip
    taxes = tuple(
        TaxPart(tax, its, tax_amount, _fraction(left))
        for *_, tax, its, tax_amount, left in lines if tax is not None
    )
    return BookedCharge(transaction, source, epoch, ordinal, Charge(
        account, currency_of(unit) or unit, amount, tariff, octets, rated, _instant(start),
        _fraction(remainder), taxes,
    ))  # fmt: skip


def _fraction(text: str) -> tuple[int, int]:
    numerator, _, denominator = text.partition("/")
    return int(numerator), int(denominator)


@lru_cache(maxsize=4096)
def _instant(ns: int | None) -> datetime | None:
    return None if ns is None else instant_at(ns)


def _run(of_run: Sequence[Any], captures: Sequence[tuple[str, str]]) -> Run:
    source, epoch, first_sequence, rules_version, layer, at, program = of_run
    return Run(
        source, epoch, rules_version, layer, at, program, tuple(captures), {}, first_sequence
    )


_ACCOUNTS = "SELECT name, kind, unit, balance, held, floor, state FROM accounts ORDER BY id"
_CAPTURES = "SELECT run_id, name, digest FROM captures ORDER BY run_id, ordinal"
_LAYERS = "SELECT DISTINCT layer FROM runs WHERE records > 0 ORDER BY layer"
_TRANSACTIONS = """
    SELECT t.id, t.kind, t.idempotency_key, t.fingerprint, t.created_at_ns, t.description,
        t.reverses, t.service_request, t.run_id, t.tariff, t.rules_version, q.id, q.source,
        q.epoch, q.first_sequence, q.rules_version, q.layer, q.at, q.program, a.name, a.kind,
        a.unit, p.amount
    FROM transactions t LEFT JOIN runs q ON q.transaction_id = t.id
    LEFT JOIN postings p ON p.transaction_id = t.id LEFT JOIN accounts a ON a.id = p.account_id
    ORDER BY t.id, p.account_id"""
_RUNS = """
    SELECT q.transaction_id, t.created_at_ns,
        CASE WHEN EXISTS (SELECT 1 FROM transactions r WHERE r.reverses = t.id) THEN 1 ELSE 0 END,
        q.id, q.source, q.epoch, q.first_sequence, q.rules_version, q.layer, q.at, q.program,
        q.records, q.charges, q.first_packet_ns
    FROM runs q JOIN transactions t ON t.id = q.transaction_id ORDER BY q.id"""
_STANDING = """q.transaction_id NOT IN
        (SELECT reverses FROM transactions WHERE reverses IS NOT NULL)"""
_ONE = "q.transaction_id = ?"
# Of usage_records r, its runs q and accounts a.
RECORD_COLUMNS = """
        r.run_id, r.sequence, q.source, q.epoch, q.rules_version, q.layer, r.window_start_ns,
        r.window_end_ns, r.subscriber, a.name, r.rule, r.rating_group, r.sponsor_identity,
        r.asp_identity, r.uplink_packets, r.uplink_octets, r.downlink_packets, r.downlink_octets,
        r.subscriber_octets, r.first_packet_ns, r.last_packet_ns, r.flags"""
# In the order of the tables' own keys: nothing has to be sorted.
_USAGE = f"""
    SELECT {RECORD_COLUMNS}, s.identity, u.octets
    FROM usage_records r JOIN runs q ON q.id = r.run_id JOIN accounts a ON a.id = r.account_id
    LEFT JOIN usage_shares u ON u.run_id = r.run_id AND u.sequence = r.sequence
    LEFT JOIN sponsors s ON s.id = u.sponsor_id
    {{which}}
    ORDER BY r.run_id, r.sequence, u.sponsor_id"""
# Of charges c, their runs q and accounts a.
CHARGE_COLUMNS = """
        q.transaction_id, q.source, q.epoch, c.ordinal, a.name, a.unit, c.tariff, c.octets,
        c.rated_octets, c.amount_micros, c.remainder, c.period_start_ns, x.tax, n.name,
        x.amount_micros, x.remainder"""
TAXES_OF_CHARGES = """
    LEFT JOIN charge_taxes x ON x.run_id = c.run_id AND x.ordinal = c.ordinal
    LEFT JOIN accounts n ON n.id = x.account_id"""
_CHARGES = f"""
    SELECT {CHARGE_COLUMNS}
    FROM charges c JOIN runs q ON q.id = c.run_id JOIN accounts a ON a.id = c.account_id
    {TAXES_OF_CHARGES}
    {{which}}
    ORDER BY c.run_id, c.ordinal, x.tax"""
