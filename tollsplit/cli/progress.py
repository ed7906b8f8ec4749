"""A bar on standard error for long work, on a terminal only."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]

# Work that is done sooner needs no bar; and rich is imported only when one is shown.
PATIENCE_S = 0.5


@contextmanager
def bar() -> Iterator[Progress | None]:
    """Give a function (octets done, octets in all) that draws; None where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    drawing = _Drawing()
    try:
        yield drawing
    finally:
        drawing.stop()


class _Drawing:
    def __init__(self) -> None:
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._stop: Callable[[], None] | None = None
        self._update: Callable[[int, int | None], None] | None = None

    def __call__(self, done: int, total: int | None) -> None:
        with self._lock:  # several workers call
            if self._update is None:
                if time.monotonic() - self._since < PATIENCE_S:
                    return
                self._update = self._start()
        self._update(done, total)

    def stop(self) -> None:
        if self._stop is not None:
            self._stop()

    def _start(self) -> Callable[[int, int | None], None]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        shown = Progress(
            TextColumn("metering"), BarColumn(), DownloadColumn(binary_units=True),
            TransferSpeedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True)
        task = shown.add_task("metering", total=None)
        shown.start()
        self._stop = shown.stop
        return lambda done, total: shown.update(task, completed=done, total=total)
