"""Accounts: opened, closed, and changed only where they may be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import LedgerError, MissingError, OverdraftError, StateError
from .store import PAYERS, Balance, Store, among, is_own, takes_usage

AccountKind = Literal["subscriber", "sponsor", "operator", "card", "settlement", "remainder"]
Key = tuple[str, str]  # name and unit

_UNIT = re.compile(r"octet|[A-Z]{3}/1000000")


@dataclass(slots=True)
class Account:
    """An account that nobody else changes until the transaction ends, and what this one adds."""

    number: int
    name: str
    unit: str
    state: str
    balance: int
    held: int
    floor: int | None
    gained: int = 0
    set_aside: int = 0

    @property
    def available(self) -> int | None:
        """What can be taken from it; None: anything."""
        if self.state != "open":
            return 0
        return None if self.floor is None else max(0, self.balance - self.held - self.floor)

    @property
    def ends(self) -> bool:
        """Whether what is added leaves nothing to take from it, of which there was something."""
        if self.floor is None:
            return False
        left = self.balance - self.held - self.floor
        return left > 0 and left + self.gained - self.set_aside <= 0

    def change(self, gained: int, set_aside: int) -> None:
        """Gain (or lose) an amount and set one aside (or release it). Raises StateError,
        OverdraftError.
        """
        if self.state != "open":
            raise StateError(f"{self}: it is closed")
        self.gained += gained
        self.set_aside += set_aside
        if self.floor is not None:
            left = self.balance + self.gained - self.held - self.set_aside
            if left < self.floor:
                raise OverdraftError(f"{self}: {left} would be below {self.floor}")

    def __str__(self) -> str:
        return f'account "{self.name}" ({self.unit})'


def numbers(store: Store, names: Iterable[Key]) -> dict[Key, int]:
    """The ids of those accounts that are there."""
    wanted = dict.fromkeys(names)
    found = among(store, _NUMBERS, dict.fromkeys(name for name, _ in wanted))
    return {(name, unit): number for name, unit, number in found if (name, unit) in wanted}


def lock(store: Store, names: Iterable[Key]) -> dict[Key, Account]:
    """Those accounts, locked in the order of their names: two that lock the same never wait for
    each other in a circle. Raises MissingError.
    """
    wanted = dict.fromkeys(names)
    found = among(
        store, _ACCOUNTS + store.locking("accounts"), sorted({name for name, _ in wanted})
    )
    known = {(row[1], row[2]): Account(*row) for row in found}
    for name, unit in wanted:
        if (name, unit) not in known:
            raise MissingError(f'{store.url}: no account "{name}" ({unit})')
    return known


def apply(store: Store, accounts: Iterable[Account]) -> list[Key]:
    """Write down what was added to locked accounts; their floors are held by the update itself.
    Returns those whose balance came to its end by it.
    """
    changed = [a for a in accounts if a.gained or a.set_aside]
    rows = sorted((a.number, a.gained, a.set_aside) for a in changed)
    if store.write(_APPLY, rows) != len(rows):
        raise OverdraftError(f"{store.url}: an account is closed or would be below its floor")
    return [(a.name, a.unit) for a in changed if a.ends]


def bounded(store: Store) -> set[Key]:
    """Open accounts that have a floor and that usage is posted to by itself."""
    return set(store.rows(_BOUNDED, *PAYERS))


def open_account(store: Store, name: str, unit: str, kind: AccountKind, floor: int | None) -> None:
    if not _UNIT.fullmatch(unit):
        raise LedgerError(f'account "{name}": unit: expected "octet" or as "CNY/1000000", got '
                          f'"{unit}"')  # fmt: skip
    if is_own(name) and kind not in ("operator", "remainder", "settlement"):
        raise LedgerError(own_name(name))
    if floor is not None:
        _expect_bounded(name)
    store.write(_OPEN, [(name, unit, kind, floor)])
    found = balance(store, name, unit)
    if (found.kind, found.floor, found.state) != (kind, floor, "open"):
        raise StateError(
            f'{store.url}: account "{name}" ({unit}) is there already: {found.state}, of kind '
            f"{found.kind}, floor {found.floor}"
        )


def balance(store: Store, name: str, unit: str) -> Balance:
    """An account as it is written down: what is held may be over."""
    for row in store.rows(_BALANCE, name, unit):
        return Balance(*row)
    raise MissingError(f'{store.url}: no account "{name}" ({unit})')


def own_name(name: str) -> str:
    """What to say where a payer has the operator's or a tax's name."""
    prefix = name[: name.index(":") + 1]
    return f'account "{name}": names with "{prefix}" are the operator\'s own; choose another'


def _expect_bounded(name: str) -> None:
    """Usage has been used: what it is posted to must take it."""
    if takes_usage(name):
        raise StateError(f'account "{name}": usage is posted to it: it stays open, without a floor')


def set_floor(store: Store, name: str, unit: str, floor: int | None) -> None:
    if floor is not None:
        _expect_bounded(name)
    if not store.write(_FLOOR, [(floor, name, unit)]):
        found = balance(store, name, unit)
        raise OverdraftError(
            f'{store.url}: account "{name}" ({unit}): {found.balance - found.held} is below '
            f"{floor} already"
        )


def close(store: Store, name: str, unit: str) -> None:
    _expect_bounded(name)
    if not store.write(_CLOSE, [(name, unit)]):
        found = balance(store, name, unit)
        if found.state == "open":
            raise StateError(
                f'{store.url}: account "{name}" ({unit}): {found.held} are held; resolve its '
                "holds first"
            )


_NUMBERS = "SELECT name, unit, id FROM accounts WHERE name IN ({})"
_ACCOUNTS = """
    SELECT id, name, unit, state, balance, held, floor FROM accounts
    WHERE name IN ({}) ORDER BY name, unit"""
_APPLY = """
    UPDATE accounts SET balance = balance + ?2, held = held + ?3
    WHERE id = ?1 AND state = 'open'
        AND (floor IS NULL OR balance + ?2 - held - ?3 >= floor)"""
_BOUNDED = """
    SELECT name, unit FROM accounts
    WHERE floor IS NOT NULL AND state = 'open' AND kind IN (?, ?)"""
_OPEN = """
    INSERT INTO accounts (name, unit, kind, floor) VALUES (?, ?, ?, ?)
    ON CONFLICT (name, unit) DO NOTHING"""
_BALANCE = """
    SELECT name, kind, unit, balance, held, floor, state FROM accounts
    WHERE name = ? AND unit = ?"""
_FLOOR = """
    UPDATE accounts SET floor = ?1
    WHERE name = ?2 AND unit = ?3 AND (CAST(?1 AS BIGINT) IS NULL OR balance - held >= ?1)"""
_CLOSE = """
    UPDATE accounts SET state = 'closed'
    WHERE name = ? AND unit = ? AND state = 'open' AND held = 0"""
