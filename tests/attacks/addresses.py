"""Whose address a packet bears: spoofed ones, unasked-for ones, and many of one subscriber's."""

from __future__ import annotations

from .attack import (
    ALICE,
    ALICE6,
    BOB,
    ELSEWHERE,
    KEY6,
    POOL,
    SHOP,
    SHOP6,
    SHOPS,
    Attack,
    sponsored,
)
from .wire import SYN, at, datagram, echo, gtpu, segment, sent

WHOLE = sponsored(SHOPS)
PEERING = sponsored(f'{SHOPS}, ingress = "core"')
TEID = f'{POOL}\nkey = "gtp_teid"'
MAC = '[[pools]]\nprefixes = ["10.0.0.0/8"]\nkey = "mac"'
QUOTA = sponsored(SHOPS, '{ sponsor = "shop", quota = 1000, per = "day" }')
ANOTHER, ANOTHER6 = "10.0.0.9", "2001:db8:0:7:ffff::2"  # other addresses of Alice's

ATTACKS = (
    Attack(
        "sponsor-spoofed", rules=WHOLE,  # sent by somebody in the Internet, not by the shop
        packets=sent(datagram(SHOP, ALICE, 1400, (443, 1000))),
        pays={"shop": 1400}, owed={ALICE: 1400}),
    Attack(
        "sponsor-spoofed-elsewhere", rules=PEERING,  # not through the sponsor's own line
        packets=[at(datagram(SHOP, ALICE, 1400, (443, 1000)), ingress=1),
                 at(datagram(SHOP, ALICE, 300, (443, 1000)), 0.1, ingress=2)],
        pays={"shop": 300, ALICE: 1400}),
    Attack(
        "sponsor-flooded", rules=QUOTA,  # SYNs and junk that no server has asked for
        packets=sent(*[segment(ALICE, SHOP, flags=SYN, sequence=n) for n in range(20)],
                     datagram(ALICE, SHOP, 1400)),
        pays={"shop": 1000, ALICE: 20 * 40 + 1400 - 1000}, owed={ALICE: 2200}),
    Attack(
        "subscriber-spoofed", rules=WHOLE,  # by Alice: the address says Bob, and Bob pays
        packets=sent(datagram(BOB, ELSEWHERE, 1000)),
        pays={BOB: 1000}, owed={ALICE: 1000}),
    Attack(
        "subscriber-spoofed-in-tunnel", rules=WHOLE, pool=TEID,  # the network numbers its tunnels
        packets=sent(gtpu(datagram(ALICE, ELSEWHERE, 500), 7),
                     gtpu(datagram(BOB, ELSEWHERE, 1000), 7)),
        pays={"teid:0x00000007": 1500}, counted={"tunnel_overhead": 72}),
    Attack(
        "mac-spoofed", rules=WHOLE, pool=MAC,  # by Alice: Bob's card number
        packets=[at(datagram(ALICE, ELSEWHERE, 1000), mac=b"\x02\0\0\0\0\x08")],
        pays={"mac:02:00:00:00:00:08": 1000}, owed={"mac:02:00:00:00:00:07": 1000}),
    Attack(
        "subscriber-of-nobody", rules=WHOLE,  # no pool has the source: nobody pays the uplink
        packets=sent(datagram("172.16.0.1", ELSEWHERE, 1000)),
        pays={}, counted={"unattributed": 1000}, owed={ALICE: 1000}),
    Attack(
        "subscriber-to-subscriber", rules=WHOLE,  # Alice's packets are on Bob's bill, too
        packets=sent(datagram(ALICE, BOB, 1000)),
        pays={ALICE: 1000, BOB: 1000}, counted={"metered_twice": 1000}, owed={ALICE: 1000}),
    Attack(
        "icmp-tunnel", rules=sponsored(f"{SHOPS}, port = 443"),
        packets=sent(echo(ALICE, SHOP, 1400), echo(ALICE6, SHOP6, 1400), datagram(ALICE, SHOP, 60)),
        pays={"shop": 60, ALICE: 1400, KEY6: 1400}),
    Attack(
        "icmp-tunnel-to-address", rules=QUOTA,  # no port is asked for
        packets=sent(echo(ALICE, SHOP, 900), echo(ALICE, SHOP, 900)),
        pays={"shop": 1000, ALICE: 800}, owed={ALICE: 1800}),
    Attack(
        "icmp-quote", rules=WHOLE,  # what an error quotes is payload, and names nobody
        packets=sent(echo(ALICE, ELSEWHERE, 28) + datagram(ALICE, SHOP, 1000)),
        pays={ALICE: 28}),
    Attack(
        "address-hopping", rules=QUOTA,  # a new address is a new subscriber
        packets=sent(datagram(ALICE, SHOP, 1500), datagram(ANOTHER, SHOP, 1500)),
        pays={"shop": 2000, ALICE: 500, ANOTHER: 500},
        owed={"shop": 1000, ALICE: 500, ANOTHER: 1500}),
    Attack(
        "address-hopping-ipv6", rules=QUOTA,  # a /64 is one subscriber
        packets=sent(datagram(ALICE6, SHOP6, 1500), datagram(ANOTHER6, SHOP6, 1500)),
        pays={"shop": 1000, KEY6: 2000}),
)
