"""Fragments: of which only the first has ports."""

from __future__ import annotations

from fragments import fragment
from strategies import udp

from .attack import ALICE, ALICE6, KEY6, SHOP, SHOP6, SHOPS, Attack, sponsored
from .wire import TCP, at, segment, sent, ttl

WEB = sponsored(f"{SHOPS}, port = 443")
DATAGRAM = udp(1000, 443, bytes(192))  # 200 octets
SECRET = udp(1000, 22, bytes(192))
# A TCP header alone has 20 octets, so a first fragment of 16 lacks its flags (RFC 1858).
TINY = segment(ALICE, SHOP, bytes(80), ports=(1000, 443))[20:]


def part(content: bytes, first: int, end: int, number: int = 1, *, protocol: int = 17,
         ends: tuple[str, str] = (ALICE, SHOP)) -> bytes:
    """A fragment: its header of 20 octets, 48 with IPv6, and a stretch of the datagram."""
    return fragment(*ends, number, first, content[first:end], end != len(content),
                    protocol=protocol)


ATTACKS = (
    Attack(
        "fragments-first-late", rules=WEB,  # not even a second later is too late
        packets=sent(part(DATAGRAM, 104, 200), part(DATAGRAM, 0, 104)),
        pays={"shop": 116 + 124}),
    Attack(
        "fragments-without-first", rules=WEB,  # what never shows a port is Alice's
        packets=sent(part(SECRET, 104, 200, 1), part(SECRET, 104, 200, 2)),
        pays={ALICE: 232}),
    Attack(
        "fragments-tiny-first", rules=WEB,
        packets=sent(part(TINY, 0, 8, protocol=TCP), part(TINY, 8, 100, protocol=TCP)),
        pays={ALICE: 28 + 112}),
    Attack(
        "fragments-overlapping", rules=WEB,  # the first first one dies before it reaches the server
        packets=sent(ttl(part(DATAGRAM, 0, 104), 2), part(SECRET, 0, 104), part(SECRET, 104, 200)),
        pays={"shop": 124, ALICE: 124 + 116}, counted={"overlapping": 124}),
    Attack(
        "fragments-overlapping-honest-second", rules=WEB,
        packets=sent(part(SECRET, 0, 104), part(DATAGRAM, 0, 104), part(DATAGRAM, 104, 200)),
        pays={ALICE: 124 + 124 + 116}, counted={"overlapping": 124}),
    Attack(
        "fragments-of-another-number", rules=WEB,  # number 2 never had a first one
        packets=sent(part(DATAGRAM, 0, 104, 1), part(SECRET, 104, 200, 2),
                     part(DATAGRAM, 104, 200, 1)),
        pays={"shop": 124 + 116, ALICE: 116}),
    Attack(
        "fragments-of-a-number-used-again", rules=WEB,  # 31 s later the number is another's
        packets=[at(part(DATAGRAM, 0, 104)), at(part(SECRET, 104, 200), 31)],
        pays={"shop": 124, ALICE: 116}),
    Attack(
        "fragments-beyond-the-end", rules=WEB,  # each is charged its own length, none twice
        packets=sent(part(DATAGRAM, 0, 104), part(DATAGRAM, 104, 200),
                     part(DATAGRAM + bytes(104), 200, 304)),
        pays={"shop": 124 + 116 + 124}),
    Attack(
        "fragments-without-first-ipv6", rules=WEB,
        packets=sent(part(SECRET, 104, 200, ends=(ALICE6, SHOP6))),
        pays={KEY6: 48 + 96}),
)
