"""The same again: retransmissions that are none, or needless, and copies of a mirror's."""

from __future__ import annotations

from .attack import ALICE, ELSEWHERE, OWN_TUNNELS, SHOP, SHOPS, Attack, sponsored
from .wire import at, datagram, segment, sent

WHOLE = sponsored(SHOPS)
DOWN = (443, 1000)  # ports of what a server sends
LETTER = b"a letter to a friend".ljust(100, b".")
ANOTHER = b"and what she answers".ljust(100, b".")

ATTACKS = (
    Attack(
        "retransmission-tunnel", rules=WHOLE,  # the same place in the stream, other content
        packets=sent(*[segment(ALICE, ELSEWHERE, text, sequence=1) for text in (
            LETTER, ANOTHER, LETTER[::-1], ANOTHER[::-1])]),
        pays={ALICE: 4 * 140}),
    Attack(
        "retransmission-inflation", rules=WHOLE,  # sent five times, for nothing
        packets=sent(*[segment(ELSEWHERE, ALICE, LETTER, ports=DOWN)] * 5),
        pays={ALICE: 5 * 140}, owed={ALICE: 140}),
    Attack(
        "keep-alive-with-data", rules=WHOLE,  # a keep-alive's octet may be any (RFC 1122)
        packets=sent(segment(ALICE, ELSEWHERE, LETTER, sequence=1),
                     *[segment(ALICE, ELSEWHERE, bytes([n]), sequence=100) for n in range(10)]),
        pays={ALICE: 140 + 10 * 41}),
    Attack(
        "zero-window-with-data", rules=WHOLE,  # probes of a window that never opens
        packets=sent(segment(ELSEWHERE, ALICE, ports=DOWN, window=0),
                     *[segment(ALICE, ELSEWHERE, bytes([n]), sequence=1) for n in range(10)]),
        pays={ALICE: 40 + 10 * 41}),
    Attack(
        "mirror-copies", rules=WHOLE, meter=OWN_TUNNELS,  # a switch shows each packet twice
        packets=[at(datagram(ALICE, SHOP, 100), n / 10_000) for n in range(2)],
        pays={"shop": 200}, owed={"shop": 100}),
)
