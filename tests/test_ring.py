"""The walk over a receive ring's blocks, on blocks that no kernel wrote."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollsplit.cext.ring import Ring

BLOCK = 4096
KERNEL, USER = 0, 1
VLAN_VALID, TPID_VALID, GSO_TCP = 1 << 4, 1 << 6, 1 << 8
ETHERNET, RAW = 1, 101
UNKNOWN = 0xFFFFFFFF
ADDRESSES = bytes(range(1, 13))


@dataclass(frozen=True)
class Packet:
    """A packet as the kernel puts it into a block: tpacket3_hdr, virtio_net_hdr, octets."""

    octets: bytes
    original: int | None = None
    status: int = 0
    tci: int = 0
    tpid: int = 0
    seconds: int = 0
    nanoseconds: int = 0
    gso_type: int = 0
    gso_size: int = 0
    mac: int = 96                       # offset of the octets
    snap: int | None = None             # the length that the header claims
    next_offset: int | None = None      # None: what the kernel would write

    def packed(self, last: bool) -> bytes:
        length = self.mac + len(self.octets)
        length += -length % 8
        following = 0 if last else length
        header = struct.pack(
            "=6I2H2IHH8x", following if self.next_offset is None else self.next_offset,
            self.seconds, self.nanoseconds, len(self.octets) if self.snap is None else self.snap,
            len(self.octets) if self.original is None else self.original, self.status,
            self.mac, 0, 0, self.tci, self.tpid, 0)
        virtio = struct.pack("=BBHHHH", 0, self.gso_type, 777, self.gso_size, 0, 0)
        header = header.ljust(self.mac - len(virtio), b"\xee") + virtio
        return (header + self.octets).ljust(length, b"\xee")


def block(packets: Sequence[Packet], *, status: int = USER, count: int | None = None,
          first: int = 48, filled: int | None = None, size: int = BLOCK) -> bytes:
    content = b"".join(packet.packed(packet is packets[-1]) for packet in packets)
    header = struct.pack("=6IQ4I", 2, 48, status, len(packets) if count is None else count, first,
                         48 + len(content) if filled is None else filled, 1, 0, 0, 0, 0)
    return (header + content).ljust(size, b"\xdd")


def ring(*blocks: bytes, link: int = ETHERNET, segments: bool = False) -> tuple[Ring, bytearray]:
    memory = bytearray(b"".join(blocks))
    return Ring(memory, BLOCK, link, 7, segments), memory


def status(memory: bytearray, number: int) -> int:
    return int(struct.unpack_from("=I", memory, number * BLOCK + 8)[0])


def octets_of(frames: list[tuple[bytes, int, int, int, int, int]]) -> list[bytes]:
    return [frame[0] for frame in frames]


def test_ring_hands_out_every_column() -> None:
    found, _ = ring(block([
        Packet(b"a" * 60, 1500, seconds=4_294_967_295, nanoseconds=999_999_999),
        Packet(b"b" * 61, seconds=1, nanoseconds=2),
    ]))
    assert found.frames(10) == [
        (b"a" * 60, 4_294_967_295_999_999_999, 1500, ETHERNET, 7, 0),
        (b"b" * 61, 1_000_000_002, 61, ETHERNET, 7, 0),
    ]
    assert (found.handed_out, found.faults) == (2, 0)


def test_ring_gives_a_block_back_after_its_last_frame_is_done_with() -> None:
    found, memory = ring(block([Packet(b"a" * 60), Packet(b"b" * 60)]), block([], status=KERNEL))
    assert octets_of(found.frames(1)) == [b"a" * 60]
    assert status(memory, 0) == USER
    assert octets_of(found.frames(1)) == [b"b" * 60]
    assert status(memory, 0) == USER      # its last frame is in use until the next call
    assert not found.ready()
    assert status(memory, 0) == KERNEL


def test_ring_waits_for_the_block_that_comes_next_and_goes_round() -> None:
    found, memory = ring(block([], status=KERNEL), block([Packet(b"b" * 60)]))
    assert not found.ready()              # the second is there, and not its turn
    memory[:BLOCK] = block([Packet(b"a" * 60)])
    assert octets_of(found.frames(9)) == [b"a" * 60, b"b" * 60]
    assert not found.ready()
    memory[:BLOCK] = block([Packet(b"c" * 60)])
    assert found.ready()
    assert octets_of(found.frames(9)) == [b"c" * 60]


def test_ring_skips_blocks_that_hold_nothing() -> None:
    found, memory = ring(block([]), block([]), block([Packet(b"c" * 60)]))
    assert octets_of(found.frames(9)) == [b"c" * 60]
    assert [status(memory, number) for number in range(2)] == [KERNEL, KERNEL]


def test_ring_hands_out_one_turn_between_two_looks() -> None:
    """A worker that cannot keep up would otherwise never come by its clock again."""
    full = block([Packet(b"a" * 60)])
    found, memory = ring(full, full)
    assert found.ready()
    assert len(found.frames(2)) == 2
    memory[:BLOCK] = full                 # the kernel is faster than we are
    assert found.frames(1) == []
    assert found.ready()
    assert len(found.frames(9)) == 1


def test_ring_skip_counts_frames_and_original_octets() -> None:
    found, _ = ring(block([Packet(b"a" * 60, 64), Packet(b"b" * 60, 1500)]),
                    block([Packet(b"c" * 60, 9000)]))
    assert found.skip() == (3, 64 + 1500 + 9000)
    assert found.skip() == (0, 0)


TAGS = [
    ("a tag with its protocol", VLAN_VALID | TPID_VALID, 0x2064, 0x88A8, "88a8 2064"),
    ("a tag without: IEEE 802.1Q", VLAN_VALID, 0x0FFF, 0, "8100 0fff"),
    ("a priority tag of VLAN 0", VLAN_VALID | TPID_VALID, 0, 0x8100, "8100 0000"),
]


@pytest.mark.parametrize(("flags", "tci", "tpid", "tag"), [row[1:] for row in TAGS],
                         ids=[row[0] for row in TAGS])
@pytest.mark.parametrize("segments", [False, True])
def test_ring_puts_a_vlan_tag_back(
    flags: int, tci: int, tpid: int, tag: str, segments: bool
) -> None:
    rest = b"\x08\x00" + b"x" * 46
    found, _ = ring(block([Packet(ADDRESSES + rest, 90, flags, tci, tpid, gso_type=1, gso_size=9)]),
                    segments=segments)
    [(octets, _, original, _, _, segment_octets)] = found.frames(2)
    assert octets == ADDRESSES + bytes.fromhex(tag) + rest
    assert original == 94
    assert segment_octets == (9 if segments else 0)


@pytest.mark.parametrize(("octets", "link"), [(ADDRESSES[:11], ETHERNET), (b"E" * 40, RAW)])
def test_ring_puts_no_tag_where_no_addresses_are(octets: bytes, link: int) -> None:
    found, _ = ring(block([Packet(octets, status=VLAN_VALID, tci=5)]), link=link)
    assert [frame[:1] + frame[2:4] for frame in found.frames(2)] == [(octets, len(octets), link)]


SEGMENTS = [
    ("one packet", 0, 1448, 0),
    ("TCP over IPv4", 1, 1448, 1448),
    ("TCP over IPv6", 4, 1428, 1428),
    ("TCP with ECN", 0x81, 1448, 1448),
    ("UDP in segments", 5, 500, 500),
    ("UDP in fragments", 3, 1480, UNKNOWN),
    ("what is not known yet", 0x22, 1480, UNKNOWN),
]


@pytest.mark.parametrize(("gso_type", "gso_size", "expected"), [row[1:] for row in SEGMENTS],
                         ids=[row[0] for row in SEGMENTS])
def test_ring_says_how_large_segments_are(gso_type: int, gso_size: int, expected: int) -> None:
    packet = Packet(b"a" * 200, 60_000, gso_type=gso_type, gso_size=gso_size)
    found, _ = ring(block([packet]), segments=True)
    assert [frame[5] for frame in found.frames(2)] == [expected]


@pytest.mark.parametrize(("flags", "expected"), [(0, 0), (GSO_TCP, UNKNOWN)])
def test_ring_without_segment_sizes_knows_that_there_are_segments(
    flags: int, expected: int
) -> None:
    found, _ = ring(block([Packet(b"a" * 60, status=flags, gso_type=1, gso_size=1448)]))
    assert [frame[5] for frame in found.frames(2)] == [expected]


GOOD = Packet(b"g" * 60)
LEFT = BLOCK - 48 - 160                  # of the block behind the good packet in front
NONSENSE = [
    ("octets over the header", Packet(b"a" * 60, mac=67)),
    ("no room for a tag", Packet(b"a" * 60, mac=71)),
    ("octets beyond the block", Packet(b"a" * 60, mac=LEFT + 1)),
    ("a length beyond the block", Packet(b"a" * 60, snap=LEFT, original=9000)),
    ("a length that wraps", Packet(b"a" * 60, snap=0xFFFFFFF0, original=0xFFFFFFFF)),
    ("more captured than there was", Packet(b"a" * 60, original=59)),
]


@pytest.mark.parametrize("bad", [row[1] for row in NONSENSE], ids=[row[0] for row in NONSENSE])
def test_ring_packet_that_leads_astray_is_a_fault_with_all_behind_it(bad: Packet) -> None:
    found, memory = ring(block([GOOD, bad, GOOD], filled=BLOCK)[:BLOCK], block([GOOD]))
    assert octets_of(found.frames(9)) == [GOOD.octets, GOOD.octets]
    assert (found.handed_out, found.faults) == (2, 2)
    assert status(memory, 0) == KERNEL


@pytest.mark.parametrize("offset", [0, 8, 152, BLOCK, 0xFFFFFFF8, 0xFFFFFF60])
def test_ring_offset_that_leads_astray_is_a_fault_with_all_behind_it(offset: int) -> None:
    first = Packet(b"a" * 60, next_offset=offset)
    found, _ = ring(block([first, GOOD, GOOD]), block([GOOD]))
    assert octets_of(found.frames(9)) == [first.octets, GOOD.octets]
    assert (found.handed_out, found.faults) == (2, 2)


@pytest.mark.parametrize("options", [
    {"first": 40}, {"first": 52}, {"first": BLOCK}, {"first": 0xFFFFFFF8},
    {"filled": BLOCK + 8}, {"filled": 0}, {"filled": 100},
], ids=str)
def test_ring_block_that_makes_no_sense_is_a_fault(options: dict[str, int]) -> None:
    found, memory = ring(block([GOOD, GOOD], **options), block([GOOD]))
    assert octets_of(found.frames(9)) == [GOOD.octets]
    assert (found.handed_out, found.faults) == (1, 2)
    assert status(memory, 0) == KERNEL


def test_ring_frames_announced_and_not_there_are_faults() -> None:
    found, _ = ring(block([GOOD], count=1000), block([GOOD]))
    assert len(found.frames(9)) == 2
    assert (found.handed_out, found.faults) == (2, 999)


@given(st.data())
def test_ring_stays_inside_whatever_the_block_says(data: st.DataObject) -> None:
    """Every count is right even so; the sanitizer build sees to it that nothing else is read."""
    packets = [
        Packet(b"a" * length, status=flags, gso_type=1, gso_size=9)
        for length, flags in data.draw(st.lists(st.tuples(
            st.integers(0, 300), st.sampled_from([0, VLAN_VALID])), min_size=1, max_size=5))
    ]
    memory = bytearray(block(packets, count=data.draw(st.integers(0, 8))))
    for at, value in data.draw(st.lists(st.tuples(
            st.integers(12, 1200), st.integers(0, 255)), max_size=6)):
        memory[at] = value
    announced = struct.unpack_from("=I", memory, 12)[0]
    found = Ring(memory, BLOCK, data.draw(st.sampled_from([ETHERNET, RAW])), 0,
                 data.draw(st.booleans()))
    handed = found.frames(100)
    assert all(len(frame[0]) <= frame[2] for frame in handed)
    assert found.handed_out == len(handed)
    assert len(handed) + found.faults == announced


@pytest.mark.parametrize(("octets", "block_octets", "link", "finding"), [
    (0, BLOCK, ETHERNET, "a ring of 0 octets: expected blocks of 4096"),
    (BLOCK + 8, BLOCK, ETHERNET, "a ring of 4104 octets: expected blocks of 4096"),
    (BLOCK, 40, ETHERNET, "blocks of 40 octets: expected a multiple of 8 from 48"),
    (BLOCK, 52, ETHERNET, "blocks of 52 octets: expected a multiple of 8 from 48"),
    (BLOCK, BLOCK, 127, "link type 127 is not dissected"),
])
def test_ring_refuses_what_is_none(octets: int, block_octets: int, link: int, finding: str) -> None:
    with pytest.raises(ValueError, match=f"^{finding}$"):
        Ring(bytearray(octets), block_octets, link)


def test_ring_refuses_memory_that_is_not_aligned() -> None:
    with pytest.raises(ValueError, match="not aligned to 8 octets"):
        Ring(memoryview(bytearray(BLOCK + 8))[4 : BLOCK + 4], BLOCK, ETHERNET)


def test_ring_closed_hands_out_nothing_and_lets_go() -> None:
    found, memory = ring(block([GOOD, GOOD]))
    assert len(found.frames(1)) == 1
    found.close()
    assert found.frames(1) == []
    assert not found.ready()
    memory.clear()                        # raises BufferError while somebody refers to it
