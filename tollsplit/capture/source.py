"""What the engine asks of whatever hands out frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn, Protocol

from tollsplit.cext.reader import Reader


class Source(Protocol):
    """A capture that is read once, chunk by chunk."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int | None:
        """Octets of the file as stored; None for a pipe."""

    @property
    def done(self) -> int:
        """Octets of it read so far."""

    @property
    def truncated(self) -> str | None:
        """Where it ends too early, once that is known; all before it has been handed out."""

    def chunks(self, parallel: bool) -> Iterator[Reader]:
        """Readers that together hand out every frame once.

        parallel  False: the same reader again and again, each time to be used up before the
                  next is asked for. True: readers of their own, for threads to use up at the
                  same time; only one thread may ask for the next.

        Raises CaptureError where the capture makes no sense, after all before that place.
        """

    def distrust(self) -> None:
        """Make no guesses that could turn out wrong: after a reader was Astray, for chunks() to
        start over. Only what can be read twice makes any."""

    def again(self) -> Source | None:
        """The same capture from its beginning, for another thread to read at the same time; None
        where it can be read only once, or reading it is most of the work."""

    def fail(self, error: ValueError) -> NoReturn:
        """Raises the CaptureError for what a reader's check() has raised."""
