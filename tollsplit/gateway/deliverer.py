"""Who takes a gateway's sealed segments to the books: what all of them have, whatever the way."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from ..engine.journal import Contents
from ..model import Event
from ..snapshot import Notice

RETRY_S = 1.0
RETRY_MAX_S = 30.0
LOOK_S = 0.1
HURRY_S = 1.0


class Deliverer(threading.Thread, ABC):
    """Takes segments to the books, and off the disk once they are there; tries again for ever.

    to        where they go, as people are told of it
    noticed   is told what happens

    Of its state:

    error     why it cannot, for now
    failure   what ended it before its time
    records   booked
    """

    def __init__(self, name: str, to: str, noticed: Callable[[Event | Notice], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.error: str | None = None
        self.failure: BaseException | None = None
        self.records = 0
        self._to = to
        self._noticed = noticed
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._ending = False
        self._pause_s = RETRY_S

    @property
    @abstractmethod
    def batches(self) -> int:
        """Segments that are not booked yet."""

    @abstractmethod
    def add(self, path: Path) -> None:
        """One more, which is sealed."""

    @abstractmethod
    def _run(self) -> None:
        """Until the end was asked for and all is done, or cannot be."""

    def tell(self, event: Event) -> None:
        """Have an event kept in the ledger."""
        with self._changed:
            self._events.append(event)
            self._changed.notify()

    def end(self) -> None:
        """Have it end once it is done with what is there, or fails."""
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

    def _fails(self, error: Exception) -> bool:
        """Say so the first time, and pause, each time longer; False: it ends instead."""
        if self.error is None:
            self._notice(f"{error}; the journal keeps what is not booked")
        self.error = str(error)
        with self._changed:
            if self._ending:
                return False
            self._changed.wait_for(lambda: self._ending, self._pause_s)
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)
        return True

    def _succeeds(self) -> None:
        """Say so, if the last time it failed."""
        if self.error is not None:
            self._notice(f"{self._to}: takes bookings again")
            self.error = None
        self._pause_s = RETRY_S

    def _notice(self, text: str) -> None:
        self._noticed(Notice("booking", time.time_ns(), text))


def recovered(path: Path, contents: Contents) -> Notice:
    """What is told of a segment whose run died."""
    last = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(contents.last_ns // 10**9))
    torn = f" ({contents.torn_octets:,} torn octets)" if contents.torn_octets else ""
    return Notice(
        "recovered", time.time_ns(),
        f"{path.name}: the run that wrote it died; what it had counted until {last} UTC is "
        f"booked, what it counted since its last flush is lost{torn}")
