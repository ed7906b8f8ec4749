"""Whether a file on one machine is what it is on another."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from tollsplit.limits import LIKENESS_PIECE_OCTETS, LIKENESS_PIECES


@dataclass(frozen=True, slots=True)
class Likeness:
    """A file's size, and the SHA-256 over pieces of it: all of a small one."""

    octets: int
    digest: str


def likeness(path: str) -> Likeness:
    """What a file is like, whatever it is called and whenever it was written. Raises OSError.

    Its first octets, its last ones and some at even distances between them are read. So what is
    found is another capture, one that is still copied or written to, and one that lacks a part;
    not a single octet that differs.
    """
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        octets = os.fstat(file.fileno()).st_size
        for start in _starts(octets):
            found.update(os.pread(file.fileno(), LIKENESS_PIECE_OCTETS, start))
    return Likeness(octets, found.hexdigest())


def difference(found: Likeness, expected: Likeness) -> str | None:
    """What a person is told of a file that should be like another; None: it is."""
    if found.octets != expected.octets:
        return f"has {found.octets:,} octets there, {expected.octets:,} here"
    if found.digest != expected.digest:
        return "holds other octets there than here, though as many"
    return None


def _starts(octets: int) -> list[int]:
    """Where the pieces begin."""
    last = max(0, octets - LIKENESS_PIECE_OCTETS)
    if last < LIKENESS_PIECES * LIKENESS_PIECE_OCTETS:
        return list(range(0, octets, LIKENESS_PIECE_OCTETS))
    return [last * number // (LIKENESS_PIECES - 1) for number in range(LIKENESS_PIECES)]
