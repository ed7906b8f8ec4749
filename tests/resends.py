"""What senders, mirrors and strangers send: segments, packets again, what nobody asked for."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from fragments import ENDS, SECOND_NS, frame, gtpu
from hypothesis import strategies as st
from judges import Frame
from strategies import ethernet, ip_type, ipv4, ipv6, udp

MS_NS = 1_000_000
START_NS = 1_793_505_600 * SECOND_NS
CLIENT, SERVER, FRIEND = "10.0.0.7", "203.0.113.5", "10.0.0.8"
UP, DOWN = (CLIENT, SERVER), (SERVER, CLIENT)
FIN, SYN, RST, ACK = 1, 2, 4, 16
UNIT = 40  # octets: from thirteen of them on a retransmission may be free
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(8)


def content(first: int, octets: int, kind: int = 0) -> bytes:
    """What a stream has from one place on: no two places are alike, nor two kinds."""
    return bytes((3 * at + at // 85 + 101 * kind) % 256 for at in range(first, first + octets))


def segment(
    sequence: int, payload: bytes = b"", *, ends: tuple[str, str] = UP, flags: int = ACK,
    port: int = 443, client: int = 1000, options: bytes = b"", number: int = 1, ttl: int = 64,
    window: int = 512,
) -> bytes:
    """An IP packet with a segment of TCP; the client's port is that of the end in 10/8 or so."""
    ports = (client, port) if ends[0].startswith(("10.", "2001:db8::")) else (port, client)
    header = struct.pack(">HHIIBBHHH", *ports, sequence % 2**32, 1, (20 + len(options)) << 2,
                         flags, window, 0, 0)
    build = ipv4 if ip_address(ends[0]).version == 4 else ipv6
    packet = bytearray(build(6, header + options + payload, *ends))
    if packet[0] >> 4 == 4:
        packet[4:6] = struct.pack(">H", number)
        packet[8] = ttl
    else:
        packet[7] = ttl
    return bytes(packet)


def at(packet: bytes, ms: float = 0, captured: int | None = None, *, vlan: int = 0) -> Frame:
    """A packet's frame, some milliseconds after the start."""
    at_ns = START_NS + int(ms * MS_NS)
    if not vlan:
        return frame(packet, at_ns, captured)
    octets = ethernet(0x8100, struct.pack(">HH", vlan, ip_type(packet)) + packet)
    return Frame(octets[:captured], at_ns, len(octets), 1)


@st.composite
def streams(draw: st.DrawFn) -> list[Frame]:
    """A few streams whose segments come again, overlap, lie in each other or differ."""
    base = draw(st.sampled_from([0, 1_000, 2**32 - 20 * UNIT, 2**31 - 10 * UNIT]))
    cuts = [0, *(UNIT * place for place in draw(
        st.lists(st.integers(1, 90), min_size=1, max_size=6, unique=True)))]
    cuts.sort()
    ends = draw(st.lists(st.sampled_from(ENDS[:6]), min_size=1, max_size=2))
    found: list[Frame] = []
    sent: list[tuple[int, int, tuple[str, str]]] = []
    ms = 0.0
    for _ in range(draw(st.integers(4, 18))):
        ms += draw(st.sampled_from([0, 0.5, 1, 3, 200, 200, 200, 301_000]))
        first = draw(st.sampled_from(cuts))
        last = draw(st.sampled_from([*cuts, first + 1, 95 * UNIT]))
        whose = draw(st.sampled_from(ends))
        if sent and draw(st.booleans()):  # again, or some of it, or more
            first, last, whose = draw(st.sampled_from(sent))
            last = draw(st.sampled_from([*[last] * 9, *cuts]))
        sent.append((first, last, whose))
        kind = draw(st.sampled_from([0] * 6 + [1]))
        jump = draw(st.sampled_from([0] * 40 + [2**30, -(2**30), 2**29]))
        flags = draw(st.sampled_from([ACK] * 24 + [ACK | FIN, SYN, RST]))
        packet = segment(
            base + first + jump, content(first, max(0, last - first), kind),
            ends=whose, flags=flags,
            options=draw(st.sampled_from([b"", b"", TIMESTAMPS, TIMESTAMPS + b"\x01" * 4])),
            number=draw(st.integers(0, 1)), ttl=draw(st.sampled_from([64, 63])))
        if draw(st.integers(0, 7)) == 0:
            packet = gtpu(packet)
        cut = draw(st.sampled_from([None] * 20 + [60, 100]))
        found.append(at(packet, ms, cut, vlan=draw(st.sampled_from([0, 0, 0, 7]))))
        if draw(st.integers(0, 5)) == 0:
            found[-1] = found[-1]._replace(
                segment_octets=draw(st.sampled_from([10 * UNIT, 45 * UNIT, 2**32 - 1])))
        if draw(st.integers(0, 5)) == 0:  # another protocol, or a part of a datagram
            build = ipv4 if "." in ends[0][0] else ipv6
            found.append(at(build(*draw(st.sampled_from([
                (17, udp(1000, 443, bytes(8))), (1, bytes(8)), (50, bytes(9))])), *ends[0]), ms))
        if draw(st.integers(0, 9)) == 0:
            found.append(at(ipv4(6, bytes(40), *UP, fragment=draw(
                st.sampled_from([0x2000, 5]))), ms))
    return found
