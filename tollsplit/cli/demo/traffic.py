"""Seeded traffic of a small mobile network, frame by frame, as a pcap file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from random import Random
from typing import IO, NamedTuple

SEED = 20261101
SNAP_OCTETS = 262_144
START_NS = 1_793_455_200_000_000_000  # 2026-10-31T22:00:00+08:00
HOURS = 28  # so that three days of Shanghai are touched
SESSIONS = 220
MTU = 1500

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
TCP, UDP, ICMP = 6, 17, 1
GTPU_PORT = 2152
EF = 46  # DSCP, RFC 3246


class Frame(NamedTuple):
    octets: bytes
    original_octets: int


class Service(NamedTuple):
    """A kind of session: where it goes, how it looks, how often it happens."""

    server: str
    port: int
    protocol: int
    dscp: int
    weight: int


SERVICES_IPV4 = (
    Service("203.0.113.10", 443, TCP, 0, 6),  # video
    Service("203.0.113.11", 443, UDP, 0, 4),  # video over QUIC
    Service("203.0.113.10", 80, TCP, 0, 1),  # the same server, but no sponsored port
    Service("198.51.100.7", 443, TCP, 0, 5),  # shop
    Service("198.51.100.200", 8443, TCP, EF, 4),  # live, marked
    Service("198.51.100.200", 8443, TCP, 0, 2),  # live, not marked
    Service("192.0.2.66", 443, TCP, EF, 2),  # a mark that its server contradicts
    Service("192.0.2.80", 443, TCP, 0, 5),  # the open Internet
)
SERVICES_IPV6 = (
    Service("2001:db8:cd::10", 443, TCP, 0, 4),
    Service("2001:db8:ff::80", 443, TCP, 0, 3),
)
RESOLVER_IPV4, RESOLVER_IPV6 = "192.0.2.53", "2001:db8:ff::53"
SUBSCRIBERS_IPV4 = tuple(f"10.20.0.{host}" for host in range(1, 10))
SUBSCRIBERS_IPV6 = ("2001:db8:20:1::a", "2001:db8:20:1::b", "2001:db8:20:2::a")
GATEWAY, RADIO = "172.16.0.1", "172.16.0.2"
TUNNELLED = {"10.20.0.7": 0x1007, "10.20.0.8": 0x1008}  # GTP-U TEID by subscriber
TAGGED = {"10.20.0.9": 209}  # VLAN by subscriber


def write_capture(stream: IO[bytes], seed: int = SEED) -> int:
    """Write the capture: pcap with nanoseconds, Ethernet. Returns the number of frames.

    The same seed gives the same octets.
    """
    stream.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAP_OCTETS, 1))
    count = 0
    for timestamp_ns, frame in sorted(_frames(Random(seed)), key=lambda pair: pair[0]):
        seconds, nanoseconds = divmod(timestamp_ns, 1_000_000_000)
        stream.write(struct.pack("<IIII", seconds, nanoseconds, len(frame.octets),
                                 frame.original_octets))
        stream.write(frame.octets)
        count += 1
    return count


def _frames(random: Random) -> Iterator[tuple[int, Frame]]:
    span_ns = HOURS * 3_600_000_000_000
    for _ in range(SESSIONS):
        at_ns = START_NS + random.randrange(span_ns)
        yield from _session(random, at_ns)
    for index, frame in enumerate(_oddities()):
        yield START_NS + (index + 1) * span_ns // 16, frame


def _session(random: Random, at_ns: int) -> Iterator[tuple[int, Frame]]:
    """One session: a name is resolved, requests go up, larger answers come down."""
    subscriber = random.choice(SUBSCRIBERS_IPV4 + SUBSCRIBERS_IPV6)
    ipv6 = ":" in subscriber
    services = SERVICES_IPV6 if ipv6 else SERVICES_IPV4
    service = random.choices(services, [s.weight for s in services])[0]
    resolver = RESOLVER_IPV6 if ipv6 else RESOLVER_IPV4
    port = random.randrange(32_768, 60_999)
    question, answer = random.randrange(30, 50), random.randrange(60, 200)
    yield at_ns, _uplink(subscriber, resolver, UDP, port, 53, question)
    yield at_ns + 9_000_000, _downlink(subscriber, resolver, UDP, port, 53, answer)
    at_ns += 20_000_000
    for _ in range(random.randrange(3, 24)):
        request = random.randrange(0, 400)
        yield at_ns, _uplink(subscriber, service.server, service.protocol, port, service.port,
                             request, service.dscp)
        for _ in range(random.randrange(1, 4)):
            at_ns += random.randrange(100_000, 30_000_000)
            yield at_ns, _downlink(subscriber, service.server, service.protocol, port,
                                   service.port, random.randrange(200, MTU - 60), service.dscp)
        at_ns += random.randrange(1_000_000, 400_000_000)


def _oddities() -> Iterator[Frame]:
    """What every real capture has too: each ends in a bucket of its own."""
    arp = struct.pack("!HHBBH6s4s6s4s", 1, ETHERTYPE_IPV4, 6, 4, 1, _mac(1), _address(GATEWAY),
                      bytes(6), _address("10.20.0.1"))
    yield _frame(_ethernet(arp, ETHERTYPE_ARP))
    # Between two subscribers: uplink of one, downlink of the other, metered twice.
    between = _ip("10.20.0.1", "10.20.0.3", UDP, _udp(5060, 5060, bytes(300)))
    yield _frame(_ethernet(between, ETHERTYPE_IPV4))
    # No subscriber at either end.
    transit = _ip("192.0.2.1", "192.0.2.2", UDP, _udp(123, 123, bytes(48)))
    yield _frame(_ethernet(transit, ETHERTYPE_IPV4))
    # GTP-U echo request (TS 29.281 §7.2.1): the tunnel's own business. S is set, TEID 0.
    echo = struct.pack("!BBHIHBB", 0x32, 1, 4, 0, 7, 0, 0)
    outer = _ip(RADIO, GATEWAY, UDP, _udp(GTPU_PORT, GTPU_PORT, echo))
    yield _frame(_ethernet(outer, ETHERTYPE_IPV4))
    # A snap length that cuts the IP header, and an IP length beyond the wire.
    whole = _ethernet(_ip("10.20.0.1", "192.0.2.80", UDP, _udp(9, 9, bytes(90))), ETHERTYPE_IPV4)
    yield Frame(whole[:24], len(whole))
    lying = bytearray(_ip("10.20.0.3", "192.0.2.80", UDP, _udp(9, 9, bytes(60))))
    lying[2:4] = struct.pack("!H", 1400)
    yield _frame(_ethernet(bytes(lying), ETHERTYPE_IPV4))


def _uplink(subscriber: str, server: str, protocol: int, port: int, server_port: int,
            size: int, dscp: int = 0) -> Frame:
    packet = _packet(subscriber, server, protocol, port, server_port, size, dscp)
    return _carried(subscriber, packet, RADIO, GATEWAY)


def _downlink(subscriber: str, server: str, protocol: int, port: int, server_port: int,
              size: int, dscp: int = 0) -> Frame:
    packet = _packet(server, subscriber, protocol, server_port, port, size, dscp)
    return _carried(subscriber, packet, GATEWAY, RADIO)


def _packet(source: str, destination: str, protocol: int, source_port: int,
            destination_port: int, size: int, dscp: int) -> bytes:
    transport = _udp if protocol == UDP else _tcp
    return _ip(source, destination, protocol, transport(source_port, destination_port,
                                                        bytes(size)), dscp)


def _carried(subscriber: str, packet: bytes, sender: str, receiver: str) -> Frame:
    """The packet as it crosses the tap: in a tunnel, behind a tag, or plain."""
    if subscriber in TUNNELLED:
        qfi = 5 if subscriber == "10.20.0.7" else 9
        tunnel = _gtpu(TUNNELLED[subscriber], qfi, packet, up=sender == RADIO)
        outer = _ip(sender, receiver, UDP, _udp(GTPU_PORT, GTPU_PORT, tunnel))
        return _frame(_ethernet(outer, ETHERTYPE_IPV4))
    ethertype = ETHERTYPE_IPV6 if packet[0] >> 4 == 6 else ETHERTYPE_IPV4
    if subscriber in TAGGED:
        packet = struct.pack("!HH", TAGGED[subscriber], ethertype) + packet
        ethertype = ETHERTYPE_VLAN
    return _frame(_ethernet(packet, ethertype))


def _frame(octets: bytes) -> Frame:
    octets = octets.ljust(60, b"\0")  # Ethernet pads: billed under layer frame only
    return Frame(octets, len(octets))


def _ethernet(payload: bytes, ethertype: int) -> bytes:
    return _mac(2) + _mac(1) + struct.pack("!H", ethertype) + payload


def _mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


def _address(text: str) -> bytes:
    return ip_address(text).packed


def _ip(source: str, destination: str, protocol: int, payload: bytes, dscp: int = 0) -> bytes:
    if ":" in source:  # RFC 8200 §3
        head = struct.pack("!IHBB", 6 << 28 | dscp << 22, len(payload), protocol, 64)
        return head + _address(source) + _address(destination) + payload
    head = struct.pack("!BBHHHBBH", 0x45, dscp << 2, 20 + len(payload), 0, 0x4000, 64, protocol, 0)
    head += _address(source) + _address(destination)
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def _checksum(header: bytes) -> int:
    """RFC 1071: one's complement of the one's complement sum."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def _tcp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 0, 0, 5 << 4, 0x10, 65_535,
                       0, 0) + payload


def _gtpu(teid: int, qfi: int, packet: bytes, *, up: bool) -> bytes:
    """TS 29.281 §5.1: E is set, next extension header 0x85 is the PDU session container."""
    container = struct.pack("!BBBB", 1, 0x10 if up else 0, qfi, 0)  # TS 38.415 §5.5.2
    optional = struct.pack("!HBB", 0, 0, 0x85)
    length = len(optional) + len(container) + len(packet)
    return struct.pack("!BBHI", 0x34, 0xFF, length, teid) + optional + container + packet
