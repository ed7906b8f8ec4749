"""Usage on its way to a collector: at once, or beside a run that does not wait for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from ..errors import TollsplitError
from ..limits import IPFIX_END_S, IPFIX_WAITING_RECORDS_MAX
from ..model import Volume
from ..snapshot import Notice
from .collector import Collector
from .message import Body, Packer
from .records import Batch, Writer, domain_of, introduction

RETRY_S = 1.0
RETRY_MAX_S = 30.0

Totals = Iterable[tuple[str, Volume]]
T = TypeVar("T")


def export(url: str, batch: Batch, totals: Totals) -> None:
    """Send a batch and its totals. Raises UsageError, or TollsplitError where they do not go."""
    domain = domain_of(batch.source)
    collector = Collector(url, domain)
    writer = Writer(domain)
    try:
        try:
            collector.introduce(introduction(batch, collector.octets_max))
            packer = Packer(collector.octets_max, collector.send)
            writer.write(batch, packer)
            writer.write_totals(totals, packer)
            packer.flush()
        finally:
            collector.close()
    except OSError as error:
        raise TollsplitError(f"{url}: the collector does not take the records: "
                             f"{error.strerror or error}; whatever came before is there") from error
    if writer.left_out:
        raise TollsplitError(f"{url}: {writer.left_out:,} records are too long for a message "
                             "over UDP; export over tcp:// instead")


class _Abandoned(Exception):
    """The run is over, and the collector did not come back."""


class Exporter(threading.Thread):
    """Sends a live run's batches in their order, and tries again where the collector is away.

    source   whose records they are
    told     is told when the collector is away, back, or left behind

    Whoever offers a batch never waits. Batches wait up to a bound; further ones are left out, and
    what they held is told to the collector as not sent. A message of which part was sent over a
    connection that then broke is sent again as a whole; what lay in the kernel's buffers by then
    is lost, which sequence numbers show.
    """

    def __init__(self, url: str, source: str, told: Callable[[Notice], None]) -> None:
        super().__init__(name="export", daemon=True)
        self._url = url
        self._source = source
        self._told = told
        domain = domain_of(source)
        self._writer = Writer(domain)
        self._collector = Collector(url, domain)
        self._waiting: deque[Batch] = deque()
        self._totals: tuple[tuple[str, Volume], ...] = ()
        self._sent_totals: tuple[tuple[str, Volume], ...] = ()
        self._changed = threading.Condition()
        self._ending = False
        self._away = False
        self._behind = False

    def offer(self, batch: Batch) -> None:
        """Have a batch sent."""
        with self._changed:
            waiting = sum(len(other.records) for other in self._waiting)
            behind = bool(waiting) and waiting + len(batch.records) > IPFIX_WAITING_RECORDS_MAX
            if behind:
                self._writer.leave_out(len(batch.records), batch.volume)
            else:
                self._waiting.append(batch)
            begins, self._behind = behind and not self._behind, behind
            self._changed.notify()
        if begins:
            self._notice(f"{waiting:,} records wait for the collector; further ones are left out")

    def look(self, totals: Totals) -> None:
        """Have what every bucket comes to sent with the next batch."""
        self._totals = tuple(totals)

    def finish(self) -> None:
        """Wait until all is sent, or for some seconds."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self.join(IPFIX_END_S)
        left = sum(len(batch.records) for batch in self._waiting)
        if left:
            self._notice(f"{left:,} records were not sent")

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                batch = self._waiting[0] if self._waiting else None
            try:
                if batch is not None:
                    self._send_batch(batch)
                elif self._totals != self._sent_totals:  # of what nobody has to pay for
                    self._send_batch(Batch((), Volume(), self._source, "", "", "ip", "inner"))
            except _Abandoned:
                return
            if batch is None:
                break
            with self._changed:
                self._waiting.popleft()
        try:
            self._collector.close()
        except OSError as error:
            self._notice(f"{error.strerror or error}")

    def _send_batch(self, batch: Batch) -> None:
        octets_max = self._persist(lambda: self._collector.octets_max)
        said = introduction(batch, octets_max)
        self._persist(lambda: self._collector.introduce(said))
        packer = Packer(octets_max, self._send)
        self._writer.write(batch, packer)
        totals = self._totals
        self._writer.write_totals(totals, packer)
        packer.flush()
        self._sent_totals = totals

    def _send(self, body: Body) -> None:
        self._persist(lambda: self._collector.send(body))

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Try until it works; once more after the run is over, then it raises _Abandoned."""
        pause_s = RETRY_S
        while True:
            last = self._ending
            try:
                result = attempt()
            except OSError as error:
                if not self._away:
                    self._notice(f"{error.strerror or error}; the records wait for the collector")
                self._away = True
                if last:
                    raise _Abandoned from error
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            if self._away:
                self._notice("the collector is there again")
                self._away = False
            return result

    def _notice(self, text: str) -> None:
        self._told(Notice("export", time.time_ns(), f"{self._url}: {text}"))
