"""What the core shows of a packet's inside: whole, truncated, tunnelled, fragmented."""

from __future__ import annotations

from typing import Any

import pytest
from packets import CASES, Case
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tollsplit.cext.dissect import inside

ETHERNET = 1
PAYLOAD = b"GET / HTTP/1.1\r\n\r\n"
TCP_HEADER = TCP(sport=1234, dport=80, seq=0xFFFFFFF0, ack=7, window=512, options=[("NOP", None)])


def look(packet: Ether | bytes, captured: int | None = None, at: str = "inner") -> dict[str, Any]:
    octets = bytes(packet)
    return inside((octets[:captured], 0, len(octets), ETHERNET, 0, 0), at)


@pytest.mark.parametrize("header", [IP(), IPv6()], ids=["ipv4", "ipv6"])
def test_inside_shows_a_tcp_payload_and_its_place(header: IP) -> None:
    found = look(Ether() / header / TCP_HEADER / PAYLOAD)
    assert found["payload"] == PAYLOAD
    assert found["payload_octets"] == len(PAYLOAD)
    assert (found["sequence"], found["acknowledgment"], found["window"]) == (0xFFFFFFF0, 7, 512)
    assert found["packet"] == bytes(header / TCP_HEADER / PAYLOAD)
    assert found["options"] is None


def test_inside_shows_a_udp_payload_without_padding() -> None:
    found = look(bytes(Ether() / IP() / UDP(sport=1, dport=2) / b"abc") + bytes(20))
    assert found["payload"] == b"abc"
    assert found["packet"] == bytes(IP() / UDP(sport=1, dport=2) / b"abc")


def test_inside_shows_the_last_destination_options() -> None:
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    found = look(Ether() / IPv6() / options / UDP(sport=1, dport=2) / b"abc")
    assert found["options"] == bytes(IPv6() / options / UDP(sport=1, dport=2))[40:48]
    assert found["payload"] == b"abc"


def test_inside_is_the_metered_packet() -> None:
    packet = (Ether() / IP() / UDP(sport=1, dport=4789) / VXLAN(vni=1) / Ether() / IP(ttl=3)
              / TCP_HEADER / PAYLOAD)  # fmt: skip
    assert look(packet)["payload"] == PAYLOAD
    outer = look(packet, at="outer")
    assert outer["payload"] is None
    assert outer["packet"] == bytes(packet)[14:]


@pytest.mark.parametrize(
    "packet",
    [Ether() / IP(flags="MF") / UDP(sport=1, dport=2, len=100) / Raw(bytes(32)),
     Ether() / IP(frag=1, proto=17) / Raw(bytes(32)),
     Ether() / IPv6() / IPv6ExtHdrFragment(m=1) / UDP(sport=1, dport=2) / Raw(bytes(32))],
)  # fmt: skip
def test_inside_of_a_fragment_has_no_payload(packet: Ether) -> None:
    assert look(packet)["payload"] is None


def test_inside_cut_by_the_capture_shows_what_is_there() -> None:
    packet = bytes(Ether() / IPv6() / IPv6ExtHdrDestOpt() / TCP_HEADER / PAYLOAD)
    start = len(packet) - len(PAYLOAD)
    for captured in range(len(packet) + 1):
        found = look(packet, captured)
        if found["payload"] is None:
            assert captured < start
            continue
        assert found["payload"] == packet[start:captured]
        assert found["payload_octets"] == len(PAYLOAD)


@pytest.mark.parametrize("case", CASES, ids=[c.description for c in CASES])
def test_inside_lies_in_the_frame_whatever_is_captured(case: Case) -> None:
    for captured in range(len(case.octets) + 1):
        for at in ("inner", "outer"):
            frame = (case.octets[:captured], 0, case.original, case.link_type, 0, 0)
            for part in ("packet", "payload", "options"):
                octets = inside(frame, at)[part]
                assert octets is None or octets in case.octets[:captured]
