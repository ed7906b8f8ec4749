"""Lengths that lie, headers that carry data, and payloads that are none."""

from __future__ import annotations

import struct

from strategies import ipv4, ipv6, udp

from .attack import ALICE, ALICE6, ELSEWHERE, ELSEWHERE6, KEY6, SHOPS, Attack, sponsored
from .wire import UDP, at, datagram, segment, sent

WHOLE = sponsored(SHOPS)
PAYLOAD = 'layer = "payload"\ntunnel_endpoints = []'
FRAME = 'layer = "frame"\ntunnel_endpoints = []'
DESTINATION = 60


def short(packet: bytes) -> bytes:
    """An IPv4 packet that says 1,000 octets more than it has."""
    return packet[:2] + struct.pack(">H", len(packet) + 1000) + packet[4:]


def options(count: int, octets: int, behind: bytes = b"", protocol: int = UDP) -> bytes:
    """An IPv6 packet with so many headers of destination options, each of so many octets."""
    header = bytes([octets // 8 - 1]).ljust(octets - 1, b"\x45")
    content = behind
    for n in range(count):
        next_header = protocol if n == 0 else DESTINATION
        content = bytes([next_header]) + header + content
    return ipv6(DESTINATION, content, ALICE6, ELSEWHERE6)


CUT = at(options(1, 1400, udp(1000, 443, bytes(12))))

ATTACKS = (
    Attack(
        "padding-behind", rules=WHOLE,  # a router forwards the packet, not what stands behind it
        packets=[at(datagram(ALICE, ELSEWHERE, 100), padding=1000)], pays={ALICE: 100}),
    Attack(
        "padding-frame", rules=WHOLE, meter=FRAME,
        packets=[at(datagram(ALICE, ELSEWHERE, 100), padding=1000)], pays={ALICE: 1114}),
    Attack(
        "length-beyond-the-wire", rules=WHOLE,  # nothing is billed that was not sent
        packets=sent(short(datagram(ALICE, ELSEWHERE, 100)), datagram(ALICE, ELSEWHERE, 100)),
        pays={ALICE: 100}, counted={"fault:ip_exceeds_wire": 100}),
    Attack(
        "length-of-udp", rules=WHOLE,  # UDP says 8 octets, IP says 1,000: IP is what passes
        packets=sent(ipv4(UDP, udp(1000, 443, b"") + bytes(972), ALICE, ELSEWHERE)),
        pays={ALICE: 1000}),
    Attack(
        "data-in-tcp-options", rules=WHOLE,
        packets=sent(segment(ALICE, ELSEWHERE, options=b"\x01" * 40)), pays={ALICE: 80}),
    Attack(
        "data-in-tcp-options-payload", rules=WHOLE, meter=PAYLOAD,  # headers are free there
        packets=sent(segment(ALICE, ELSEWHERE, options=b"\x01" * 40)),
        pays={}, owed={ALICE: 40}),
    Attack(
        "data-in-ip-options", rules=WHOLE,
        packets=sent(ipv4(UDP, udp(1000, 443, b""), ALICE, ELSEWHERE, options=b"\x01" * 40)),
        pays={ALICE: 68}),
    Attack(
        "data-in-extension-headers", rules=WHOLE,
        packets=sent(options(8, 128, udp(1000, 443, bytes(12)))), pays={KEY6: 40 + 8 * 128 + 20}),
    Attack(
        "too-many-extension-headers", rules=WHOLE,  # addresses and length are plain all the same
        packets=sent(options(9, 128, udp(1000, 443, bytes(12)))), pays={KEY6: 40 + 9 * 128 + 20}),
    Attack(
        "broken-extension-header", rules=WHOLE,  # routers don't read it, a friend does
        packets=sent(ipv6(DESTINATION, b"\x11\xff" + b"\x45" * 998, ALICE6, ELSEWHERE6)),
        pays={KEY6: 1040}),
    Attack(
        "extension-headers-beyond-the-capture", rules=WHOLE,  # a snap length of 128 octets
        packets=[CUT._replace(octets=CUT.octets[:128])], pays={KEY6: 40 + 1400 + 20}),
)
