"""Compressed streams, told by their first octets, decompressed in bounded pieces."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

# What a decompressor is given at once. A zstd block of 4 octets may hold 128 KiB and the
# package cannot be told to stop in between, so this bounds a hostile stream's piece to 64 MiB.
SLICE_OCTETS = 2048
# xz names the memory that it needs; -9 needs 65 MiB.
XZ_MEMORY_OCTETS = 256 * 1024 * 1024


class Octets(Protocol):
    """Something to read from: an unbuffered or buffered file, or a decompressed stream."""

    def readinto(self, view: memoryview, /) -> int | None:
        """Fills a part of the view. Returns how many octets; 0: the end."""


class Decompressor(Protocol):
    """One member of a compressed stream, the way bz2 and lzma spell it."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class GzipMember:
    """zlib's object in the form of Decompressor."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._member.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece = self._member.decompress(self._member.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece


class ZstdFrame:
    """zstandard's object in the form of Decompressor; it takes no bound, see SLICE_OCTETS."""

    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._error = zstandard.ZstdError

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        try:
            return self._frame.decompress(data)
        except self._error as error:
            raise ValueError(str(error)) from error


def _lz4_frame() -> Decompressor:
    import lz4.frame

    return cast(Decompressor, lz4.frame.LZ4FrameDecompressor())


def _xz_stream() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_OCTETS)


@dataclass(frozen=True, slots=True)
class Compression:
    """A format of compressed streams."""

    name: str
    magic: bytes
    member: Callable[[], Decompressor]


COMPRESSIONS = (
    Compression("gzip", b"\x1f\x8b", GzipMember),
    Compression("zstd", b"\x28\xb5\x2f\xfd", ZstdFrame),
    Compression("lz4", b"\x04\x22\x4d\x18", _lz4_frame),
    Compression("xz", b"\xfd7zXZ\0", _xz_stream),
    Compression("bzip2", b"BZh", bz2.BZ2Decompressor),
)
# What the packages raise, lz4 and bz2 the plain ones.
CORRUPT = (zlib.error, lzma.LZMAError, RuntimeError, OSError, ValueError)
MAGIC_OCTETS_MAX = max(len(compression.magic) for compression in COMPRESSIONS)


def find_compression(head: bytes) -> Compression | None:
    """The compression whose magic number a file begins with."""
    # A skippable frame may come first, as pzstd writes it (RFC 8878 §3.1.2).
    if len(head) >= 4 and 0x50 <= head[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18":
        head = b"\x28\xb5\x2f\xfd"
    for compression in COMPRESSIONS:
        if head.startswith(compression.magic):
            return compression
    return None


class Decompressed:
    """The octets that a compressed stream holds, all its members one after the other.

    `ends_early` says, once it is read that far, that the stream ends inside a member.
    """

    def __init__(self, stored: Octets, compression: Compression) -> None:
        self._stored = stored
        self.compression = compression
        self._member = compression.member()
        self._slice = bytearray(SLICE_OCTETS)
        self._piece = memoryview(b"")
        self.ends_early = False

    def readinto(self, view: memoryview, /) -> int:
        """Fills a part of the view. Returns how many octets; 0: the end.

        Raises ValueError where the stream is corrupt.
        """
        while not self._piece:
            piece = self._next_piece(len(view))
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        octets = min(len(view), len(self._piece))
        view[:octets] = self._piece[:octets]
        self._piece = self._piece[octets:]
        return octets

    def _next_piece(self, octets_max: int) -> bytes | None:
        data = b""
        if self._member.eof:
            # Zeros pad the space between members and after the last (xz format §2.2).
            data = (self._member.unused_data or b"").lstrip(b"\0")
            while not data:
                stored = self._next_slice()
                if not stored:
                    return None
                data = stored.lstrip(b"\0")
            self._member = self.compression.member()
        elif self._member.needs_input:
            data = self._next_slice()
            if not data:
                self.ends_early = True
                return None
        try:
            return self._member.decompress(data, octets_max)
        except CORRUPT as error:
            raise ValueError(f"{self.compression.name} stream is corrupt: {error}") from error

    def _next_slice(self) -> bytes:
        return bytes(self._slice[: self._stored.readinto(memoryview(self._slice)) or 0])
