"""From the journal into the ledger: each segment is booked once, whatever happens on the way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from ..carryover import carryover
from ..engine.cells import Cells
from ..engine.journal import Contents, Head, read, set_aside
from ..engine.usage import Prior, Spent, Usage
from ..errors import JournalError, LedgerError, RulesError, StaleError, UnbookableError
from ..ledger import open_ledger
from ..model import Event
from ..rules import RuleSet
from ..rules.rule import At
from ..snapshot import Notice, NoticeKind
from .booking import book
from .reserves import Reserves

RETRY_S = 1.0
RETRY_MAX_S = 30.0
LOOK_S = 0.1
HURRY_S = 1.0


class Deliverer(Protocol):
    """A thread that takes sealed segments to the books, and off the disk once they are there.

    error     why it cannot, for now; failure: what ended it before its time
    records   booked
    batches   segments that are not booked yet
    """

    error: str | None
    failure: BaseException | None
    records: int

    @property
    def batches(self) -> int: ...
    def start(self) -> None: ...
    def add(self, path: Path) -> None: ...
    def tell(self, event: Event) -> None: ...
    def end(self) -> None: ...
    def finish(self, hurried: Callable[[], bool]) -> None: ...


class Delivery(threading.Thread):
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
        super().__init__(name="delivery", daemon=True)
        self.error: str | None = None
        self.records = 0  # booked
        self.failure: BaseException | None = None  # what ended it before its time
        self._url = url
        self._rules = rules
        self._known = known
        self._noticed = noticed
        self.reserves = reserves
        self._final = final
        self._leftovers = len(leftovers)
        self._waiting = deque(leftovers)
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._ending = False

    @property
    def batches(self) -> int:
        """Segments that are not booked yet."""
        return len(self._waiting)

    def add(self, path: Path) -> None:
        with self._changed:
            self._waiting.append(path)
            self._changed.notify()

    def tell(self, event: Event) -> None:
        """Have an event kept in the ledger."""
        with self._changed:
            self._events.append(event)
            self._changed.notify()

    def offer(self, head: Head, usage: Usage) -> None:
        """Have what the open window has used so far reserved; see Reserves.asks."""
        with self._changed:
            self.reserves.offer(head, usage)
            self._changed.notify()

    def end(self) -> None:
        """Have it end once it has booked what is there, or the ledger fails."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def finish(self, hurried: Callable[[], bool]) -> None:
        """Wait for the end.

        hurried   whether not to wait for longer than a second; asked again and again
        """
        self.end()
        while self.is_alive() and not hurried():
            self.join(LOOK_S)
        if self.is_alive():
            self.join(HURRY_S)

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.failure = error

    def _run(self) -> None:
        asked = False
        pause_s = RETRY_S
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
                if self.error is None:
                    self._notice("booking", f"{error}; the journal keeps what is not booked")
                self.error = str(error)
                if not asked:  # an answer that is late helps nobody: counting goes on meanwhile
                    self._known({}, {})
                    asked = True
                with self._changed:
                    if self._ending:
                        return
                    self._changed.wait_for(lambda: self._ending, pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            if self.error is not None:
                self._notice("booking", f"{self._url}: takes bookings again")
                self.error = None
            pause_s = RETRY_S
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
            self._notice("booking", f"{error}; what earlier runs used up of quotas is not shown")
            self._known({}, {})

    def _deliver(self, path: Path) -> None:
        try:
            self._book(path)
        except (JournalError, RulesError, UnbookableError) as error:
            # What no trying makes better must not stop what comes behind it.
            aside = set_aside(path)
            self._notice("booking", f"{error}; it is kept as {aside}, and not booked")

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

    def _notice(self, kind: NoticeKind, text: str) -> None:
        self._noticed(Notice(kind, time.time_ns(), text))


def recovered(path: Path, contents: Contents) -> Notice:
    """What is told of a segment whose run died."""
    last = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(contents.last_ns // 10**9))
    torn = f" ({contents.torn_octets:,} torn octets)" if contents.torn_octets else ""
    return Notice(
        "recovered", time.time_ns(),
        f"{path.name}: the run that wrote it died; what it had counted until {last} UTC is "
        f"booked, what it counted since its last flush is lost{torn}")
