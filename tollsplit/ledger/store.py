"""What the ledger asks of a database, and the shapes of the rows that it keeps there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal, Protocol

from ..model import Event
from .annex import Annex

Row = tuple[Any, ...]
Part = Literal["records", "shares", "charges", "taxes"]  # of what a run books
Turn = Literal["runs", "chain"]  # what one at a time may do; the chain's comes last

OCTET = "octet"
# The operator's own accounts; no subscriber or sponsor may have such a name.
OPERATOR = "operator:"
TRAFFIC = "operator:traffic"  # gains the octets that payers use up
REVENUE = "operator:revenue"  # gains what payers owe, and whole micro-units of remainders
REMAINDER = "operator:remainder"  # pays what rounding down left off
UNCOLLECTED = "operator:uncollected"  # pays what payers' balances do not cover
# Taxes gain in accounts of such names, which nobody else may have either.
TAX = "tax:"
PAYERS = ("subscriber", "sponsor")  # kinds of accounts that usage and charges are posted to

_AMONG_MAX = 512
# JSON in ASCII without blanks: one text for one value, byte for byte.
compact = json.JSONEncoder(separators=(",", ":")).encode
quoted = json.encoder.encode_basestring_ascii  # of one text, without what leads there
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Store(Protocol):
    """A database: transactions that are all or nothing, reads that see one state of it.

    Statements are SQL that both SQLite and PostgreSQL know, with values for "?", or for "?1", "?2"
    where one is used twice. Everything may raise LedgerError; nothing is changed then.
    """

    url: str

    def writing(self) -> AbstractContextManager[None]:
        """A transaction. Leaving it by an exception undoes it; inside another one, only it."""

    def reading(self) -> AbstractContextManager[None]:
        """Reads inside see the database as it was at the first of them; inside another one, as it
        was for that one. Nothing can be written.
        """

    def serialise(self, what: Turn = "runs") -> None:
        """Nobody else gets beyond this point until the transaction ends. Raises LedgerError where
        it was undone meanwhile.
        """

    def locking(self, alias: str, *, skipping: bool = False) -> str:
        """The end of a SELECT: nobody else changes that table's (or those tables') rows of it until
        the transaction ends.

        skipping  leave out rows that somebody else has locked, instead of waiting
        """

    def rows(self, sql: str, *values: object) -> Iterator[Row]: ...

    def write(self, sql: str, rows: Iterable[Row]) -> int:
        """Run a statement once for each row of values; says how many rows it changed."""

    def copy(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        """Add many rows to a table."""

    def numbers(self, table: str, count: int) -> Sequence[int]:
        """Ids for rows that are about to be added, ascending."""

    def define(self, annexes: Sequence[Annex]) -> None:
        """Make the tables of other parts, or bring them to their newest version."""

    def annexes(self) -> dict[str, int]:
        """The versions of other parts' tables that are there."""

    def integrity(self, annexes: Sequence[Annex] = ()) -> Iterator[str]:
        """What the database itself finds wrong with its file, keys and schema.

        annexes  of which the tables are looked at; other parts' are left alone where there is none
        """

    def close(self) -> None: ...


def among(store: Store, sql: str, values: Iterable[object]) -> Iterator[Row]:
    """Rows of a query whose "{}" stands for a list of values, in the order of the values where
    they are many: each query takes some of them.
    """
    remaining = iter(values)
    while batch := list(islice(remaining, _AMONG_MAX)):
        # To powers of two: databases keep few statements ready.
        batch += batch[-1:] * ((1 << (len(batch) - 1).bit_length()) - len(batch))
        yield from store.rows(sql.format(", ".join("?" * len(batch))), *batch)


@dataclass(frozen=True, slots=True)
class Run:
    """Where a batch of usage records comes from.

    Its key is (source, epoch, first_sequence): booked once. A whole input is one batch.
    """

    source: str
    epoch: str
    rules_version: str
    layer: str
    at: str
    program: str  # name and version of what metered
    captures: tuple[tuple[str, str], ...] = ()  # name and digest of each input
    sponsor_accounts: Mapping[str, str] = field(default_factory=dict)  # identity → account
    first_sequence: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.source, self.epoch, self.first_sequence)

    @property
    def title(self) -> str:
        """What people call it: its first capture, where it has one."""
        if not self.captures:
            return f"{self.source} (epoch {self.epoch})"
        more = len(self.captures) - 1
        return f"{self.captures[0][0]} and {more} more" if more else self.captures[0][0]

    @property
    def idempotency_key(self) -> str:
        return json.dumps(["usage", *self.key])


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a run that was handed in for booking."""

    booked: bool  # False: it had been booked before, nothing changed
    run: int
    transaction: int
    booked_at: datetime  # UTC; of the first booking
    records: int
    charges: int
    events: tuple[Event, ...] = ()  # balances that came to their end by it


@dataclass(frozen=True, slots=True)
class Missing:
    """Records of an epoch that are not booked, though later ones are."""

    source: str
    epoch: str
    first_sequence: int
    records: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds: the sum of its postings."""

    account: str
    kind: str
    unit: str
    balance: int
    held: int
    floor: int | None
    state: str


def digest_of(*fields: object) -> str:
    """SHA-256 over what was asked for."""
    return f"sha256:{hashlib.sha256(compact(fields).encode()).hexdigest()}"


class Fingerprint:
    """SHA-256 over all that a run books: the same again is recognised, a changed row shows.

    Names of captures and the program that metered are left out: a renamed file holds the same
    traffic. Rows are hashed as JSON, however they are batched.
    """

    def __init__(self, run: Run) -> None:
        digests = sorted(digest for _, digest in run.captures)
        self._head = [*run.key, run.rules_version, run.layer, run.at, digests]
        self._parts: dict[Part, Any] = {
            name: hashlib.sha256() for name in ("records", "shares", "charges")}

    def add(self, part: Part, rows: Sequence[Row]) -> None:
        """Take rows in, in order. Rows of records: sequence, window start and end in ns,
        subscriber, account, rule, rating group, sponsor, ASP, uplink packets and octets,
        downlink packets and octets, subscriber's octets, first and last packet in ns, flags.
        Of shares, by sequence and identity: sequence, identity, account, octets. Of charges:
        ordinal, account, unit, tariff, octets, rated octets, amount, remainder, period in ns.
        Of taxes, by ordinal and name: ordinal, tax, account, amount, remainder.
        """
        if rows:
            # Runs without taxes have the digests that they had before there were any.
            self._parts.setdefault(part, hashlib.sha256())
            self._parts[part].update(f"{compact(rows)[1:-1]},".encode())

    def digest(self) -> str:
        parts = [part.hexdigest() for part in self._parts.values()]
        return digest_of(*self._head, *parts)


def is_own(account: str) -> bool:
    """Whether a name is the operator's own or a tax's."""
    return account.startswith((OPERATOR, TAX))


def takes_usage(account: str) -> bool:
    """Whether usage is posted to an account of this name, whoever used it."""
    return account in (TRAFFIC, REVENUE, UNCOLLECTED) or account.startswith((REMAINDER, TAX))


def remainder_of(account: str) -> str:
    """The account that pays what rounding down left off of what another one gains."""
    return REMAINDER if account == REVENUE else f"{REMAINDER}:{account}"


def unit_of(currency: str) -> str:
    """The unit of accounts that hold millionths of a currency."""
    return f"{currency}/1000000"


def currency_of(unit: str) -> str | None:
    """The currency of a unit; None: octets."""
    currency, slash, _ = unit.partition("/")
    return currency if slash else None


def instant_ns(instant: datetime) -> int:
    """Nanoseconds since 1970-01-01 UTC; aware datetimes hold whole microseconds."""
    return (instant - _EPOCH) // _MICROSECOND * 1000


def instant_at(instant: int) -> datetime:
    """The instant, in UTC, to the microsecond below."""
    return _EPOCH + timedelta(microseconds=instant // 1000)
