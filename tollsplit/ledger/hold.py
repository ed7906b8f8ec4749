"""Holds: amounts set aside, then captured, voided or expired, whichever comes first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from ..errors import IdempotencyError, LedgerError, MissingError, OverdraftError, StateError
from ..limits import LEDGER_BATCH_RECORDS
from ..model import Posting
from . import account, event, transfer
from .chain import Chain
from .store import Row, Store, compact, digest_of, instant_at
from .transfer import NO_PROVENANCE, Entry, Provenance, Transfer

HoldState = Literal["held", "captured", "voided", "expired"]
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Hold:
    """An amount that is to be set aside for a while."""

    key: str  # idempotency key, and the hold's name from then on
    account: str
    unit: str
    amount: int
    lifetime_s: int  # after that it expires
    description: str = ""
    provenance: Provenance = NO_PROVENANCE

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(
            self.account, self.unit, self.amount, self.lifetime_s, self.description,
            self.provenance.row,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """What became of a hold."""

    key: str
    account: str
    unit: str
    amount: int
    state: HoldState
    captured: int
    expires_at: datetime  # UTC
    transaction: int | None  # that captured it


def fingerprint_of(
    account: str, unit: str, amount: int, lifetime_s: int, description: str, provenance: Row
) -> str:
    return digest_of(account, unit, amount, lifetime_s, description, provenance)


def place(store: Store, chain: Chain, hold: Hold, now_ns: int) -> Held:
    """Set the amount aside, once. See Ledger.hold."""
    where = f'{store.url}: hold "{hold.key}"'
    if hold.amount <= 0 or hold.lifetime_s <= 0:
        raise LedgerError(
            f"{where}: expected an amount and a lifetime above 0, got {hold.amount} and "
            f"{hold.lifetime_s} s"
        )
    name = hold.account, hold.unit
    numbers = account.numbers(store, [name])
    if name not in numbers:
        raise MissingError(f'{store.url}: no account "{hold.account}" ({hold.unit})')
    fingerprint, expires_ns = hold.fingerprint, now_ns + hold.lifetime_s * _SECOND_NS
    new = store.write(_HOLD, [(
        hold.key, fingerprint, numbers[name], hold.amount, hold.description,
        *hold.provenance.row, now_ns, expires_ns,
    )])  # fmt: skip
    ((number, noted, at),) = store.rows(_FINGERPRINT, hold.key)
    if new:
        ended = _set_aside(store, hold, where)
        event.record_ends(store, chain, [name] if ended else [], event.LEDGER, now_ns)
        chain.add("hold", number, now_ns, compact((hold.key, fingerprint, now_ns, expires_ns)))
    elif noted != fingerprint:
        raise IdempotencyError(
            f"{where}: its key was used at {instant_at(at):%Y-%m-%dT%H:%M:%SZ} for another"
        )
    return read(store, hold.key)


def _set_aside(store: Store, hold: Hold, where: str) -> bool:
    """Returns whether nothing is left after it."""
    for (left,) in list(store.rows(_SET_ASIDE, hold.amount, hold.account, hold.unit)):
        return left is not None and left <= 0
    found = account.balance(store, hold.account, hold.unit)
    if found.state != "open":
        raise StateError(f'{where}: account "{hold.account}" ({hold.unit}): it is closed')
    raise OverdraftError(
        f'{where}: account "{hold.account}" ({hold.unit}): '
        f"{found.balance - found.held - hold.amount} would be below {found.floor}"
    )


def capture(
    store: Store, chain: Chain, key: str, postings: Sequence[Posting], kind: str,
    description: str, provenance: Provenance, now_ns: int,
) -> Held:  # fmt: skip
    """Post what a hold was for and release all of it. See Ledger.capture."""
    number, hold = _found(store, key, store.locking("h"))
    where = f'{store.url}: hold "{key}"'
    name = hold.account, hold.unit
    amount = -sum(p.amount for p in postings if (p.account, p.unit) == name)
    if not 0 < amount <= hold.amount:
        raise LedgerError(
            f'{where}: expected 1 to {hold.amount} to be taken from account "{hold.account}" '
            f"({hold.unit}), got {amount}"
        )
    wanted = Entry(
        Transfer(key, kind, tuple(postings), description, provenance),
        _key_of(key), released={name: hold.amount},
    )  # fmt: skip
    if hold.state == "voided":
        raise StateError(f"{where}: it was voided already; nothing was captured")
    expired = f"{where}: it expired at {hold.expires_at:%Y-%m-%dT%H:%M:%SZ}; nothing was captured"
    if hold.state == "expired":
        raise StateError(expired)
    # A hold that was captured is told, or refused where something else was.
    [posted] = transfer.book(store, chain, [wanted], now_ns)
    if not posted.booked:
        return hold
    if not store.write(_CAPTURED, [(amount, posted.transaction, now_ns, number, now_ns)]):
        raise StateError(expired)
    resolution = ("captured", amount, posted.transaction, now_ns)
    chain.add("resolution", number, now_ns, compact(resolution))
    return replace(hold, state="captured", captured=amount, transaction=posted.transaction)


def void(store: Store, chain: Chain, key: str, now_ns: int) -> Held:
    """Release a hold. See Ledger.void."""
    number, hold = _found(store, key, store.locking("h"))
    if hold.state == "captured":
        raise StateError(f'{store.url}: hold "{key}": it was captured already')
    if hold.state != "held":
        return hold
    resolve(store, chain, [number], "voided", now_ns)
    release(store, [(hold.account, hold.unit, hold.amount)])
    return replace(hold, state="voided")


def expire(store: Store, chain: Chain, now_ns: int) -> int:
    """Release holds whose time is over, some thousands at a time; says how many."""
    # Nobody is waited for: what is locked now is left to who comes next.
    locking = store.locking("h, a", skipping=True)
    found = list(store.rows(_OVER + locking, now_ns, LEDGER_BATCH_RECORDS))
    resolve(store, chain, [number for number, *_ in found], "expired", now_ns)
    release(store, [tuple(row[1:]) for row in found])
    return len(found)


def any_over(store: Store, now_ns: int) -> bool:
    """Whether a hold is there that nobody released though its time is over."""
    return bool(list(store.rows(_ANY_OVER, now_ns)))


def over(store: Store, now_ns: int) -> dict[account.Key, int]:
    """What accounts hold of that kind."""
    return {(name, unit): amount for name, unit, amount in store.rows(_OVER_AMOUNTS, now_ns)}


def resolve(
    store: Store, chain: Chain, numbers: Sequence[int], state: Literal["voided", "expired"],
    now_ns: int,
) -> None:  # fmt: skip
    """Write down that holds, which are locked, are over. What they held is released apart."""
    if store.write(_RESOLVED, [(state, now_ns, number) for number in numbers]) != len(numbers):
        raise StateError(f"{store.url}: a hold was resolved meanwhile")
    for number in numbers:
        chain.add("resolution", number, now_ns, compact((state, 0, None, now_ns)))


def release(store: Store, amounts: Sequence[Row]) -> None:
    """Release what was held. amounts: account, unit and amount of each hold."""
    sums: dict[account.Key, int] = defaultdict(int)
    for name, unit, amount in amounts:
        sums[name, unit] += amount
    accounts = account.lock(store, sums)
    for name, amount in sums.items():
        accounts[name].change(0, -amount)
    account.apply(store, accounts.values())


def read(store: Store, key: str) -> Held:
    return _found(store, key)[1]


def _found(store: Store, key: str, locking: str = "") -> tuple[int, Held]:
    """A hold with its number."""
    for number, name, unit, amount, state, captured, at, transaction in list(
        store.rows(_READ + locking, key)
    ):
        return number, Held(key, name, unit, amount, state, captured, instant_at(at), transaction)
    raise MissingError(f'{store.url}: no hold "{key}"')


def astray(store: Store) -> Iterator[str]:
    """What of the holds is not as it was asked for, or does not fit accounts and transactions."""
    for key, noted, created, expires, *row in store.rows(_ASKED):
        name, unit, amount, description, *provenance = row
        lifetime_s = (expires - created) // _SECOND_NS
        if noted != fingerprint_of(name, unit, amount, lifetime_s, description, tuple(provenance)):
            yield f'hold "{key}": it is not the one that was asked for: the fingerprint differs'
    for name, unit, noted, held in store.rows(_AMOUNTS):
        yield f'account "{name}" ({unit}): held {noted}, its open holds sum to {held}'
    for key, state, captured, amount, capture_key in store.rows(_CAPTURES):
        if state == "captured" and capture_key != _key_of(key):
            yield f'hold "{key}": captured, but not by its own transaction'
        if captured != amount:
            yield f'hold "{key}": captured {captured}, its transaction took {amount}'
    for transaction, key in store.rows(_HOLDLESS):
        yield f"transaction {transaction}: captures no hold, its key is {key}"


def _key_of(hold: str) -> str:
    return f"capture {hold}"


_HOLD = """
    INSERT INTO holds (idempotency_key, fingerprint, account_id, amount, description,
        service_request, run_id, tariff, rules_version, created_at_ns, expires_at_ns)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING"""
_FINGERPRINT = "SELECT id, fingerprint, created_at_ns FROM holds WHERE idempotency_key = ?"
_SET_ASIDE = """
    UPDATE accounts SET held = held + ?1
    WHERE name = ?2 AND unit = ?3 AND state = 'open'
        AND (floor IS NULL OR balance - held - ?1 >= floor)
    RETURNING balance - held - floor"""
_CAPTURED = """
    UPDATE holds SET state = 'captured', captured = ?, transaction_id = ?, resolved_at_ns = ?
    WHERE id = ? AND state = 'held' AND expires_at_ns > ?"""
_RESOLVED = """
    UPDATE holds SET state = ?, resolved_at_ns = ? WHERE id = ? AND state = 'held'"""
_READ = """
    SELECT h.id, a.name, a.unit, h.amount, h.state, h.captured, h.expires_at_ns,
        h.transaction_id
    FROM holds h JOIN accounts a ON a.id = h.account_id WHERE h.idempotency_key = ?"""
_ANY_OVER = "SELECT 1 FROM holds WHERE state = 'held' AND expires_at_ns <= ? LIMIT 1"
_OVER = """
    SELECT h.id, a.name, a.unit, h.amount FROM holds h JOIN accounts a ON a.id = h.account_id
    WHERE h.state = 'held' AND h.expires_at_ns <= ? ORDER BY h.id LIMIT ?"""
_OVER_AMOUNTS = """
    SELECT a.name, a.unit, sum(h.amount) FROM holds h JOIN accounts a ON a.id = h.account_id
    WHERE h.state = 'held' AND h.expires_at_ns <= ? GROUP BY a.name, a.unit"""
_ASKED = """
    SELECT h.idempotency_key, h.fingerprint, h.created_at_ns, h.expires_at_ns, a.name, a.unit,
        h.amount, h.description, h.service_request, h.run_id, h.tariff, h.rules_version
    FROM holds h JOIN accounts a ON a.id = h.account_id ORDER BY h.id"""
_AMOUNTS = """
    SELECT name, unit, held, open FROM (
        SELECT a.name, a.unit, a.held, coalesce((SELECT sum(h.amount) FROM holds h
            WHERE h.account_id = a.id AND h.state = 'held'), 0) AS open
        FROM accounts a) x
    WHERE held <> open"""
_CAPTURES = """
    SELECT h.idempotency_key, h.state, h.captured, coalesce(-p.amount, 0), t.idempotency_key
    FROM holds h LEFT JOIN transactions t ON t.id = h.transaction_id
    LEFT JOIN postings p ON p.transaction_id = h.transaction_id AND p.account_id = h.account_id
    ORDER BY h.id"""
_HOLDLESS = """
    SELECT id, idempotency_key FROM transactions
    WHERE substr(idempotency_key, 1, 8) = 'capture '
        AND id NOT IN (SELECT transaction_id FROM holds WHERE transaction_id IS NOT NULL)"""
