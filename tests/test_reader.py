"""Records in memory: every format, every cut, every kind of nonsense."""

from __future__ import annotations

import random
import struct
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from captures import (
    CAPTURES,
    INGRESSES,
    MICROSECONDS,
    MODIFIED,
    NANOSECONDS,
    Frame,
    Piece,
    block,
    enhanced,
    frames_of,
    interface,
    octets_of,
    option,
    pcap,
    pcap_header,
    pcapng,
    record,
    section,
)
from hypothesis import given
from hypothesis import strategies as st

from tollsplit import limits
from tollsplit.cext.layout import LINK_NAMES
from tollsplit.cext.reader import BOUNDS, Reader

captures = pytest.mark.parametrize("pieces", CAPTURES.values(), ids=CAPTURES.keys())


def read(octets: bytes, **options: object) -> tuple[list[Frame], Reader]:
    """Every frame of a capture fed in one region."""
    reader = Reader(INGRESSES, **options)
    reader.feed(octets, True)
    return reader.frames(1_000_000), reader


def read_in_regions(octets: bytes, cuts: list[int]) -> tuple[list[Frame], Reader]:
    """Every frame of a capture fed in regions that end at the cuts; what is left over stays."""
    reader = Reader(INGRESSES)
    frames = []
    for end in [*sorted(cuts), len(octets)]:
        reader.feed(octets[reader.position : end], end == len(octets))
        frames += reader.frames(1_000_000)
        reader.check()
    return frames, reader


def test_reader_bounds_are_those_of_limits() -> None:
    assert {name: getattr(limits, name) for name in BOUNDS} == BOUNDS


@captures
def test_reader_hands_out_every_frame(pieces: list[Piece]) -> None:
    frames, reader = read(octets_of(pieces))
    reader.check()
    assert frames == frames_of(pieces)
    assert reader.records == len(frames)
    assert reader.position == reader.consumed == len(octets_of(pieces))
    assert not reader.truncated


@captures
def test_reader_hands_out_all_before_a_truncation(pieces: list[Piece]) -> None:
    octets = octets_of(pieces)
    ends = [sum(len(piece.octets) for piece in pieces[: n + 1]) for n in range(len(pieces))]
    for cut in range(len(octets)):
        frames, reader = read(octets[:cut])
        whole = [piece for piece, end in zip(pieces, ends, strict=True) if end <= cut]
        assert frames == frames_of(whole), cut
        if cut < ends[0]:
            with pytest.raises(ValueError, match=r"(empty|ends inside its file header)"):
                reader.check()
        else:
            reader.check()
            assert reader.truncated == (cut not in ends), cut
            assert reader.position == max(end for end in ends if end <= cut)


@captures
def test_reader_gives_the_same_for_every_cut_into_two_regions(pieces: list[Piece]) -> None:
    octets = octets_of(pieces)
    for cut in range(len(octets) + 1):
        frames, reader = read_in_regions(octets, [cut])
        assert frames == frames_of(pieces), cut
        assert not reader.truncated


@given(st.data())
def test_reader_gives_the_same_for_any_regions(data: st.DataObject) -> None:
    pieces = CAPTURES[data.draw(st.sampled_from(sorted(CAPTURES)))]
    octets = octets_of(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(octets)), max_size=12))
    frames, reader = read_in_regions(octets, cuts)
    assert frames == frames_of(pieces)
    assert reader.records == len(frames)


@captures
def test_reader_clones_hand_out_what_the_walk_ahead_skips(pieces: list[Piece]) -> None:
    octets = octets_of(pieces)
    walker, clones = Reader(INGRESSES), []
    for end in [*range(40, len(octets), 40), len(octets)]:
        clone = walker.clone()
        region = memoryview(octets)[walker.position : end]
        walker.feed(region, end == len(octets))
        walker.skip()
        walker.check()
        clone.feed(region[: walker.consumed], False)
        clones.append(clone)
    # Backwards and at the same time: none of them leans on another.
    with ThreadPoolExecutor(4) as pool:
        frames = [*pool.map(lambda clone: clone.frames(1_000), reversed(clones))]
    assert [frame for part in reversed(frames) for frame in part] == frames_of(pieces)
    assert walker.records == len(frames_of(pieces))


def test_reader_clone_counts_records_on() -> None:
    pieces = pcap("<", MICROSECONDS)
    reader = Reader()
    reader.feed(octets_of(pieces[:3]), False)
    reader.skip()
    clone = reader.clone()
    clone.feed(record("<", MICROSECONDS, 0, 0, bytes(70_000)).octets, True)
    assert clone.frames(1) == []
    with pytest.raises(ValueError, match="record 3 at offset 123: captured length 70000"):
        clone.check()


def test_reader_takes_few_frames_at_a_time() -> None:
    pieces = pcapng()
    reader = Reader(INGRESSES)
    reader.feed(octets_of(pieces), True)
    frames = []
    while frame := reader.frames(1):
        frames += frame
    assert frames == frames_of(pieces)


@pytest.mark.parametrize("octets_held, original, expected", [
    (60, 1500, 60),  # a snap length cut it
    (64, 60, 60),  # more than was on the wire: the writer's padding
    (60, 0, 60),  # a writer that knows no original length
    (0, 60, 0),
])
def test_reader_holds_no_more_than_was_on_the_wire(
    octets_held: int, original: int, expected: int
) -> None:
    held = bytes(range(octets_held))
    for octets in (
        octets_of([pcap_header(), record("<", MICROSECONDS, 1, 2, held, original)]),
        octets_of([section("<"), interface("<"), enhanced("<", 0, 7, held, original=original)]),
    ):
        frames, reader = read(octets)
        # what was captured was on the wire
        on_the_wire = original or octets_held
        assert [(frame[0], frame[2]) for frame in frames] == [(held[:expected], on_the_wire)]
        assert reader.consumed == len(octets)


@pytest.mark.parametrize("magic, seconds, fraction, expected", [
    (MICROSECONDS, 1, 999_999, 1_999_999_000),
    (MICROSECONDS, 1, 1_000_000, 2_000_000_000),  # a whole second too many carries over
    (MICROSECONDS, 0xFFFFFFFF, 0xFFFFFFFF, 4_294_967_295_000_000_000 + 4_294_967_295_000),
    (NANOSECONDS, 1, 1_999_999_999, 2_999_999_999),
    (MODIFIED, 0x80000000, 1, 2_147_483_648_000_001_000),  # unsigned: 2038, not 1901
])
@pytest.mark.parametrize("order", "<>")
def test_reader_pcap_time(
    magic: int, seconds: int, fraction: int, expected: int, order: str
) -> None:
    pieces = [pcap_header(order, magic), record(order, magic, seconds, fraction, b"")]
    assert read(octets_of(pieces))[0][0][1] == expected


LAST_NS = limits.TIMESTAMP_NS_MAX  # later times are held there


def interface_time(order: str, resolution: int, offset_s: int, ticks: int) -> int:
    options = option(order, 9, bytes([resolution])) + option(
        order, 14, struct.pack(order + "q", offset_s))
    pieces = [section(order), interface(order, options=options), enhanced(order, 0, ticks, b"")]
    frames, reader = read(octets_of(pieces))
    reader.check()
    return frames[0][1]


@pytest.mark.parametrize("resolution, offset_s, ticks, expected", [
    (6, 0, 1_700_000_000_123_456, 1_700_000_000_123_456_000),
    (9, 0, 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
    (0, 0, 1_700_000_000, 1_700_000_000_000_000_000),
    (0x80, 0, 1_700_000_000, 1_700_000_000_000_000_000),
    (0x8A, 0, 1_025, 1_000_976_562),  # 1025/1024 s, rounded down
    (0xFF, 0, 2**64 - 1, 0),
    (12, 0, 1_999, 1),
    (28, 0, 10**19, 1),
    (29, 0, 2**64 - 1, 0),
    (127, 0, 2**64 - 1, 0),
    (6, -1, 1_500_000, 500_000_000),
    (6, -2, 1_500_000, 0),  # before 1970
    (6, 0, 2**64 - 505_274_165, LAST_NS),  # a negative count, written as unsigned
    (9, 2**63 - 1, 0, LAST_NS),
    (9, -(2**63), 2**64 - 1, 0),
])
def test_reader_pcapng_time(resolution: int, offset_s: int, ticks: int, expected: int) -> None:
    assert interface_time("<", resolution, offset_s, ticks) == expected


@given(
    st.sampled_from("<>"),
    st.integers(0, 255),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-2_000_000_000, 2_000_000_000),
    st.integers(0, 2**64 - 1),
)
def test_reader_pcapng_time_is_exact(
    order: str, resolution: int, offset_s: int, ticks: int
) -> None:
    base = 2 if resolution & 0x80 else 10
    exact = Fraction(ticks * 10**9, base ** (resolution & 0x7F)) + offset_s * 10**9
    expected = min(max(exact.__floor__(), 0), LAST_NS)
    assert interface_time(order, resolution, offset_s, ticks) == expected


def test_reader_ingress_by_interface_name() -> None:
    names = [b"eth0", b"eth0\0\0", b"eth", b"eth01", "łącze".encode(), b"\xff\xfe", b""]
    pieces = [section("<"), *(interface("<", options=option("<", 2, name)) for name in names)]
    pieces += [interface("<"), *(enhanced("<", n, 0, b"") for n in range(len(names) + 1))]
    reader = Reader({"eth0": 1, "łącze": 2})
    reader.feed(octets_of(pieces), True)
    assert [frame[4] for frame in reader.frames(100)] == [1, 1, 0, 0, 2, 0, 0, 0]


@pytest.mark.parametrize("link", LINK_NAMES)
@pytest.mark.parametrize("upper", [0, 0x14000000, 0xF8000000])  # FCS length, F and P bits
def test_reader_link_types(link: int, upper: int) -> None:
    expected = 101 if link in (12, 14) else link
    pieces = [pcap_header(link=link | upper), record("<", MICROSECONDS, 1, 2, b"abc")]
    assert [frame[3] for frame in read(octets_of(pieces))[0]] == [expected]
    pieces = [section(">"), interface(">", link), enhanced(">", 0, 1, b"abc")]
    assert [frame[3] for frame in read(octets_of(pieces))[0]] == [expected]


@pytest.mark.parametrize("pieces", [
    [pcap_header(link=127), record("<", MICROSECONDS, 1, 2, b"abc")],
    [section(">"), interface(">", 127), enhanced(">", 0, 1, b"abc")],
])
def test_reader_skips_unknown_links_when_asked(pieces: list[Piece]) -> None:
    frames, reader = read(octets_of(pieces))
    assert frames == []
    with pytest.raises(ValueError, match=r"link type 127 \(IEEE802_11_RADIOTAP\).*--skip-links"):
        reader.check()
    frames, reader = read(octets_of(pieces), skip_links=True)
    reader.check()
    assert [(frame[0], frame[3]) for frame in frames] == [(b"abc", 0xFFFF)]


def test_reader_ignores_an_unknown_link_that_no_frame_uses() -> None:
    pieces = [section("<"), interface("<", 127), interface("<"), enhanced("<", 1, 0, b"abc")]
    frames, reader = read(octets_of(pieces))
    reader.check()
    assert len(frames) == 1


GOOD = enhanced("<", 0, 0, b"good")
HEAD = [section("<"), interface("<", snap=96)]


def block_with_length(length: int, trailer: int | None = None) -> bytes:
    body = bytes(max(0, length - 12))
    return struct.pack("<II", 0x1234, length) + body + struct.pack(
        "<I", length if trailer is None else trailer)


NONSENSE = {
    "empty": (b"", "empty: expected a pcap or pcapng capture"),
    "two octets": (b"\xd4\xc3", "ends inside its file header: 2 octets found, 24 expected"),
    "header cut": (
        pcap_header().octets[:23], "ends inside its file header: 23 octets found, 24 expected"),
    "section cut": (
        section(">").octets[:27], "ends inside its file header: 27 octets found, 28 expected"),
    "text": (
        b"frame.number\n1\n", "starts with 66 72 61 6d: expected a pcap or pcapng capture"),
    "snoop": (b"snoop\0\0\0", "starts with 73 6e 6f 6f (a snoop capture; convert it with editcap):"
              " expected a pcap or pcapng capture"),
    "gzip inside": (
        b"\x1f\x8b\x08\0", "starts with 1f 8b 08 00 (gzip inside another compression; "
        "decompress it once): expected a pcap or pcapng capture"),
    "version": (pcap_header(version=(1, 0)).octets, "pcap version 1.0: expected 2.3 or 2.4"),
    "version 2.5": (
        pcap_header(">", version=(2, 5)).octets, "pcap version 2.5: expected 2.3 or 2.4"),
    "beyond snap": (
        octets_of([pcap_header(), record("<", MICROSECONDS, 0, 0, b"ok"),
                   record("<", MICROSECONDS, 0, 0, bytes(70_000))]),
        "record 2 at offset 42: captured length 70000 exceeds snap length 65535"),
    "beyond bound": (
        pcap_header(snap=0).octets + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 60),
        "record 1 at offset 24: captured length 4294967295 exceeds 262144, "
        "the most that a record may hold"),
    "beyond bound, huge snap": (
        pcap_header(">", MODIFIED, snap=0x7FFFFFFF).octets
        + struct.pack(">IIIIII", 0, 0, 262_145, 60, 0, 0),
        "record 1 at offset 24: captured length 262145 exceeds 262144, "
        "the most that a record may hold"),
    "link type": (
        octets_of([pcap_header(link=4711), record("<", MICROSECONDS, 0, 0, b"")]),
        "record 1 at offset 24: link type 4711 is not dissected; "
        "with --skip-links its frames are counted unread"),
    "byte order": (
        block("<", 0x0A0D0D0A, bytes(16)),
        "block at offset 0: byte-order magic 0x00000000: expected 0x1a2b3c4d"),
    "section version": (
        block(">", 0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 2, 7, -1)),
        "block at offset 0: pcapng version 2.7: expected 1.x"),
    "section short": (
        block("<", 0x0A0D0D0A, struct.pack("<IHH", 0x1A2B3C4D, 1, 0)),
        "block at offset 0: block length 20 is below the 28 that its type needs"),
    "section length": (
        struct.pack("<III", 0x0A0D0D0A, 29, 0x1A2B3C4D) + bytes(20),
        "block at offset 0: block length 29: expected a multiple of 4 from 12 to 16777216"),
    "section trailer": (
        section("<").octets[:-4] + bytes(4),
        "block at offset 0: block length 28 at the block's start, 0 at its end"),
    "block of 0": (
        octets_of(HEAD) + block_with_length(0),
        "block at offset 48: block length 0: expected a multiple of 4 from 12 to 16777216"),
    "block of 8": (
        octets_of(HEAD) + block_with_length(8),
        "block at offset 48: block length 8: expected a multiple of 4 from 12 to 16777216"),
    "block of 14": (
        octets_of(HEAD) + block_with_length(14),
        "block at offset 48: block length 14: expected a multiple of 4 from 12 to 16777216"),
    "block of 4 GiB": (
        octets_of(HEAD) + struct.pack("<II", 6, 0xFFFFFFFC) + bytes(40),
        "block at offset 48: block length 4294967292: expected a multiple of 4 from 12 "
        "to 16777216"),
    "trailer": (
        octets_of(HEAD) + block_with_length(32, 36),
        "block at offset 48: block length 32 at the block's start, 36 at its end"),
    "interface short": (
        section("<").octets + block("<", 1, bytes(4)),
        "block at offset 28: block length 16 is below the 20 that its type needs"),
    "option": (
        section("<").octets + block("<", 1, struct.pack("<HHIHH", 1, 0, 0, 2, 400) + bytes(8)),
        "block at offset 28: an option of 400 octets exceeds the 8 left in its block"),
    "packet short": (
        octets_of([*HEAD, GOOD]) + block("<", 6, bytes(16)),
        "block at offset 84: block length 28 is below the 32 that its type needs"),
    "simple packet short": (
        octets_of(HEAD) + block("<", 3, b""),
        "block at offset 48: block length 12 is below the 16 that its type needs"),
    "no interface": (
        octets_of([*HEAD, GOOD, enhanced("<", 1, 0, b"")]),
        "record 2 at offset 84: interface 1 is not among the 1 that the section describes"),
    "simple packet without interface": (
        section("<").octets + block("<", 3, bytes(8)),
        "record 1 at offset 28: interface 0 is not among the 0 that the section describes"),
    "interface of the section before": (
        octets_of([*HEAD, GOOD, section(">"), enhanced(">", 0, 0, b"")]),
        "record 2 at offset 112: interface 0 is not among the 0 that the section describes"),
    "beyond the interface's snap": (
        octets_of([*HEAD, enhanced("<", 0, 0, bytes(97))]),
        "record 1 at offset 48: captured length 97 exceeds snap length 96"),
    "beyond the block": (
        octets_of(HEAD) + block("<", 6, struct.pack("<IIIII", 0, 0, 0, 9, 9) + bytes(8)),
        "record 1 at offset 48: captured length 9 exceeds the 8 octets in its block"),
    "simple beyond the block": (
        octets_of(HEAD) + block("<", 3, struct.pack("<I", 9) + bytes(8)),
        "record 1 at offset 48: captured length 9 exceeds the 8 octets in its block"),
}


@pytest.mark.parametrize("octets, message", NONSENSE.values(), ids=NONSENSE.keys())
def test_reader_names_nonsense(octets: bytes, message: str) -> None:
    frames, reader = read(octets)
    with pytest.raises(ValueError) as raised:
        reader.check()
    assert raised.value.args[0] == message
    assert raised.value.args[1] == reader.position
    assert not reader.truncated
    assert reader.records == len(frames)
    assert reader.frames(1) == []  # the walk has ended for good


def test_reader_bounds_interfaces() -> None:
    many = interface("<").octets * (limits.INTERFACES_MAX + 1)
    _, reader = read(section("<").octets + many)
    with pytest.raises(ValueError, match="more than 65535 interfaces in one section"):
        reader.check()


def test_reader_waits_for_a_header_in_pieces() -> None:
    octets = octets_of(pcap("<", MICROSECONDS))
    reader = Reader()
    for end in range(24):
        reader.feed(octets[:end], False)
        assert reader.frames(1) == []
        reader.check()
        assert reader.consumed == 0


def test_reader_survives_mutations() -> None:
    """No read beyond the region, no hang: the sanitizer build watches, this drives."""
    chance = random.Random(1812)
    for name in sorted(CAPTURES):
        whole = octets_of(CAPTURES[name])
        for _ in range(1_500):
            octets = bytearray(whole)
            for _ in range(chance.randint(1, 6)):
                at = chance.randrange(len(octets))
                octets[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            del octets[chance.randint(len(octets) // 2, len(octets)):]
            # A copy of its own size, so that an octet too far is another allocation's.
            frames, reader = read(bytes(octets), skip_links=chance.random() < 0.5)
            assert sum(len(frame[0]) for frame in frames) <= len(octets)
            assert reader.position <= len(octets)
            assert all(frame[3] in {*LINK_NAMES, 0xFFFF} for frame in frames)
