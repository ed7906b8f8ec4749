"""Transfers: transactions of two or more postings, each booked once, and their reversals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import groupby
from operator import itemgetter

from ..errors import IdempotencyError, IdentityError, LedgerError, MissingError, StateError
from ..model import Posting
from . import account, event
from .account import Key
from .chain import Chain, transaction_content
from .store import Row, Store, among, digest_of, instant_at

# Kinds that the ledger itself gives.
USAGE, REVERSAL = "usage", "reversal"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a transaction or a hold comes from; None: does not apply."""

    service_request: str | None = None  # the request's id at its service
    run: int | None = None  # the run's number
    tariff: str | None = None
    rules_version: str | None = None

    @property
    def row(self) -> Row:
        return self.service_request, self.run, self.tariff, self.rules_version


NO_PROVENANCE = Provenance()


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transaction that is asked for. Its postings sum to zero in each unit."""

    key: str  # idempotency key: the same again is booked once
    kind: str  # "charge", "payment", "settlement", …
    postings: tuple[Posting, ...]
    description: str = ""
    provenance: Provenance = NO_PROVENANCE


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of a transfer that was handed in."""

    booked: bool  # False: it had been booked before, nothing changed
    transaction: int
    booked_at: datetime  # UTC; of the first booking


@dataclass(frozen=True, slots=True)
class Entry:
    """A transfer on its way into the book, with what goes along with it."""

    transfer: Transfer
    key: str  # as the store has it
    reverses: int | None = None
    released: Mapping[Key, int] = field(default_factory=dict)  # of what accounts hold

    @property
    def place(self) -> str:
        return f'{self.transfer.kind} "{self.transfer.key}"'

    @property
    def fingerprint(self) -> str:
        asked = self.transfer
        return fingerprint_of(
            asked.kind, asked.description, asked.provenance.row, self.reverses,
            [(p.account, p.unit, p.amount) for p in asked.postings],
        )  # fmt: skip


def fingerprint_of(
    kind: str, description: str, provenance: Row, reverses: int | None, postings: Sequence[Row]
) -> str:
    """postings: account, unit and amount of each."""
    return digest_of(kind, description, provenance, reverses, sorted(postings))


def key_of(transfer: str) -> str:
    """The store's key; runs and captures have keys of their own kinds."""
    return f"transfer {transfer}"


def entry_of(transfer: Transfer) -> Entry:
    """A transfer of the caller's own. Raises LedgerError where it is none."""
    if transfer.kind in (USAGE, REVERSAL):
        raise LedgerError(f'transfer "{transfer.key}": kind "{transfer.kind}" is the ledger\'s own')
    return Entry(transfer, key_of(transfer.key))


def book(store: Store, chain: Chain, entries: Sequence[Entry], now_ns: int) -> list[Posted]:
    """Book all of them or none, as if one after the other; what was booked before is told."""
    for entry in entries:
        _check(entry)
    rows = [
        (number, entry.key, entry.transfer.kind, entry.fingerprint, now_ns,
         entry.transfer.description, entry.reverses, *entry.transfer.provenance.row)
        for number, entry in zip(store.numbers("transactions", len(entries)), entries, strict=True)
    ]  # fmt: skip
    # Keys in order: two that bring the same ones never wait for each other in a circle.
    store.write(_TRANSACTION, sorted(rows, key=lambda row: row[1]))
    known = {row[0]: row for row in among(store, _KNOWN, dict.fromkeys(e.key for e in entries))}
    new: list[tuple[int, Entry]] = []
    posted = []
    instant = cache(instant_at)  # most are booked now
    for (number, key, _, fingerprint, *_), entry in zip(rows, entries, strict=True):
        _, booked, noted, at = known[key]
        if noted != fingerprint:
            raise IdempotencyError(
                f"{store.url}: {entry.place}: its key was used at "
                f"{instant_at(at):%Y-%m-%dT%H:%M:%SZ} for another transfer (transaction {booked})"
            )
        if booked == number:
            new.append((number, entry))
            chain.add("transaction", number, now_ns, transaction_content(key, fingerprint, now_ns))
        posted.append(Posted(booked == number, booked, instant(at)))
    event.record_ends(store, chain, _post(store, new), event.LEDGER, now_ns)
    return posted


def _check(entry: Entry) -> None:
    sums: dict[str, int] = defaultdict(int)
    names = set()
    for posting in entry.transfer.postings:
        if not posting.amount:
            raise LedgerError(f'{entry.place}: account "{posting.account}": posting of nothing')
        sums[posting.unit] += posting.amount
        names.add((posting.account, posting.unit))
    for unit, amount in sums.items():
        if amount:
            raise IdentityError(
                f"{entry.place}: postings in {unit} sum to {amount}, expected 0"
            )
    if len(names) < 2 or len(names) < len(entry.transfer.postings):
        raise LedgerError(f"{entry.place}: expected postings to two or more accounts, one to each")


def _post(store: Store, entries: Sequence[tuple[int, Entry]]) -> list[Key]:
    """Postings and balances of new transactions. Returns whose balance came to its end."""
    accounts = account.lock(
        store, ((p.account, p.unit) for _, entry in entries for p in entry.transfer.postings)
    )
    rows: list[Row] = []
    for number, entry in entries:
        try:
            for posting in entry.transfer.postings:
                name = posting.account, posting.unit
                its = accounts[name]
                its.change(posting.amount, -entry.released.get(name, 0))
                rows.append((number, its.number, posting.amount))
        except LedgerError as error:
            raise type(error)(f"{store.url}: {entry.place}: {error}") from None
    store.copy("postings", "transaction_id, account_id, amount", rows)
    return account.apply(store, accounts.values())


def reversal(
    store: Store, transaction: int, key: str, description: str, provenance: Provenance
) -> Entry:
    """The entry that takes a transaction back. Raises MissingError, StateError."""
    store.serialise()
    stored = key_of(key)
    for kind, reversed_by, its_key in store.rows(_REVERSIBLE, transaction):
        if kind == REVERSAL:
            raise StateError(
                f"{store.url}: transaction {transaction} is a reversal itself; post anew what it "
                "took back"
            )
        if reversed_by is not None and its_key != stored:
            raise StateError(
                f"{store.url}: transaction {transaction} was reversed already, by transaction "
                f"{reversed_by}"
            )
        break
    else:
        raise MissingError(f"{store.url}: no transaction {transaction}")
    postings = tuple(
        Posting(p.account, p.unit, -p.amount) for p in postings_of(store, transaction)
    )
    return Entry(Transfer(key, REVERSAL, postings, description, provenance), stored, transaction)


def postings_of(store: Store, transaction: int) -> list[Posting]:
    """By account and unit."""
    return [Posting(*row) for row in store.rows(_POSTINGS, transaction)]


def astray(store: Store) -> Iterator[str]:
    """Transfers that are not as they were asked for, reversals that are none."""
    rows = store.rows(_ASKED)
    for number, group in groupby(rows, key=itemgetter(0)):
        lines = list(group)
        _, noted, key, kind, description, reverses, *provenance = lines[0][:-3]
        postings = [line[-3:] for line in lines if line[-1] is not None]
        if noted != fingerprint_of(kind, description, tuple(provenance), reverses, postings):
            yield (
                f"transaction {number}: it is not the one that was asked for with the key {key}: "
                "the fingerprint differs"
            )
        if (kind == REVERSAL) != (reverses is not None):
            yield f"transaction {number}: kind {kind!r}, reverses {reverses}"
    for number, reverses, kind in store.rows(_CHAINED):
        yield f"transaction {number}: reverses transaction {reverses}, of kind {kind!r}"
    for number, name, unit, amount in store.rows(_UNLIKE):
        yield (
            f'transaction {number}: account "{name}" ({unit}): {amount} is left of what it reverses'
        )


_TRANSACTION = """
    INSERT INTO transactions (id, idempotency_key, kind, fingerprint, created_at_ns, description,
        reverses, service_request, run_id, tariff, rules_version)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING"""
_KNOWN = """
    SELECT idempotency_key, id, fingerprint, created_at_ns FROM transactions
    WHERE idempotency_key IN ({})"""
_REVERSIBLE = """
    SELECT t.kind, r.id, r.idempotency_key
    FROM transactions t LEFT JOIN transactions r ON r.reverses = t.id WHERE t.id = ?"""
_POSTINGS = """
    SELECT a.name, a.unit, p.amount FROM postings p JOIN accounts a ON a.id = p.account_id
    WHERE p.transaction_id = ? ORDER BY a.name, a.unit"""
_ASKED = """
    SELECT t.id, t.fingerprint, t.idempotency_key, t.kind, t.description, t.reverses,
        t.service_request, t.run_id, t.tariff, t.rules_version, coalesce(a.name, ''),
        coalesce(a.unit, ''), p.amount
    FROM transactions t LEFT JOIN postings p ON p.transaction_id = t.id
    LEFT JOIN accounts a ON a.id = p.account_id
    WHERE t.kind <> 'usage' ORDER BY t.id"""
_CHAINED = """
    SELECT t.id, o.id, o.kind FROM transactions t JOIN transactions o ON o.id = t.reverses
    WHERE o.kind = 'reversal'"""
_UNLIKE = """
    SELECT x.id, a.name, a.unit, sum(x.amount) FROM (
        SELECT t.id, p.account_id, p.amount FROM transactions t
        JOIN postings p ON p.transaction_id = t.id WHERE t.reverses IS NOT NULL
        UNION ALL
        SELECT t.id, p.account_id, p.amount FROM transactions t
        JOIN postings p ON p.transaction_id = t.reverses
    ) x JOIN accounts a ON a.id = x.account_id
    GROUP BY x.id, a.name, a.unit HAVING sum(x.amount) <> 0"""
