"""What a packet block's comment says of a coalesced packet, and whatever else may stand there."""

from __future__ import annotations

import struct

import pytest
from captures import Piece, block, enhanced, interface, octets_of, option, section
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reader import read

UNKNOWN = 0xFFFFFFFF
COMMENTS = [
    (b"segments of 1448 octets", 1448), (b"segments of 1 octets", 1),
    (b"segments of 65535 octets", 65_535), (b"segments of unknown size", UNKNOWN),
    # everything else is just a comment
    (b"", 0), (b"by hand", 0), (b"segments of ", 0), (b"segments of  octets", 0),
    (b"segments of 0 octets", 0), (b"segments of 65536 octets", 0),
    (b"segments of 4294967294 octets", 0), (b"segments of 01 octets", 0),
    (b"segments of -1 octets", 0), (b"segments of 1: octets", 0), (b"segments of 14/8 octets", 0),
    (b"segments of 1448 octet", 0), (b"segments of 1448 octets.", 0), (b"segments of 1448", 0),
    (b"segments of 1448 0ctets", 0), (b"Segments of 1448 octets", 0), (b" segments of 9 octets", 0),
    (b"segments of unknown sizes", 0), (b"segments of unknown siz\0", 0),
]
KNOWN = b"segments of 1448 octets"
ZERO_LENGTH = bytes.fromhex("34120000")  # an option of no octets, in either byte order


def end(order: str) -> bytes:
    return option(order, 0, b"")


def told(order: str, options: bytes, octets: bytes = b"odd") -> int:
    """The segment_octets of a packet; the one behind it is whole whatever its options are."""
    frames, reader = read(octets_of([
        section(order), interface(order), enhanced(order, 0, 0, octets, options=options),
        enhanced(order, 0, 0, b"next")]))
    reader.check()
    assert [frame[0] for frame in frames] == [octets, b"next"]
    assert frames[1][5] == 0
    return frames[0][5]


@pytest.mark.parametrize(("text", "expected"), COMMENTS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("octets", [b"", b"odd", b"even"])
def test_comment_of_segments_is_believed(
    text: bytes, expected: int, order: str, octets: bytes
) -> None:
    assert told(order, option(order, 1, text) + end(order), octets) == expected


@pytest.mark.parametrize("order", "<>")
def test_comment_is_found_among_options(order: str) -> None:
    comment, other = option(order, 1, KNOWN), option(order, 1, b"by hand")
    flags = option(order, 2, b"\0\0\0\1")
    for options, expected in (
        (flags + other + comment + end(order), 1448),
        (comment, 1448),                                # the end may be missing
        (comment + option(order, 1, b"segments of 7 octets") + end(order), 1448),
        (end(order) + comment, 0),                      # what is behind the end is none
        (option(order, 2, KNOWN) + end(order), 0),      # another option with that text
        (ZERO_LENGTH * 100_000 + comment, 1448),
        (ZERO_LENGTH * 100_000, 0),
    ):
        assert told(order, options) == expected


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("beyond", [1, 4, 1000, 0xFFFF])
def test_comment_in_a_list_that_leaves_its_block_is_not_believed(order: str, beyond: int) -> None:
    comment = option(order, 1, KNOWN)
    for code in (1, 2):
        broken = struct.pack(order + "HH", code, beyond)
        assert told(order, broken) == 0
        assert told(order, comment + broken) == 0
    longer = struct.pack(order + "HH", 1, min(len(KNOWN) + 1 + beyond, 0xFFFF)) + KNOWN + b"\0"
    assert told(order, longer) == 0


@pytest.mark.parametrize("order", "<>")
def test_comment_cut_anywhere_is_one_or_none(order: str) -> None:
    options = option(order, 2, b"\0\0\0\1") + option(order, 1, KNOWN) + end(order)
    found = [told(order, options[:length]) for length in range(0, len(options) + 1, 4)]
    assert found == [0] * 9 + [1448, 1448]


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_comment_in_any_octets_is_one_or_none(options: bytes) -> None:
    assert told("<", options + bytes(-len(options) % 4)) in (0, *range(1, 65_536), UNKNOWN)


def test_comment_of_simple_and_obsolete_packets_is_none() -> None:
    comment = option("<", 1, KNOWN)
    simple = Piece(block("<", 3, struct.pack("<I", 4) + b"four" + comment))
    obsolete = Piece(block("<", 2, struct.pack("<HHIIII", 0, 0, 0, 0, 4, 4) + b"four" + comment))
    frames, _ = read(octets_of([section("<"), interface("<", snap=4), simple, obsolete]))
    assert [frame[5] for frame in frames] == [0, 0]
