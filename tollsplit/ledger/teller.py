"""The teller: one writer for many callers, whose work shares commits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, TypeVar

from ..errors import LedgerError
from ..limits import LEDGER_GROUP_MAX
from .book import Ledger

_Item = TypeVar("_Item")
Work = Callable[[Ledger], Any]


class Teller:
    """Does work on a ledger for any number of threads, in the order in which it is handed in.

    While one commit is on its way to the disk, work queues up; the next commit takes all of it.
    Each piece of work is all or nothing by itself: one that is refused undoes no other.
    """

    def __init__(self, open_it: Callable[[], Ledger]) -> None:
        """open_it  opens the ledger, in the teller's own thread; again after a failed commit

        Raises LedgerError where it cannot be opened.
        """
        self._open_it = open_it
        self._queue: SimpleQueue[tuple[Future[Any], Work] | None] = SimpleQueue()
        self._lock = Lock()
        self._closed = False
        opened: Future[None] = Future()
        self._thread = Thread(target=self._serve, args=(opened,), name="teller", daemon=True)
        self._thread.start()
        opened.result()

    def __enter__(self) -> Teller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def do(self, work: Callable[[Ledger], _Item]) -> _Item:
        """Do work and come back when it is on the disk; raises what it raises.

        work  calls of the ledger, in one transaction. It must not keep the ledger.
        """
        return self.submit(work).result()

    def submit(self, work: Callable[[Ledger], _Item]) -> Future[_Item]:
        """Hand work in; its result is there when it is on the disk. As `do`."""
        future: Future[_Item] = Future()
        future.set_running_or_notify_cancel()  # what is handed in is done
        with self._lock:  # nothing comes after the end
            if self._closed:
                raise LedgerError("the teller is closed; nothing was booked")
            self._queue.put((future, work))
        return future

    def close(self) -> None:
        """Finish what was handed in, and close the ledger."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    # --- in the teller's own thread -----------------------------------------------------

    def _serve(self, opened: Future[None]) -> None:
        try:
            ledger: Ledger | None = self._open_it()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        while (first := self._queue.get()) is not None:
            done: list[_Done] = [_Done(*first)]
            try:
                ledger = ledger or self._open_it()
                self._commit(ledger, done)
            except Exception as error:
                for piece in done:
                    # Each caller raises an error of its own: tracebacks are not shared.
                    piece.refusal = _alike(error)
                if ledger is not None:
                    with suppress(Exception):
                        ledger.close()
                ledger = None
            for piece in done:
                piece.tell()
        if ledger is not None:
            ledger.close()

    def _commit(self, ledger: Ledger, done: list[_Done]) -> None:
        """Do the first piece of work and all that comes in meanwhile, in one transaction."""
        with ledger.atomic():
            done[0].do(ledger)
            while len(done) < LEDGER_GROUP_MAX:
                try:
                    found = self._queue.get_nowait()
                except Empty:
                    return
                if found is None:
                    self._queue.put(None)  # the end comes after this commit
                    return
                done.append(_Done(*found))
                done[-1].do(ledger)


@dataclass(slots=True)
class _Done:
    """A piece of work, and what came of it."""

    future: Future[Any]
    work: Work
    result: Any = None
    refusal: BaseException | None = None

    def do(self, ledger: Ledger) -> None:
        try:
            with ledger.atomic():
                self.result = self.work(ledger)
        except BaseException as error:
            self.refusal = error

    def tell(self) -> None:
        if self.refusal is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.refusal)


def _alike(error: Exception) -> Exception:
    if isinstance(error, LedgerError):
        return type(error)(str(error))
    return LedgerError(f"nothing was booked: {error!r}")
