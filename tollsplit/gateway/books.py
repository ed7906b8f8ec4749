"""A live run's usage on its way into the ledger: journal first, then booked, batch by batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..cext.meter import Meter
from ..engine.journal import Head, Journal, Segment
from ..engine.live import Generation
from ..engine.usage import Usage
from ..errors import JournalError
from ..limits import JOURNAL_OCTETS_MAX
from ..snapshot import Notice
from .deliverer import Deliverer
from .delivery import Delivery

# Who takes segments on, given those that earlier runs have left.
Deliver = Callable[[list[Path]], Deliverer]


@dataclass(slots=True)
class _Closed:
    """A generation that is complete, and not yet handed to the ledger."""

    head: Head
    generation: Generation
    segment: Segment | None
    unwritten: Meter | None
    records: int


class Books:
    """What was counted is in the journal after add(), and in the ledger some time after close().

    head      the first batch's: where its records' keys begin
    deliver   who takes segments to the ledger
    noticed   is told what happens to the journal

    A journal that cannot be written (a full disk) does not stop counting: what it lacks is kept in
    memory, and generations are not closed until it has it.

    Raises JournalError where the journal is another run's.
    """

    def __init__(
        self,
        folder: Path,
        interfaces: Sequence[str],
        head: Head,
        deliver: Deliver,
        noticed: Callable[[Notice], None],
    ) -> None:
        self.head = head
        self.error: str | None = None  # why the journal cannot be written
        self._noticed = noticed
        self._unwritten: Meter | None = None  # what the journal lacks of the generation in force
        self._closed: deque[_Closed] = deque()
        self._segment: Segment | None = None
        self._journal = Journal(folder, interfaces)
        with ExitStack() as begun:
            begun.callback(self._leave_journal)
            self._segment = self._journal.create(head)
            self.delivery = deliver(self._journal.leftovers())
            begun.pop_all()

    @property
    def unwritten_octets(self) -> int:
        """What was counted and is in memory alone."""
        kept = (self._unwritten, *(closed.unwritten for closed in self._closed))
        return sum(meter.seen[1] for meter in kept if meter is not None)

    @property
    def asks(self) -> bool:
        """Whether it wants to know what the open window has used so far."""
        return isinstance(self.delivery, Delivery) and self.delivery.reserves.asks

    @property
    def octets(self) -> int:
        """Of the journal, on the disk."""
        return self._journal.octets

    def add(self, generation: Generation, counted: Meter, whole: Meter) -> None:
        """Write what was counted since the last time.

        whole   what the generation has counted altogether, `counted` included
        """
        if self._unwritten is not None:
            self._unwritten.absorb(counted)
            counted = self._unwritten
        try:
            self._write_closed()
            if self.octets > JOURNAL_OCTETS_MAX:
                raise JournalError(f"{self._journal.folder}: full: {self.octets:,} octets wait "
                                   "for the ledger")
            if self._segment is None:
                self._segment = self._journal.create(self.head)
            self._segment.add(generation, counted)
        except JournalError as error:
            if self._unwritten is None:
                self._unwritten = generation.meter()
                self._unwritten.absorb(counted)
            if self.error is None:
                self._notice(f"{error}; counting goes on in memory")
            self.error = str(error)
            return
        self._unwritten = None
        if self.error is not None:
            self._notice(f"{self._journal.folder}: is written again")
            self.error = None
        if self._segment.swollen:
            try:
                self._segment.compact(generation, whole)
            except JournalError as error:  # what was counted is in it all the same
                self._notice(f"{error}; it stays as large as it is")

    def look(self, usage: Usage) -> None:
        """Have what the generation in force comes to so far reserved, where that is asked for."""
        if isinstance(self.delivery, Delivery) and self.asks:
            self.delivery.offer(self.head, usage)

    def close(self, records: int, generation: Generation, following: Generation) -> None:
        """Hand a generation that is complete to the ledger, and begin the batch of the next."""
        self._closed.append(_Closed(self.head, generation, self._segment, self._unwritten, records))
        self._segment = self._unwritten = None
        self.head = replace(self.head, rules=following.rules,
                            first_sequence=self.head.first_sequence + records)
        with suppress(JournalError):  # it is tried again with what is counted next
            self._write_closed()

    def _write_closed(self) -> None:
        """Hand over what is complete; mostly one, more where the journal could not be written."""
        while self._closed:
            closed = self._closed[0]
            if not closed.records:
                if closed.segment is not None:
                    closed.segment.discard()
                self._closed.popleft()
                continue
            if closed.segment is None:
                closed.segment = self._journal.create(closed.head)
            if closed.unwritten is not None:
                closed.segment.add(closed.generation, closed.unwritten)
                closed.unwritten = None
            closed.segment.seal(closed.records)
            self.delivery.add(closed.segment.path)
            self._closed.popleft()

    def finish(self, hurried: Callable[[], bool]) -> None:
        """Book what is there, or as much as the ledger takes in a second if it is hurried."""
        try:
            self._write_closed()
        except JournalError as error:
            self.error = str(error)
            self._notice(f"{error}; {self.unwritten_octets:,} metered octets are lost")
        self.delivery.finish(hurried)

    def leave(self) -> None:
        """Let go of the journal; what is not booked by now the next run will find."""
        self.delivery.end()
        self._leave_journal()

    def _leave_journal(self) -> None:
        """Its segments first: whoever has the journal next finds nobody writing them."""
        for segment in (self._segment, *(closed.segment for closed in self._closed)):
            if segment is None:
                continue
            if segment.empty:
                with suppress(JournalError):  # then the next run does
                    segment.discard()
            segment.close()
        self._journal.close()

    def _notice(self, text: str) -> None:
        self._noticed(Notice("journal", time.time_ns(), text))
