"""The ledger of a server of many threads: one writer, and readers that wait for nobody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, LifoQueue
from types import TracebackType
from typing import TypeVar

from ..errors import LedgerError
from ..ledger import Ledger, Teller

Item = TypeVar("Item")


class Books:
    """Does work on one ledger: what writes goes through a teller, what reads has a ledger each."""

    def __init__(self, open_it: Callable[[], Ledger]) -> None:
        """Raises LedgerError where the ledger cannot be opened."""
        self._open_it = open_it
        self._readers: LifoQueue[Ledger] = LifoQueue()
        self._teller = Teller(open_it)

    def __enter__(self) -> Books:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, work: Callable[[Ledger], Item]) -> Item:
        """Do work in a transaction; it is on the disk when this returns. Raises what it raises."""
        return self._teller.do(work)

    def read(self, work: Callable[[Ledger], Item]) -> Item:
        """Do work that reads one state of the ledger. Raises what it raises."""
        try:
            ledger = self._readers.get_nowait()
        except Empty:
            return self._read(self._open_it(), work)
        try:
            return self._read(ledger, work)
        except LedgerError as error:
            if type(error) is not LedgerError:
                raise  # what was read is refused
            # Its connection may have been cut while nobody used it.
            return self._read(self._open_it(), work)

    def _read(self, ledger: Ledger, work: Callable[[Ledger], Item]) -> Item:
        try:
            with ledger.reading():
                found = work(ledger)
        except BaseException:
            with suppress(Exception):
                ledger.close()
            raise
        self._readers.put(ledger)
        return found

    def close(self) -> None:
        """Finish what was handed in."""
        self._teller.close()
        with suppress(Empty):
            while True:
                self._readers.get_nowait().close()
