"""Tag, length, value as smart cards write it (EMV Book 3, Annex B), read with every length checked.

There is no recursion: who asks names the path, so a card cannot nest its reader to death.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CardError

# The largest data object that EMV knows; a length of more octets is an attack or a slip.
_LENGTH_OCTETS_MAX = 2
_TAG_OCTETS_MAX = 3


def elements(octets: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Tag and value of each element, in order; raises CardError where one is cut off.

    where  what is read, for the message
    """
    at = 0
    while at < len(octets):
        if octets[at] == 0:  # padding before, between and after elements (Annex B1)
            at += 1
            continue
        tag, at = _tag(octets, at, where)
        length, at = _length(octets, at, where)
        if length > len(octets) - at:
            raise CardError(
                f"{where}: tag {tag:X}: {length} octets announced, {len(octets) - at} are there"
            )
        yield tag, octets[at : at + length]
        at += length


def found(octets: bytes, where: str, *path: int) -> bytes | None:
    """The value of the first element at the end of a path of tags; None: it is not there."""
    value = octets
    for wanted in path:
        for tag, inner in elements(value, where):
            if tag == wanted:
                value = inner
                break
        else:
            return None
    return value


def lengths(octets: bytes, where: str) -> Iterator[tuple[int, int]]:
    """Tag and length of each entry of a data object list, which has no values (Book 3, §5.4)."""
    at = 0
    while at < len(octets):
        tag, at = _tag(octets, at, where)
        if at == len(octets):
            raise CardError(f"{where}: tag {tag:X}: the list ends before its length")
        yield tag, octets[at]
        at += 1


def _tag(octets: bytes, at: int, where: str) -> tuple[int, int]:
    start = at
    at += 1
    if octets[start] & 0x1F == 0x1F:  # all five bits set: the tag goes on (Annex B1)
        while True:
            if at == len(octets):
                raise CardError(f"{where}: ends inside a tag, at octet {start}")
            if at - start == _TAG_OCTETS_MAX:
                raise CardError(f"{where}: octet {start}: a tag beyond {_TAG_OCTETS_MAX} octets")
            at += 1
            if not octets[at - 1] & 0x80:
                break
    return int.from_bytes(octets[start:at]), at


def _length(octets: bytes, at: int, where: str) -> tuple[int, int]:
    if at == len(octets):
        raise CardError(f"{where}: ends before a length, at octet {at}")
    first = octets[at]
    at += 1
    if first < 0x80:
        return first, at
    count = first & 0x7F
    # 0x80 would be of indefinite length, which EMV does not know.
    if not 1 <= count <= _LENGTH_OCTETS_MAX:
        raise CardError(
            f"{where}: octet {at - 1}: a length of {count} octets, expected 1 to "
            f"{_LENGTH_OCTETS_MAX}"
        )
    if count > len(octets) - at:
        raise CardError(f"{where}: ends inside a length, at octet {at - 1}")
    return int.from_bytes(octets[at : at + count]), at + count
