"""Closed periods: what was booked in them is summed up, and the sum is signed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..errors import LedgerError, MissingError, StateError
from . import chain, merkle
from .calendar import Calendar
from .chain import Chain
from .items import leaves
from .store import Store, compact, instant_at

HEAD = "tollsplit.head/1"


class Signs(Protocol):
    """A private key."""

    @property
    def public_key(self) -> str: ...

    def sign(self, text: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Head:
    """What is signed of a period; its fields are the text's, in this order."""

    schema: str
    ledger: str  # its identity
    period: str
    zone: str
    start_ns: int
    end_ns: int
    first_link: int  # one more than the last: nothing was written
    last_link: int
    chain: str  # the last link's digest, hexadecimal
    last_transaction: int  # of all up to the last link; 0: none
    accounts: int  # leaves of the tree
    root: str  # the tree's, hexadecimal
    previous: str | None  # SHA-256 of the head before this one, hexadecimal
    closed_at_ns: int

    @property
    def text(self) -> str:
        return compact(asdict(self))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def title(self) -> str:
        return f"{self.period} ({self.zone})"


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A closed period."""

    head: Head
    public_key: str  # 32 octets, hexadecimal
    signature: str  # 64 octets, hexadecimal

    @property
    def document(self) -> dict[str, Any]:
        return {
            "head": asdict(self.head), "public_key": self.public_key, "signature": self.signature,
        }  # fmt: skip


def head_of(found: Any) -> Head:
    """A head from parsed JSON; raises ValueError where it is none."""
    if not isinstance(found, dict) or found.get("schema") != HEAD:
        raise ValueError(f"expected a head of schema {HEAD}")
    try:
        head = Head(**found)
        chain_, root = bytes.fromhex(head.chain), bytes.fromhex(head.root)
    except TypeError as error:
        raise ValueError(f"expected a head of schema {HEAD}: {error}") from error
    numbers = (head.start_ns, head.end_ns, head.first_link, head.last_link, head.accounts,
               head.last_transaction, head.closed_at_ns)  # fmt: skip
    texts = head.ledger, head.period, head.zone, head.previous or ""
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("expected texts for ledger, period, zone and previous in the head")
    if len(chain_) != 32 or len(root) != 32 or not all(type(n) is int for n in numbers):
        raise ValueError("expected whole numbers and digests of 32 octets in the head")
    return head


@dataclass(frozen=True, slots=True)
class Sum:
    """What a period comes to, before it is signed."""

    first: int
    last: int
    accounts: tuple[tuple[str, bytes], ...]  # name and leaf hash of each, by name

    @property
    def root(self) -> str:
        return merkle.root([digest for _, digest in self.accounts]).hex()


def sum_up(store: Store, period: str, zone: str | None) -> Sum:
    """Add up a period that is over, as far as is known now."""
    start_ns, end_ns, _, _ = _next(store, period, zone)
    return _sum(store, chain.last_before(store, start_ns) + 1, chain.last_before(store, end_ns))


def _sum(store: Store, first: int, last: int) -> Sum:
    found = leaves(store, first, last)
    return Sum(first, last, tuple((x.account, merkle.leaf_hash(x.text)) for x in found))


def close(
    store: Store, links: Chain, found: Sum, period: str, zone: str | None, signer: Signs,
    now_ns: int,
) -> SignedHead:  # fmt: skip
    """Close a period. See Ledger.close_period.

    found  what it came to a moment ago; added up anew where something came in meanwhile
    """
    links.write()
    store.serialise("chain")
    start_ns, end_ns, zone, before = _next(store, period, zone)
    if now_ns < end_ns:
        raise StateError(
            f"{store.url}: {period} ({zone}) ends at {_utc(end_ns)}; it is {_utc(now_ns)} by this "
            "clock: close it then"
        )
    last = chain.last_before(store, end_ns)
    if last != found.last:
        found = _sum(store, found.first, last)
    genesis = chain.genesis(store)
    digest = chain.digest_at(store, last)
    if genesis is None or digest is None:
        raise LedgerError(f"{store.url}: its chain is damaged; see `tollsplit ledger verify`")
    ((transaction,),) = store.rows(_LAST_TRANSACTION, last)
    head = Head(
        HEAD, genesis.identity, period, zone, start_ns, end_ns, found.first, last,
        digest.hex(), transaction, len(found.accounts), found.root,
        before.digest if before else None, now_ns,
    )  # fmt: skip
    signed = SignedHead(head, signer.public_key, signer.sign(head.text))
    (number,) = store.numbers("periods", 1)
    row = head.text, signed.public_key, signed.signature
    store.write(_PERIOD, [(number, period, *row)])
    store.copy("leaves", "period_id, account, digest", (
        (number, account, digest.hex()) for account, digest in found.accounts
    ))  # fmt: skip
    # Written after all that the period holds: later links cannot have a time before its end.
    links.add("period", number, now_ns, compact(row))
    return signed


def _next(store: Store, period: str, zone: str | None) -> tuple[int, int, str, Head | None]:
    """Bounds and zone of the period that is to be closed, and the head before it. Raises StateError
    where it is not the one that follows.
    """
    heads = [signed.head for signed in read(store)]
    before = heads[-1] if heads else None
    zone = zone or (before.zone if before else "UTC")
    start_ns, end_ns = Calendar(zone, period).bounds_ns
    for head in heads:
        if head.period == period:
            raise StateError(
                f"{store.url}: {head.title} was closed at {_utc(head.closed_at_ns)} already"
            )
    if before and before.end_ns != start_ns:
        raise StateError(
            f"{store.url}: {period} ({zone}) begins at {_utc(start_ns)}, but the last period that "
            f"was closed, {before.title}, ends at {_utc(before.end_ns)}: close what follows "
            "it first, in its zone"
        )
    return start_ns, end_ns, zone, before


def read(store: Store) -> list[SignedHead]:
    """Every closed period, in order. Raises LedgerError where one cannot be read."""
    found = []
    for number, _, text, public_key, signature in store.rows(_PERIODS):
        try:
            head = head_of(json.loads(text))
        except ValueError as error:
            raise LedgerError(f"{store.url}: closed period {number}: {error}") from error
        found.append(SignedHead(head, public_key, signature))
    return found


def place(store: Store, period: str) -> tuple[SignedHead, list[tuple[str, bytes]]]:
    """A closed period and its leaves: account and hash of each, by name. Raises MissingError."""
    for signed in read(store):
        if signed.head.period == period:
            found = store.rows(_LEAVES, period)
            return signed, [(account, bytes.fromhex(digest)) for account, digest in found]
    raise MissingError(
        f"{store.url}: {period} is not closed; `tollsplit ledger close` closes and signs it"
    )


def _utc(instant_ns: int) -> str:
    return f"{instant_at(instant_ns):%Y-%m-%dT%H:%M:%SZ}"


# --- verifying --------------------------------------------------------------------------


def astray(store: Store, public_key: str | None) -> Iterator[str]:
    """Closed periods that the rows don't add up to, or that are not signed.

    public_key  whose signature is expected; None: that of whoever signed the first of them
    """
    previous: Head | None = None
    genesis = chain.genesis(store)
    for number, period, text, key, signature in list(store.rows(_PERIODS)):
        place_ = f"period {number} ({period})"
        try:
            head = head_of(json.loads(text))
            start_ns, end_ns = Calendar(head.zone, head.period).bounds_ns
        except (ValueError, LedgerError) as error:
            yield f"{place_}: {error}"
            continue
        yield from (f"{place_}: {finding}" for finding in _signed(text, key, signature, public_key))
        public_key = public_key or key
        found = _sum(store, head.first_link, head.last_link)
        ((transaction,),) = store.rows(_LAST_TRANSACTION, head.last_link)
        digest = chain.digest_at(store, head.last_link)
        expected = {
            "ledger": genesis and genesis.identity, "period": period, "start_ns": start_ns,
            "end_ns": end_ns, "first_link": chain.last_before(store, start_ns) + 1,
            "last_link": chain.last_before(store, end_ns), "chain": digest and digest.hex(),
            "last_transaction": transaction, "accounts": len(found.accounts), "root": found.root,
            "previous": previous and previous.digest,
        }  # fmt: skip
        for name, value in expected.items():
            if getattr(head, name) != value:
                yield f"{place_}: {name}: {getattr(head, name)} signed, the rows say {value}"
        yield from _leaves_astray(store, place_, number, found)
        previous = head
    for period_id, account in store.rows(_LOOSE_LEAVES):
        yield f'leaf of account "{account}": its period {period_id} is missing'


def _signed(text: str, key: str, signature: str, public_key: str | None) -> Iterator[str]:
    from .signing import is_signed

    if not is_signed(text, key, signature):
        yield "its signature is not that of its public key over its head"
    if public_key is not None and key != public_key:
        yield f"it is signed by the key {key}, expected {public_key}"


def _leaves_astray(store: Store, place: str, number: int, found: Sum) -> Iterator[str]:
    stored: dict[str, str] = dict(store.rows(_LEAVES_OF, number))
    for account, digest in found.accounts:
        noted = stored.pop(account, None)
        if noted is None:
            yield f'{place}: account "{account}": its leaf is missing'
        elif noted != digest.hex():
            yield (
                f'{place}: account "{account}": its records, charges, postings or balances are '
                "not those that were signed: the leaf differs"
            )
    yield from (f'{place}: account "{account}": a leaf, but no postings' for account in stored)


def kept_elsewhere(store: Store, signed: SignedHead) -> Iterator[str]:
    """What keeps a ledger from going on from a signed head that somebody else kept."""
    head, genesis = signed.head, chain.genesis(store)
    what = f"the head of {head.title} that was kept elsewhere"
    last, _, _ = chain.head(store)
    digest = chain.digest_at(store, head.last_link)
    if genesis is None or head.ledger != genesis.identity:
        yield f"{what}: it is of the ledger {head.ledger}, not of this one"
    elif head.last_link > last:
        yield (
            f"{what}: it goes up to link {head.last_link}, this ledger to link {last}: it was put "
            "back to an older copy, or its end was cut off"
        )
    elif digest is None or digest.hex() != head.chain:
        yield f"{what}: link {head.last_link} is another: the ledger was rewritten"
    elif head.text not in [text for _, _, text, _, _ in store.rows(_PERIODS)]:
        yield f"{what}: this ledger did not close that period, or closed it otherwise"


_LAST_TRANSACTION = """
    SELECT coalesce((SELECT subject FROM chain WHERE kind = 'transaction' AND number <= ?
        ORDER BY number DESC LIMIT 1), 0)"""
_PERIOD = """
    INSERT INTO periods (id, period, head, public_key, signature) VALUES (?, ?, ?, ?, ?)"""
_PERIODS = "SELECT id, period, head, public_key, signature FROM periods ORDER BY id"
_LEAVES = """
    SELECT l.account, l.digest FROM leaves l JOIN periods p ON p.id = l.period_id
    WHERE p.period = ? ORDER BY l.account"""
_LEAVES_OF = "SELECT account, digest FROM leaves WHERE period_id = ?"
_LOOSE_LEAVES = """
    SELECT period_id, account FROM leaves WHERE period_id NOT IN (SELECT id FROM periods)"""
