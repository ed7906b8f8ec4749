"""Captures in files and on standard input, mapped or streamed."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO, NoReturn, Protocol

from tollsplit.capture.compression import (
    MAGIC_OCTETS_MAX,
    Decompressed,
    Octets,
    find_compression,
)
from tollsplit.cext.reader import Reader
from tollsplit.errors import CaptureError
from tollsplit.limits import STREAM_CHUNK_OCTETS

# How much of a mapped file is brought in at once: large enough to amortise the call, small
# enough to be still in the last level cache when it is walked.
WINDOW_OCTETS = 4 * 1024 * 1024
# A worker's share; what finds its end looks at its last quarter of a MiB.
WORKER_WINDOW_OCTETS = 8 * 1024 * 1024
# Windows that workers may still be busy with when they are released: a page that was let go
# too early only has to be mapped again.
WINDOWS_KEPT = 16
# Linux 5.14; the mmap module of Python 3.11 has no name for it.
MADV_POPULATE_READ = 22


def open_capture(
    path: str | os.PathLike[str],
    *,
    ingresses: Mapping[str, int] | None = None,
    skip_links: bool = False,
) -> CaptureFile:
    """The capture at a path; "-" is standard input.

    ingresses   interface name → ingress number, "*" for every other
    skip_links  count frames of an unknown link type instead of refusing them

    Raises CaptureError where there is no such file, or it cannot be read.
    """
    name = os.fspath(path)
    size = None
    if name != "-":
        try:
            status = os.stat(name)
            if stat.S_ISREG(status.st_mode):
                size = status.st_size
                os.close(os.open(name, os.O_RDONLY))
        except OSError as error:
            raise CaptureError(f"{name}: {error.strerror}: expected a capture file") from error
        if stat.S_ISDIR(status.st_mode):
            raise CaptureError(f"{name}: is a directory: expected a capture file")
    elif sys.stdin.isatty():
        raise CaptureError("standard input is a terminal: expected a capture; redirect one to it")
    return CaptureFile(name, size, Reader(ingresses, skip_links))


class Regions(Protocol):
    """A capture's octets, piece by piece."""

    def advance(self, consumed: int) -> tuple[memoryview, bool]:
        """The octets from `consumed` further on, and whether nothing comes after them.

        They are more than last time's where nothing of those was consumed.
        """


class Mapped:
    """A file in memory, or a part of it, brought in window by window and let go behind the reader.

    start, end   the part, in octets from the file's beginning; None: the file's end
    """

    def __init__(
        self, file: BinaryIO, window: int, kept: int, start: int = 0, end: int | None = None
    ) -> None:
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._octets = memoryview(self._map)
        self._size = len(self._octets) if end is None else end
        self._advise(mmap.MADV_SEQUENTIAL, start, self._size)
        self._window = window
        self._kept = kept * window
        self._start = self._released = start
        self.done = start  # up to the end of what was handed out

    @property
    def whole(self) -> memoryview:
        """All of the file."""
        return self._octets

    def advance(self, consumed: int) -> tuple[memoryview, bool]:
        self._start += consumed
        end = min(self._start + self._window, self._size)
        while end <= self.done < self._size:
            end = min(end + self._window, self._size)
        self._advise(mmap.MADV_DONTNEED, self._released, self._start - self._kept)
        self._released = max(self._released, self._start - self._kept)
        self._advise(MADV_POPULATE_READ, self.done, end)
        self.done = end
        return self._octets[self._start : end], end == self._size

    def _advise(self, advice: int, start: int, end: int) -> None:
        """Tells the kernel about the whole pages between two offsets; it may decline."""
        start -= start % mmap.PAGESIZE
        if advice == mmap.MADV_DONTNEED:
            end -= end % mmap.PAGESIZE
        if end > start:
            with suppress(OSError):
                self._map.madvise(advice, start, end - start)


class Streamed:
    """A stream, read into a buffer that keeps what was left over.

    fresh  every region gets a buffer of its own, for workers
    """

    def __init__(self, stream: Octets, fresh: bool) -> None:
        self._stream = stream
        self._fresh = fresh
        self._buffer = bytearray(STREAM_CHUNK_OCTETS)
        self._filled = 0

    def advance(self, consumed: int) -> tuple[memoryview, bool]:
        left = bytes(memoryview(self._buffer)[consumed : self._filled])
        if 2 * len(left) > len(self._buffer):
            self._buffer = bytearray(2 * len(self._buffer))
        elif self._fresh:
            self._buffer = bytearray(len(self._buffer))
        view = memoryview(self._buffer)
        view[: len(left)] = left
        self._filled = len(left)
        while self._filled < len(view):
            octets = self._stream.readinto(view[self._filled :])
            if not octets:
                break
            self._filled += octets
        return view[: self._filled].toreadonly(), self._filled < len(view)


class Stored:
    """A file's octets as they are stored, counted; `head` was read from it already."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file = file
        self._head = head
        self.done = len(head)

    def readinto(self, view: memoryview, /) -> int:
        if self._head:
            octets = min(len(self._head), len(view))
            view[:octets] = self._head[:octets]
            self._head = self._head[octets:]
            return octets
        read: int | None = self._file.readinto(view)  # type: ignore[attr-defined]
        if read is None:
            raise BlockingIOError("has nothing to read yet: expected a pipe that waits")
        self.done += read
        return read


class CaptureFile:
    """A Source over a file, a pipe or standard input; made by open_capture."""

    def __init__(self, name: str, size: int | None, reader: Reader) -> None:
        self.name = "standard input" if name == "-" else name
        self.size = size
        self.truncated: str | None = None
        self.path = name
        self._fresh = reader
        self._reader = reader
        self._guesses = True
        self._progress: Mapped | Stored | None = None
        self._stream: Decompressed | None = None
        self._hashed: tuple[int, ...] | None = None

    @property
    def done(self) -> int:
        return self._progress.done if self._progress else 0

    def fail(self, error: ValueError) -> NoReturn:
        early = f"{ends}; " if (ends := self._stream_ends()) else ""
        raise CaptureError(f"{self.name}: {early}{error.args[0]}") from error

    def distrust(self) -> None:
        """Guess no more where records begin: chunks() starts over, and walks the whole file."""
        self._guesses = False
        self.truncated = None

    def again(self) -> CaptureFile | None:
        """The same file from its beginning, for another thread; None where it is a pipe."""
        if not self.size:
            return None
        return CaptureFile(self.path, self.size, self.reader())

    def reader(self) -> Reader:
        """A reader that stands at the capture's beginning."""
        return self._fresh.clone()

    def digest(self) -> str:
        """The SHA-256 of the capture's octets, the same however the file stores them.

        Of a compressed stream that is cut or corrupt, what can be read counts: chunks() says
        what is wrong with it. Standard input would be used up: not for it.
        """
        found = hashlib.sha256()
        view = memoryview(bytearray(STREAM_CHUNK_OCTETS))
        self._hashed = self._state()
        try:
            with open(self.path, "rb") as file, suppress(ValueError):
                head = file.read(MAGIC_OCTETS_MAX)
                compression = find_compression(head)
                octets: Octets = Stored(file, head)
                if compression is not None:
                    octets = Decompressed(octets, compression)
                while count := octets.readinto(view):
                    found.update(view[:count])
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror or error}") from error
        return f"sha256:{found.hexdigest()}"

    def expect_unchanged(self) -> None:
        """Raise CaptureError where the file is no longer as digest() found it."""
        if self._state() != self._hashed:
            raise CaptureError(f"{self.name}: changed while it was read: account it when nothing "
                               "writes to it any more")

    def _state(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror}: expected a capture file") from error
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def chunks(self, parallel: bool) -> Iterator[Reader]:
        self._reader = self.reader()
        try:
            if self.path == "-":
                yield from self._chunks(sys.stdin.buffer, parallel)
            else:
                with open(self.path, "rb") as file:
                    yield from self._chunks(file, parallel)
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror or error}") from error

    def _chunks(self, file: BinaryIO, parallel: bool) -> Iterator[Reader]:
        head = file.read(MAGIC_OCTETS_MAX)
        compression = find_compression(head)
        if compression is None and self.size:
            window, kept = (WORKER_WINDOW_OCTETS, WINDOWS_KEPT) if parallel else (WINDOW_OCTETS, 0)
            self._progress = regions = Mapped(file, window, kept)
            yield from self._walk(regions, parallel, parallel and self._guesses)
            return
        self._progress = stored = Stored(file, head)
        if compression is None:
            yield from self._walk(Streamed(stored, parallel), parallel)
            return
        self._stream = Decompressed(stored, compression)
        yield from self._walk(Streamed(self._stream, parallel), parallel)
        if ends := self._stream_ends():
            self.truncated = f"{self.name}: {ends}: {self._reader.records:,} whole records read"

    def _stream_ends(self) -> str | None:
        """Where a compressed stream ends before its end; None: it does not."""
        if self._stream is None or not self._stream.ends_early:
            return None
        return f"the {self._stream.compression.name} stream ends early, after {self.done:,} octets"

    def _walk(self, regions: Regions, parallel: bool, guess: bool = False) -> Iterator[Reader]:
        """Hands out the regions. With `guess` their ends are guessed, so that nobody has to walk
        them first; whether that was right is known when they have been read."""
        reader = self._reader
        final = False
        try:
            while not final:
                region, final = regions.advance(reader.consumed)
                part = reader.clone() if parallel else reader
                reader.feed(region, final)
                if guess and not final and reader.leap():
                    part.expect_whole()
                elif parallel:
                    reader.skip()
                if parallel:
                    part.feed(region[: reader.consumed], False)
                yield part
                reader.check()
        except ValueError as error:
            self.fail(error)
        if reader.truncated:
            self.truncated = (
                f"{self.name}: ends inside a record at offset {reader.position:,}, "
                f"after {reader.records:,} whole records"
            )
