"""From the journal into the ledger: each segment is booked once, whatever happens on the way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from ..carryover import carryover
from ..engine.cells import Cells
from ..engine.journal import Head, read, set_aside
from ..engine.usage import Prior, Spent, Usage
from ..errors import JournalError, LedgerError, RulesError, StaleError, UnbookableError
from ..ledger import open_ledger
from ..model import Event
from ..rules import RuleSet
from ..rules.rule import At
from ..snapshot import Notice
from .booking import book
from .deliverer import Deliverer, recovered
from .reserves import Reserves


class Delivery(Deliverer):
    """Books sealed segments in their order and takes them off the disk; tries again for ever.

    url          the ledger's
    leftovers    segments of earlier runs; they come first
    rules        for whose periods the ledger is asked what earlier runs used up, after those
    known        is told the answer once; nothing is known where the ledger cannot be reached
    noticed      is told what happens, also of balances that came to their end
    reserves     of the open window; they are seen to where nothing waits
    final        is told what was booked, and was not before

    Its shares and charges are worked out here, from what was booked before. A segment's records
    have a key of their own (source, epoch, sequence), so one that was booked when the power went
    is found booked, and changes nothing.
    """

    def __init__(
        self,
        url: str,
        leftovers: list[Path],
        rules: RuleSet,
        known: Callable[[Prior, Spent], None],
        noticed: Callable[[Event | Notice], None],
        reserves: Reserves,
        final: Callable[[Usage, At], None],
    ) -> None:
        super().__init__("delivery", url, noticed)
        self._url = url
        self._rules = rules
        self._known = known
        self.reserves = reserves
        self._final = final
        self._leftovers = len(leftovers)
        self._waiting = deque(leftovers)

    @property
    def batches(self) -> int:
        return len(self._waiting)

    def add(self, path: Path) -> None:
        with self._changed:
            self._waiting.append(path)
            self._changed.notify()

    def offer(self, head: Head, usage: Usage) -> None:
        """Have what the open window has used so far reserved; see Reserves.asks."""
        with self._changed:
            self.reserves.offer(head, usage)
            self._changed.notify()

    def _run(self) -> None:
        asked = False
        while True:
            if not asked and not self._leftovers:
                self._ask()
                asked = True
            with self._changed:
                while not (self._waiting or self._events):
                    if self._ending:
                        return
                    pause = self.reserves.next_s - time.monotonic()
                    if pause <= 0:
                        break
                    self._changed.wait(min(pause, threading.TIMEOUT_MAX))
                path = self._waiting[0] if self._waiting else None
                events = tuple(self._events)
            try:
                if events:
                    with open_ledger(self._url) as ledger:
                        ledger.record_events(events)
                    del self._events[: len(events)]
                if path is not None:
                    self._deliver(path)
                elif not events:
                    self._raise(self.reserves.turn())
            except StaleError:  # it is worked out anew, from what was booked meanwhile
                continue
            except (LedgerError, OSError) as error:  # or what is booked cannot be taken away
                if not asked:  # an answer that is late helps nobody: counting goes on meanwhile
                    self._known({}, {})
                    asked = True
                if not self._fails(error):
                    return
                continue
            self._succeeds()
            if path is None:
                continue
            with self._changed:
                self._waiting.popleft()
            self._leftovers = max(0, self._leftovers - 1)

    def _ask(self) -> None:
        """What earlier runs used up of the periods that this instant lies in."""
        cells = Cells(self._rules)
        cells.at(time.time_ns())
        try:
            with open_ledger(self._url) as ledger:
                self._known(*carryover(ledger, None, self._rules)(cells))
        except LedgerError as error:
            self._notice(f"{error}; what earlier runs used up of quotas is not shown")
            self._known({}, {})

    def _deliver(self, path: Path) -> None:
        try:
            self._book(path)
        except (JournalError, RulesError, UnbookableError) as error:
            # What no trying makes better must not stop what comes behind it.
            aside = set_aside(path)
            self._notice(f"{error}; it is kept as {aside}, and not booked")

    def _book(self, path: Path) -> None:
        try:
            contents = read(path)
        except JournalError:
            if not path.exists():  # another run has booked it
                return
            raise
        if contents.records is None and contents.last_ns:
            self._noticed(recovered(path, contents))
        with open_ledger(self._url) as ledger:
            booked = book(ledger, contents)
        if booked.receipt is not None:
            if booked.receipt.booked:
                self._final(booked.usage, contents.head.rules.meter.at)
            self._raise(booked.receipt.events)
            self.records += booked.receipt.records
        path.unlink(missing_ok=True)

    def _raise(self, events: Iterable[Event]) -> None:
        for event in events:
            self._noticed(event)
