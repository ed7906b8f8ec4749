"""What the open window has used so far is reserved: others see balances as they will be."""

from __future__ import annotations

import time
from collections.abc import Set

import numpy as np

from ..engine.journal import Head
from ..engine.usage import Usage
from ..ledger import Ledger, Run, open_ledger, rate
from ..ledger.store import OCTET, unit_of
from ..model import Event, Quantities
from .booking import run_of

Key = tuple[str, str]  # account and unit
# At most this part of the time is for it: on many prepaid accounts it is done less often.
SHARE = 0.1
NEVER_S = float("inf")


class Reserves:
    """Asks for the open window's usage while accounts have a floor, and has it reserved.

    every_s   how often, at most

    turn() is for the delivering thread; offer() is for the one that counts.
    """

    def __init__(self, url: str, every_s: float) -> None:
        self.asks = False  # for the usage of the window that is open
        self._url = url
        self._every_s = every_s
        self._bounded: Set[Key] = frozenset()
        self._offered: tuple[Head, Usage] | None = None
        self._next_s = time.monotonic()

    def offer(self, head: Head, usage: Usage) -> None:
        """Hand in what the window that is open comes to so far."""
        self.asks = False
        self._offered = (head, usage)

    @property
    def next_s(self) -> float:
        """From when on there is something to do, by the monotonic clock."""
        if self._offered is not None:
            return 0.0
        return NEVER_S if self.asks else self._next_s

    def turn(self) -> tuple[Event, ...]:
        """Reserve what was handed in, or look whether anything is to be. Returns which balances
        came to their end. Raises LedgerError.
        """
        offered, self._offered = self._offered, None
        began_s = time.monotonic()
        events: tuple[Event, ...] = ()
        try:
            with open_ledger(self._url) as book:
                if offered is None:
                    self._bounded = book.bounded()
                    self.asks = bool(self._bounded)
                else:
                    events = self._reserve(book, *offered)
        finally:
            took_s = time.monotonic() - began_s
            self._next_s = began_s + max(self._every_s, took_s / SHARE)
        return events

    def _reserve(self, book: Ledger, head: Head, usage: Usage) -> tuple[Event, ...]:
        run = run_of(head)
        used = self._used(book, run, usage)
        return book.reserve(run, used) if used else ()

    def _used(self, book: Ledger, run: Run, usage: Usage) -> dict[Key, int]:
        """What bounded accounts would be posted with, were the window over."""
        quantities = usage.quantities()
        octets = np.zeros(len(quantities.accounts), np.int64)
        np.add.at(octets, quantities.account, quantities.octets)
        used = {(name, OCTET): amount
                for name, amount in zip(quantities.accounts, octets.tolist(), strict=True)}
        rules = usage.rules
        if rules.tariffs:
            payers = {name for name, unit in self._bounded if unit != OCTET}
            for charge in rate(_of(quantities, payers), rules.tariffs, rules.meter.zone,
                               book.earlier(run)):
                key = charge.account, unit_of(charge.currency)
                taxes = sum(tax.amount_micros for tax in charge.taxes)
                used[key] = used.get(key, 0) + charge.amount_micros + taxes
        return {key: amount for key, amount in used.items() if key in self._bounded}


def _of(quantities: Quantities, payers: Set[str]) -> Quantities:
    """The rows of some accounts."""
    wanted = np.array([name in payers for name in quantities.accounts], bool)
    mine = np.flatnonzero(wanted[quantities.account])
    return Quantities(
        quantities.accounts, quantities.tariffs, quantities.starts_ns, quantities.account[mine],
        quantities.tariff[mine], quantities.cell[mine], quantities.record[mine],
        quantities.octets[mine])
