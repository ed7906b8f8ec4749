"""Pieces of one large capture, for workers that share nothing but the file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import NoReturn

from tollsplit.capture.compression import MAGIC_OCTETS_MAX, find_compression
from tollsplit.capture.file import WINDOW_OCTETS, CaptureFile, Mapped
from tollsplit.cext.reader import Reader
from tollsplit.errors import CaptureError

HEADER_OCTETS = 24  # of a pcap file; the first record follows


def cuts(path: str | os.PathLike[str], octets: int) -> list[int]:
    """Where records of a plain pcap file seem to begin, about every so many octets.

    Each is a guess (Reader.leap), which a Piece finds out; only the file's octets right before
    each are read. There are none in other files, for there blocks depend on earlier ones.

    Raises CaptureError where it cannot be read.
    """
    name = os.fspath(path)
    found: list[int] = []
    try:
        size = os.stat(name).st_size
        if size <= octets:
            return found
        with open(name, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CaptureError(f"{name}: {error.strerror or error}") from error
    if find_compression(view[:MAGIC_OCTETS_MAX].tobytes()) is not None:
        return found
    reader = Reader()
    for end in range(octets, size, octets):
        reader.feed(view[reader.position : end], False)
        if reader.leap():
            found.append(reader.position)
    return found


class Piece:
    """A Source over what lies between two cuts of a capture, for one thread.

    Where it does not end exactly where a record does, or makes no sense, Astray is raised, for
    then a cut was none. The piece at the file's beginning begins where it must: so if all pieces
    of a file can be read to their ends, every cut is true.
    """

    def __init__(self, capture: CaptureFile, start: int, end: int) -> None:
        self._capture = capture
        self._start = start
        self._end = end

    def chunks(self, parallel: bool) -> Iterator[Reader]:
        """One reader, again and again; `parallel` makes no difference."""
        size = self._capture.size
        assert size
        try:
            with open(self._capture.path, "rb") as file:
                regions = Mapped(file, WINDOW_OCTETS, 0, self._start, self._end)
                reader = self._capture.reader()
                if self._start:
                    reader.feed(regions.whole[:HEADER_OCTETS], False)
                    reader.skip()  # the header
                    reader.expect_whole()
                    reader = reader.clone()  # which goes by a guess, too
                final = False
                while not final:
                    region, final = regions.advance(reader.consumed)
                    ends_in_a_cut = final and self._end < size
                    if ends_in_a_cut:
                        reader.expect_whole()
                    reader.feed(region, final and not ends_in_a_cut)
                    yield reader
                    reader.check()
        except ValueError as error:
            self.fail(error)
        except OSError as error:
            raise CaptureError(f"{self._capture.name}: {error.strerror or error}") from error

    def distrust(self) -> None:
        """It has nothing else to go by: who was Astray reads the whole capture."""

    def again(self) -> None:
        return None

    def fail(self, error: ValueError) -> NoReturn:
        self._capture.fail(error)
