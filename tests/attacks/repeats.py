"""The same again: retransmissions that are none, or needless, and copies of a mirror's."""

from __future__ import annotations

from strategies import ipv4, udp

from .attack import ALICE, ELSEWHERE, OWN_TUNNELS, SHOP, SHOPS, Attack, sponsored
from .wire import UDP, at, datagram, segment, sent

WHOLE = sponsored(SHOPS)
EXEMPT = f'retransmissions = "exempt_if_identical"\n{OWN_TUNNELS}'
CHECKED = f'retransmissions = "charge_if_identical"\n{OWN_TUNNELS}'
MIRRORED = f'duplicates = "2ms"\n{OWN_TUNNELS}'
NOTED = f"unsolicited = true\n{OWN_TUNNELS}"
DOWN = (443, 1000)  # ports of what a server sends
LETTER = b"a letter to a friend".ljust(600, b".")
ANOTHER = b"and what she answers".ljust(600, b".")
LAST = 2**32 - 300  # a sequence from which a letter runs over the end of its numbers


def hidden(n: int, payload: bytes = b"ab") -> bytes:
    """A segment with 24 octets in what nobody compares: 52 in all, and its payload."""
    packet = bytearray(segment(ALICE, ELSEWHERE, payload, acknowledgment=n * 99_991, window=n * 991,
                               options=b"\x01\x01\x08\x0a" + n.to_bytes(8, "big")))
    packet[4:6] = n.to_bytes(2, "big")
    return bytes(packet)


def copy(n: int) -> bytes:
    """One of several datagrams without a checksum that differ behind their first 64 octets."""
    content = bytes(72) + n.to_bytes(928, "big")
    return ipv4(UDP, udp(1000, 443, content), ALICE, ELSEWHERE)


ATTACKS = (
    Attack(
        "retransmission-tunnel", rules=WHOLE,  # the same place in the stream, other content
        packets=sent(*[segment(ALICE, ELSEWHERE, text, sequence=1) for text in (
            LETTER, ANOTHER, LETTER[::-1], ANOTHER[::-1])]),
        pays={ALICE: 4 * 640}),
    Attack(
        "retransmission-tunnel-exempt", rules=WHOLE, meter=EXEMPT,
        packets=sent(*[segment(ALICE, ELSEWHERE, text, sequence=1) for text in (
            LETTER, ANOTHER, LETTER[::-1], ANOTHER[::-1])]),
        pays={ALICE: 4 * 640}, counted={"suspicious": 3 * 640}),
    Attack(
        "retransmission-tunnel-sponsored", rules=WHOLE, meter=CHECKED,  # through the shop's server
        packets=sent(segment(ALICE, SHOP, LETTER), segment(ALICE, SHOP, ANOTHER),
                     segment(ALICE, SHOP, LETTER)),
        pays={"shop": 2 * 640, ALICE: 640}, counted={"suspicious": 640}),
    Attack(
        "retransmission-tunnel-wrapped", rules=WHOLE, meter=EXEMPT,
        packets=sent(segment(ALICE, ELSEWHERE, LETTER, sequence=LAST),
                     segment(ALICE, ELSEWHERE, ANOTHER, sequence=LAST),
                     segment(ALICE, ELSEWHERE, LETTER, sequence=LAST)),
        pays={ALICE: 2 * 640}, counted={"suspicious": 640, "retransmitted": 640}),
    Attack(
        "retransmission-tunnel-in-part", rules=WHOLE, meter=EXEMPT,  # half old, half new
        packets=sent(segment(ALICE, ELSEWHERE, LETTER, sequence=1),
                     segment(ALICE, ELSEWHERE, LETTER[300:] + ANOTHER[:300], sequence=301),
                     segment(ALICE, ELSEWHERE, ANOTHER[300:], sequence=301)),
        pays={ALICE: 640 + 640 + 340}),
    Attack(
        "retransmission-hidden-in-headers", rules=WHOLE, meter=EXEMPT,
        packets=sent(*[hidden(n) for n in range(6)]), pays={ALICE: 6 * 54}),
    Attack(
        "retransmission-hidden-in-headers-of-long-ones", rules=WHOLE, meter=EXEMPT,
        packets=sent(*[hidden(n, bytes(512)) for n in range(6)]),
        pays={ALICE: 2 * 564}, counted={"retransmitted": 4 * 564}, owed={ALICE: 6 * 564}),
    Attack(
        "retransmission-inflation-exempt", rules=WHOLE, meter=EXEMPT,  # four times are enough
        packets=sent(*[segment(ELSEWHERE, ALICE, LETTER, ports=DOWN)] * 7),
        pays={ALICE: 3 * 640}, counted={"retransmitted": 4 * 640}, owed={ALICE: 640}),
    Attack(
        "retransmission-poisoned", rules=WHOLE, meter=EXEMPT,  # somebody is faster than the shop
        packets=sent(segment(SHOP, ALICE, ANOTHER, ports=DOWN),
                     segment(SHOP, ALICE, LETTER, ports=DOWN)),
        pays={"shop": 640, ALICE: 640}, counted={"suspicious": 640}, owed={"shop": 1280}),
    Attack(
        "retransmission-inflation", rules=WHOLE,  # sent five times, for nothing
        packets=sent(*[segment(ELSEWHERE, ALICE, LETTER, ports=DOWN)] * 5),
        pays={ALICE: 5 * 640}, owed={ALICE: 640}),
    Attack(
        "keep-alive-with-data", rules=WHOLE,  # a keep-alive's octet may be any (RFC 1122)
        packets=sent(segment(ALICE, ELSEWHERE, LETTER, sequence=1),
                     *[segment(ALICE, ELSEWHERE, bytes([n]), sequence=600) for n in range(10)]),
        pays={ALICE: 640 + 10 * 41}),
    Attack(
        "zero-window-with-data", rules=WHOLE,  # probes of a window that never opens
        packets=sent(segment(ELSEWHERE, ALICE, ports=DOWN, window=0),
                     *[segment(ALICE, ELSEWHERE, bytes([n]), sequence=1) for n in range(10)]),
        pays={ALICE: 40 + 10 * 41}),
    Attack(
        "mirror-copies", rules=WHOLE, meter=OWN_TUNNELS,  # a switch shows each packet twice
        packets=[at(datagram(ALICE, SHOP, 100), n / 10_000) for n in range(2)],
        pays={"shop": 200}, owed={"shop": 100}),
    Attack(
        "mirror-copies-left-out", rules=WHOLE, meter=MIRRORED,
        packets=[at(datagram(ALICE, SHOP, 100), n / 10_000) for n in range(2)],
        pays={"shop": 100}, counted={"duplicate": 100}),
    Attack(
        "mirror-copies-by-the-sender", rules=WHOLE, meter=MIRRORED,  # more than a mirror makes
        packets=[at(datagram(ALICE, ELSEWHERE, 100), n / 10_000) for n in range(8)],
        pays={ALICE: 200}, counted={"duplicate": 600}),
    Attack(
        "mirror-copies-that-differ", rules=WHOLE, meter=MIRRORED,  # behind the snap length
        packets=[frame._replace(octets=frame.octets[:96]) for frame in (
            at(copy(n), n / 10_000) for n in range(4))],
        pays={ALICE: 4 * 1028}),
    Attack(
        "unsolicited-downlink", rules=WHOLE, meter=NOTED,  # Alice has not said anything there
        packets=sent(datagram(ELSEWHERE, ALICE, 1400, DOWN), datagram(ALICE, SHOP, 100),
                     datagram(SHOP, ALICE, 300, DOWN)),
        pays={"shop": 400, ALICE: 1400}, counted={"unsolicited": 1400}, owed={"shop": 400}),
)
