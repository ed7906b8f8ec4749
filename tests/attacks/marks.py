"""What subscribers can write into headers: DSCP, flow labels, ports, tunnels' tags."""

from __future__ import annotations

import struct

from strategies import ipv4

from .attack import (
    ALICE,
    ALICE6,
    BOB,
    ELSEWHERE,
    ELSEWHERE6,
    KEY6,
    SHOP,
    SHOP6,
    SHOPS,
    Attack,
    Refusal,
    sponsored,
)
from .wire import at, datagram, segment, sent

TAGGED = sponsored(f"{SHOPS}, dscp = [46]")
STICKY = sponsored(f'{SHOPS}, dscp = [46], direction = "uplink", sticky = true')
AT_THE_CORE = sponsored('dscp = [46], ingress = "core"')


def keyed(packet: bytes, key: int) -> bytes:
    """A packet in a GRE tunnel between Alice and her friends: 28 octets in front."""
    return ipv4(47, struct.pack(">HHI", 0x2000, 0x0800, key) + packet, ALICE, ELSEWHERE)


ATTACKS = (
    Attack(
        "dscp-forged", rules=TAGGED,
        packets=sent(datagram(ALICE, SHOP, 100, dscp=46), datagram(ALICE, ELSEWHERE, 1000, dscp=46),
                     datagram(ELSEWHERE, ALICE, 1400, (443, 1000), dscp=46)),
        pays={"shop": 100, ALICE: 2400}, counted={"mismatch": 2400}),
    Attack(
        "dscp-forged-sticky", rules=STICKY,  # one mark would cover its whole flow
        packets=sent(datagram(ALICE, ELSEWHERE, 100, dscp=46),
                     datagram(ELSEWHERE, ALICE, 1400, (443, 1000)),
                     datagram(ALICE, SHOP, 100, (1000, 80)),  # a flow of its own, without a mark
                     datagram(ALICE, SHOP, 100, dscp=46), datagram(SHOP, ALICE, 300, (443, 1000))),
        pays={"shop": 100 + 300, ALICE: 100 + 1400 + 100}, counted={"mismatch": 100}),
    Attack(
        "dscp-forged-edge", rules=AT_THE_CORE,
        packets=[at(datagram(ALICE, ELSEWHERE, 1000, dscp=46), ingress=1),
                 at(datagram(ELSEWHERE, ALICE, 500, (443, 1000), dscp=46), 0.1, ingress=2)],
        pays={"shop": 500, ALICE: 1000}),
    Attack(
        "dscp-forged-to-sponsor", rules=TAGGED,  # Alice's own program marks what it likes
        packets=sent(datagram(ALICE, SHOP, 1000, dscp=46), datagram(ALICE, SHOP, 500)),
        pays={"shop": 1000, ALICE: 500}, owed={ALICE: 1500}),
    Attack(
        "flow-label-forged", rules=sponsored(f"{SHOPS}, flow_label = [0x12345]"),
        packets=sent(datagram(ALICE6, SHOP6, 100, flow_label=0x12345),
                     datagram(ALICE6, ELSEWHERE6, 1000, flow_label=0x12345)),
        pays={"shop": 100, KEY6: 1000}, counted={"mismatch": 1000}),
    Attack(
        "port-of-her-own", rules=sponsored(f"{SHOPS}, port = 443"),  # only the server's counts
        packets=sent(datagram(ALICE, SHOP, 1000, (443, 22)), datagram(SHOP, ALICE, 900, (22, 443)),
                     datagram(ALICE, SHOP, 100)),
        pays={"shop": 100, ALICE: 1900}),
    Attack(
        "port-53-anywhere", rules=sponsored('port = 53, protocol = "udp"'),
        packets=sent(datagram(ALICE, ELSEWHERE, 1000, (1000, 53)),
                     datagram(ELSEWHERE, ALICE, 1400, (53, 1000))),
        pays={"shop": 2400}, owed={ALICE: 2400}, warns="whoever listens there"),
    Attack(
        "port-53-named", rules=sponsored('server = ["203.0.113.53"], port = 53'),
        packets=sent(datagram(ALICE, ELSEWHERE, 1000, (1000, 53)),
                     datagram(ELSEWHERE, ALICE, 1400, (53, 1000)),
                     datagram(ALICE, "203.0.113.53", 60, (1000, 53))),
        pays={"shop": 60, ALICE: 2400}),
    Attack(
        "dns-tunnel-to-resolver",  # names of 200 octets, and answers of a thousand
        rules=sponsored('server = ["203.0.113.53"], port = 53',
                        '{ sponsor = "shop", quota = 1500, per = "day" }'),
        packets=sent(datagram(ALICE, "203.0.113.53", 228, (1000, 53)),
                     datagram("203.0.113.53", ALICE, 1028, (53, 1000)),
                     datagram(ALICE, "203.0.113.53", 228, (1000, 53)),
                     datagram("203.0.113.53", ALICE, 1028, (53, 1000))),
        pays={"shop": 1500, ALICE: 1012}, owed={ALICE: 2512}),
    Attack(
        "port-443-of-sponsor", rules=sponsored(f"{SHOPS}, port = 443"),  # any protocol behind it
        packets=sent(segment(ALICE, SHOP, b"SSH-2.0-OpenSSH_9.6\r\n")),
        pays={"shop": 61}, owed={ALICE: 61}),
    Attack(
        "tunnel-tag-forged", rules=sponsored("gre_key = 7"),
        packets=sent(keyed(datagram(ALICE, ELSEWHERE, 1000), 7)),
        pays={ALICE: 1028}),
    Attack(
        "tunnel-tag-forged-believed", meter="", rules=sponsored("gre_key = 7"),
        packets=sent(keyed(datagram(ALICE, ELSEWHERE, 1000), 7)),
        pays={"shop": 1000}, counted={"tunnel_overhead": 28}, owed={ALICE: 1028},
        warns='without "tunnel_endpoints"'),
    Attack(
        "vlan-forged-inside", rules=sponsored(SHOPS),  # the switch writes the outermost tag
        pool='[[pools]]\nprefixes = ["10.0.0.0/8"]\nkey = "vlan"',
        packets=[at(datagram(BOB, ELSEWHERE, 100), vlan=(8,)),
                 at(datagram(ALICE, ELSEWHERE, 1000), 0.1, vlan=(7, 8))],
        pays={"vlan:8": 100, "vlan:7.8": 1000}, owed={"vlan:8": 100, "vlan:7": 1000}),
)

REFUSALS = (
    Refusal("dscp-alone", sponsored("dscp = [46]"), "users can write dscp themselves"),
    Refusal("dscp-to-everybody", sponsored('dscp = [46], server = ["0.0.0.0/0", "::/0"]'),
            "users can write dscp themselves"),
    Refusal("flow-label-alone", sponsored("flow_label = [7]"),
            "users can write flow_label themselves"),
    Refusal("dscp-in-an-expression", sponsored('where = "dscp == 46"'),
            "users can write dscp themselves"),
)
