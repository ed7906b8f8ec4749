"""Reserves: what a batch of usage that is still open has used so far, held of bounded accounts.

A reserve is a hold that the ledger itself places, so that everybody sees a balance as it will be
when the batch is booked. It is never more than what is left, and booking the batch releases it in
the transaction that posts the usage: no bill depends on it. Its key names the batch.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import LedgerError
from ..model import Event
from . import account, event, hold
from .account import Account, Key
from .chain import Chain
from .store import Row, Run, Store, among, compact

KIND = "reserve "  # begins the key; then come the run's idempotency key and the hold's number
_SECOND_NS = 1_000_000_000
# A reserve is renewed when what is not in it is as much as what is, or this part of what is left.
_LEFT_PARTS = 16


@dataclass(frozen=True, slots=True)
class Reserve:
    """One that is held."""

    number: int
    account: str
    unit: str
    amount: int
    expires_ns: int

    @property
    def name(self) -> Key:
        return self.account, self.unit


def expect_other(key: str) -> None:
    """Raise LedgerError where a hold's key is one of ours."""
    if key.startswith(KIND):
        raise LedgerError(f'hold "{key}": keys with "{KIND}" are the ledger\'s own; choose another')


def of_run(store: Store, run: Run) -> list[Reserve]:
    """Those that are held for a batch; they are locked. Accounts are to be locked after them."""
    begin = f"{KIND}{run.idempotency_key}"
    rows = store.rows(_OF_RUN + store.locking("h"), f"{begin} ", f"{begin}!")
    return [Reserve(*row) for row in list(rows)]


def place(
    store: Store, chain: Chain, run: Run, used: Mapping[Key, int], lifetime_s: int, now_ns: int
) -> tuple[Event, ...]:
    """Hold what a batch has used, where it differs enough from what is held. See Ledger.reserve."""
    held = {one.name: one for one in of_run(store, run)}
    accounts = account.lock(store, used)
    over: list[Reserve] = []
    due: list[tuple[Account, int]] = []
    for name, amount in used.items():
        its, before = accounts[name], held.get(name)
        wanted = _wanted(its, amount, before, now_ns + lifetime_s * _SECOND_NS // 2)
        if wanted is None:
            continue
        its.change(0, wanted - (before.amount if before else 0))
        if before is not None:
            over.append(before)
        if wanted:
            due.append((its, wanted))
    hold.resolve(store, chain, [one.number for one in over], "voided", now_ns)
    _write(store, chain, run, due, lifetime_s, now_ns)
    ended = account.apply(store, accounts.values())
    return event.record_ends(store, chain, ended, (run.source, run.epoch), now_ns)


def _wanted(its: Account, used: int, before: Reserve | None, renew_ns: int) -> int | None:
    """How much is to be held of an account from now on; None: leave it as it is.

    renew_ns   what expires before that is held anew
    """
    if its.available is None:  # it has no floor any more
        return None
    held = before.amount if before else 0
    wanted = max(0, min(used, its.available + held))
    more = wanted - held
    if (
        more < 0
        or (more and (more >= held or more * _LEFT_PARTS >= its.available))
        or (before is not None and before.expires_ns < renew_ns)
    ):
        return wanted
    return None


def _write(
    store: Store, chain: Chain, run: Run, due: Sequence[tuple[Account, int]], lifetime_s: int,
    now_ns: int,
) -> None:  # fmt: skip
    description = f"usage of {run.title}, so far"
    provenance = (None, None, None, run.rules_version)
    expires_ns = now_ns + lifetime_s * _SECOND_NS
    rows: list[Row] = []
    for number, (its, amount) in zip(store.numbers("holds", len(due)), due, strict=True):
        key = f"{KIND}{run.idempotency_key} {number}"
        mark = hold.fingerprint_of(its.name, its.unit, amount, lifetime_s, description, provenance)
        rows.append((number, key, mark, its.number, amount, description, *provenance, now_ns,
                     expires_ns))  # fmt: skip
        chain.add("hold", number, now_ns, compact((key, mark, now_ns, expires_ns)))
    store.copy("holds", _COLUMNS, rows)


def release(store: Store, chain: Chain, held: Sequence[Reserve], now_ns: int) -> None:
    """Release reserves of a batch that is booked; they and their accounts are locked."""
    hold.resolve(store, chain, [one.number for one in held], "voided", now_ns)
    hold.release(store, [(*one.name, one.amount) for one in held])


def astray(store: Store) -> Iterator[str]:
    """Reserves that are not as they have to be."""
    batches: dict[str, list[str]] = defaultdict(list)
    per_account: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for number, key, name, unit, state in store.rows(_ALL):
        batch, _, noted = key.removeprefix(KIND).rpartition(" ")
        if noted != str(number) or not _is_batch(batch):
            yield f'hold "{key}" ({number}): its key names no batch of usage, or another hold'
        elif state == "captured":
            yield f'hold "{key}": captured; what an open batch used is released when it is booked'
        elif state == "held":
            batches[batch].append(key)
            per_account[batch, name, unit].append(key)
    for batch, transaction in among(store, _BOOKED, batches):
        for key in batches[batch]:
            yield f'hold "{key}": held, though transaction {transaction} booked its batch'
    for (_, name, unit), keys in per_account.items():
        for key in keys[1:]:
            yield (
                f'hold "{key}": account "{name}" ({unit}): its batch has another one, "{keys[0]}"'
            )


def _is_batch(text: str) -> bool:
    try:
        kind, source, epoch, first = json.loads(text)
    except (TypeError, ValueError):
        return False
    return kind == "usage" and json.dumps([kind, source, epoch, first]) == text


_COLUMNS = """
    id, idempotency_key, fingerprint, account_id, amount, description, service_request, run_id,
    tariff, rules_version, created_at_ns, expires_at_ns"""
_OF_RUN = """
    SELECT h.id, a.name, a.unit, h.amount, h.expires_at_ns
    FROM holds h JOIN accounts a ON a.id = h.account_id
    WHERE h.state = 'held' AND h.idempotency_key > ? AND h.idempotency_key < ? ORDER BY h.id"""
_ALL = f"""
    SELECT h.id, h.idempotency_key, a.name, a.unit, h.state
    FROM holds h JOIN accounts a ON a.id = h.account_id
    WHERE substr(h.idempotency_key, 1, {len(KIND)}) = '{KIND}' ORDER BY h.id"""
_BOOKED = "SELECT idempotency_key, id FROM transactions WHERE idempotency_key IN ({})"
