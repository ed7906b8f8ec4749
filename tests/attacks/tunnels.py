"""Packets inside packets: what subscribers write inside, and what passes for signalling."""

from __future__ import annotations

import struct

from strategies import ethernet, ipv4, udp

from .attack import ALICE, BOB, ELSEWHERE, OWN_TUNNELS, POOL, SHOP, SHOPS, Attack, sponsored
from .wire import UDP, datagram, gtpu, sent

WHOLE = sponsored(SHOPS)
TEID = f'{POOL}\nkey = "gtp_teid"'
BELIEVED = ""  # every tunnel is looked into
WARNED = 'without "tunnel_endpoints"'
HERS = (ALICE, ELSEWHERE)  # a tunnel to a friend
CORE = ("192.0.2.1", "192.0.2.2")  # the network's own: it believes those


def vxlan(kind: int, content: bytes) -> bytes:
    """An Ethernet frame in a VXLAN tunnel of Alice's: 50 octets in front of what it holds."""
    return ipv4(UDP, udp(9, 4789, struct.pack(">II", 8 << 24, 0) + ethernet(kind, content)), *HERS)


ATTACKS = (
    Attack(
        "tunnel-forged-inside", rules=WHOLE,  # a letter to the shop, in an envelope to a friend
        packets=sent(ipv4(4, datagram(ALICE, SHOP, 1000), *HERS),
                     gtpu(datagram(BOB, ELSEWHERE, 1000), 7, ends=HERS)),
        pays={ALICE: 1020 + 1036}),
    Attack(
        "tunnel-forged-inside-believed", rules=WHOLE, meter=BELIEVED, warns=WARNED,
        packets=sent(ipv4(4, datagram(ALICE, SHOP, 1000), *HERS),
                     gtpu(datagram(BOB, ELSEWHERE, 1000), 7, ends=HERS)),
        pays={"shop": 1000, BOB: 1000}, counted={"tunnel_overhead": 20 + 36},
        owed={ALICE: 1020 + 1036}),
    Attack(
        "tunnel-signalling", rules=WHOLE,
        packets=sent(gtpu(bytes(1000), 0, kind=1, ends=HERS)), pays={ALICE: 1036}),
    Attack(
        "tunnel-signalling-believed", rules=WHOLE, meter=BELIEVED, warns=WARNED,
        packets=sent(gtpu(bytes(1000), 0, kind=1, ends=HERS)),
        pays={}, counted={"control": 1036}, owed={ALICE: 1036}),
    Attack(
        "tunnel-without-ip", rules=WHOLE,
        packets=sent(vxlan(0x88B5, bytes(1000))), pays={ALICE: 1050}),
    Attack(
        "tunnel-without-ip-believed", rules=WHOLE, meter=BELIEVED,  # no packet inside: it is hers
        packets=sent(vxlan(0x88B5, bytes(1000))), pays={ALICE: 1050}, warns=WARNED),
    Attack(
        "tunnel-short-inside-believed", rules=WHOLE, meter=BELIEVED, warns=WARNED,
        # the packet inside says 28 octets; what stands behind it is on no bill
        packets=sent(ipv4(4, datagram(ALICE, ELSEWHERE, 28) + bytes(1000), *HERS)),
        pays={ALICE: 28}, counted={"tunnel_overhead": 1020}, owed={ALICE: 1048}),
    Attack(
        "tunnel-short-inside-the-networks", rules=WHOLE, meter=OWN_TUNNELS,
        # what stands behind Alice's packet goes no further than the tunnel
        packets=sent(gtpu(datagram(ALICE, ELSEWHERE, 28) + bytes(1000), 7)),
        pays={ALICE: 28}, counted={"tunnel_overhead": 1036}),
    Attack(
        "tunnel-in-the-networks", rules=WHOLE, pool=TEID,  # her own, inside the network's
        packets=sent(gtpu(ipv4(4, datagram(BOB, SHOP, 1000), *HERS), 7)),
        pays={"teid:0x00000007": 1020}, counted={"tunnel_overhead": 36}),
    Attack(
        "tunnel-in-the-networks-forged-ends", rules=WHOLE, pool=TEID,
        # inside her tunnel she writes one between the network's own addresses
        packets=sent(gtpu(gtpu(datagram(BOB, SHOP, 1000), 8, ends=CORE), 7)),
        pays={"shop": 1000}, counted={"tunnel_overhead": 72}, owed={"teid:0x00000007": 1036}),
)
