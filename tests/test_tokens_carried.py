"""A token in a packet: in IPv6 options, at the beginning of a payload; wherever a capture cuts."""

from __future__ import annotations

import pytest
from hellos import TOKEN as EXTENSION
from packets import CASES, Case
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tollsplit.cext.token import FIGURES, MAGIC, REFUSAL_NAMES, find
from tollsplit.tokens import carrier
from tollsplit.tokens.token import TOKEN_OCTETS
from tollsplit.tokens.verdict import Refusal

ETHERNET = 1
TOKEN = bytes(range(1, 37))
OTHER = bytes(range(101, 137))


def look(packet: Packet | bytes, captured: int | None = None, at: str = "inner") -> bytes | None:
    octets = bytes(packet)
    return find((octets[:captured], 0, len(octets), ETHERNET, 0, 0), at)


def option(held: bytes, kind: int = carrier.OPTION_TYPE) -> HBHOptUnknown:
    return HBHOptUnknown(otype=kind, optlen=len(held), optdata=held)


CARRIED = carrier.MAGIC + TOKEN
V6 = Ether() / IPv6()
# description, packet, the token that is found in it
PLACES = [
    ("udp payload", Ether() / IP() / UDP() / Raw(CARRIED), TOKEN),
    ("udp payload goes on", Ether() / IP() / UDP() / Raw(CARRIED + b"GET"), TOKEN),
    ("tcp payload", Ether() / IP() / TCP(options=[("NOP", None)]) / Raw(CARRIED + b"x"), TOKEN),
    ("tcp payload over ipv6", V6 / TCP() / Raw(CARRIED), TOKEN),
    ("no magic", Ether() / IP() / UDP() / Raw(TOKEN), None),
    ("other magic", Ether() / IP() / UDP() / Raw(b"\xf1toj" + TOKEN), None),
    ("later in the payload", Ether() / IP() / UDP() / Raw(b"x" + CARRIED), None),
    ("one octet is missing", Ether() / IP() / UDP() / Raw(CARRIED[:-1]), None),
    ("no transport that has payload", Ether() / IP(proto=47) / Raw(CARRIED), None),
    ("padding of the frame is no payload",
     bytes(Ether() / IP() / UDP(sport=1, dport=2)) + CARRIED, None),
    ("option", V6 / IPv6ExtHdrDestOpt(options=[option(CARRIED)]) / UDP(), TOKEN),
    ("option before tcp", V6 / IPv6ExtHdrDestOpt(options=[option(CARRIED)]) / TCP(), TOKEN),
    ("option without transport", V6 / IPv6ExtHdrDestOpt(options=[option(CARRIED)], nh=59), TOKEN),
    ("behind others", V6 / IPv6ExtHdrDestOpt(options=[
        PadN(optdata=b"\0\0"), option(b"\x1e" * 5, 0x3E), option(b"other"), option(CARRIED),
    ]) / UDP(), TOKEN),
    ("before another token", V6 / IPv6ExtHdrDestOpt(options=[
        option(CARRIED), option(carrier.MAGIC + OTHER)]) / UDP(), TOKEN),
    ("options come before the payload", V6 / IPv6ExtHdrDestOpt(options=[option(CARRIED)])
     / UDP() / Raw(carrier.MAGIC + OTHER), TOKEN),
    ("payload behind options without one", V6 / IPv6ExtHdrDestOpt(options=[option(b"x")])
     / UDP() / Raw(CARRIED), TOKEN),
    ("of another type", V6 / IPv6ExtHdrDestOpt(options=[option(CARRIED, 0x3E)]) / UDP(), None),
    ("without magic", V6 / IPv6ExtHdrDestOpt(options=[option(TOKEN)]) / UDP(), None),
    ("longer", V6 / IPv6ExtHdrDestOpt(options=[option(CARRIED + b"x")]) / UDP(), None),
    ("hop-by-hop", V6 / IPv6ExtHdrHopByHop(options=[option(CARRIED)]) / UDP(), None),
    ("the last header counts", V6 / IPv6ExtHdrDestOpt(options=[option(carrier.MAGIC + OTHER)])
     / IPv6ExtHdrDestOpt(options=[option(CARRIED)]) / UDP(), TOKEN),
    ("in a tunnel", Ether() / IP() / UDP(sport=9, dport=4789) / VXLAN(vni=1) / V6
     / IPv6ExtHdrDestOpt(options=[option(CARRIED)]) / UDP(), TOKEN),
]  # fmt: skip


@pytest.mark.parametrize("packet, expected", [place[1:] for place in PLACES],
                         ids=[place[0] for place in PLACES])  # fmt: skip
def test_tokens_are_found_where_they_stand(packet: Packet, expected: bytes | None) -> None:
    assert look(packet) == expected


@pytest.mark.parametrize("packet", [place[1] for place in PLACES],
                         ids=[place[0] for place in PLACES])  # fmt: skip
def test_tokens_are_found_whole_or_not_at_all(packet: Packet) -> None:
    whole = bytes(packet)
    for captured in range(len(whole) + 1):
        assert look(whole, captured) in (None, TOKEN, OTHER)
    if look(whole) == TOKEN and whole.count(carrier.MAGIC) == 1:
        end = whole.index(TOKEN) + len(TOKEN)
        assert look(whole, end - 1) is None


def test_tokens_option_as_it_is_minted_is_found() -> None:
    """What `token mint --form option` prints, with the kernel's next header."""
    header = b"\x11" + carrier.option(TOKEN)[1:]
    packet = Ether() / IPv6(nh=60) / Raw(header + bytes(UDP(sport=1, dport=2, len=8)))
    assert look(packet) == TOKEN


def test_tokens_options_whose_lengths_are_nonsense_hold_none() -> None:
    header = bytearray(b"\x3b" + carrier.option(TOKEN)[1:])
    for place in range(2, len(header)):
        for value in (0, 1, 2, 0x1E, 0x28, 0x29, 0x7F, 0xFF):
            changed = header[:]
            changed[place] = value
            found = look(Ether() / IPv6(nh=60) / Raw(bytes(changed)))
            assert found is None or carrier.MAGIC + found in bytes(changed)


@pytest.mark.parametrize("case", CASES, ids=[c.description for c in CASES])
def test_tokens_are_in_no_other_packet(case: Case) -> None:
    for captured in range(len(case.octets) + 1):
        for at in ("inner", "outer"):
            frame = (case.octets[:captured], 0, case.original, case.link_type, 0, 0)
            assert find(frame, at) is None


def test_tokens_core_and_program_mean_the_same() -> None:
    assert (MAGIC, FIGURES) == (
        carrier.MAGIC, {"TOKEN_OCTETS": TOKEN_OCTETS, "OPTION_TYPE": carrier.OPTION_TYPE})
    assert EXTENSION == carrier.EXTENSION_TYPE
    assert tuple(refusal.word for refusal in sorted(Refusal)) == REFUSAL_NAMES
    assert min(Refusal) == 1
