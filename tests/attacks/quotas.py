"""The edges of what a sponsor agreed to: shares, quotas, budgets, and their periods."""

from __future__ import annotations

from .attack import ALICE, BOB, REST, SHOP, SHOPS, Attack, sponsored
from .wire import at, datagram, sent

DAY_S = 86_400
DAILY = 'window = "1d"\ntunnel_endpoints = []'
QUOTA = sponsored(SHOPS, '{ sponsor = "shop", quota = 1000, per = "day" }')
HALF = sponsored(SHOPS, '{ sponsor = "shop", share = "50%", per = "day" }')
BUDGET = REST.replace("[sponsors.shop]\n", '[sponsors.shop]\nbudget = 1000\nper = "day"\n')

ATTACKS = (
    Attack(
        "quota-crossed", rules=QUOTA, meter=DAILY,  # it cuts inside the packet that crosses it
        packets=sent(datagram(ALICE, SHOP, 999), datagram(ALICE, SHOP, 1500),
                     datagram(ALICE, SHOP, 28)),
        pays={"shop": 1000, ALICE: 999 + 1500 + 28 - 1000}),
    Attack(
        "quota-met-exactly", rules=QUOTA, meter=DAILY,
        packets=sent(datagram(ALICE, SHOP, 1000), datagram(ALICE, SHOP, 28)),
        pays={"shop": 1000, ALICE: 28}),
    Attack(
        "quota-at-midnight", rules=QUOTA, meter=DAILY,
        # a nanosecond before midnight is today, midnight itself is tomorrow
        packets=[at(datagram(ALICE, SHOP, 1500)),
                 at(datagram(ALICE, SHOP, 1500), DAY_S)._replace(
                     timestamp_ns=at(b"\x45" + bytes(19), DAY_S).timestamp_ns - 1),
                 at(datagram(ALICE, SHOP, 1500), DAY_S)],
        pays={"shop": 2000, ALICE: 2500}),
    Attack(
        "quota-after-the-clock-stepped-back", rules=QUOTA, meter=DAILY,
        # yesterday's quota is spent, whenever its packets come
        packets=[at(datagram(ALICE, SHOP, 1500)), at(datagram(ALICE, SHOP, 500), DAY_S),
                 at(datagram(ALICE, SHOP, 1500), 60)],
        pays={"shop": 1000 + 500, ALICE: 2000}),
    Attack(
        "share-by-small-packets", rules=HALF, meter=DAILY,  # ⌊T/2⌋ of the total, not of each
        packets=sent(*[datagram(ALICE, SHOP, 29) for _ in range(7)]),
        pays={"shop": 101, ALICE: 102}),  # T = 203
    Attack(
        "share-by-windows", rules=HALF, meter='window = "1m"\ntunnel_endpoints = []',
        # seven windows of one day: its total goes on over them
        packets=[at(datagram(ALICE, SHOP, 29), 60 * n) for n in range(7)],
        pays={"shop": 101, ALICE: 102}),
    Attack(
        "budget-met-exactly", rules=sponsored(SHOPS), meter=DAILY, sponsors=BUDGET,
        packets=sent(datagram(ALICE, SHOP, 600), datagram(BOB, SHOP, 400)),
        pays={"shop": 1000}),
    Attack(
        "budget-raced-for", rules=sponsored(SHOPS), meter=DAILY, sponsors=BUDGET,
        # inside a window it is divided by use: 1500 and 500 ask for it, Bob has a quarter
        packets=sent(datagram(ALICE, SHOP, 1500), datagram(BOB, SHOP, 500)),
        pays={"shop": 1000, ALICE: 750, BOB: 250}),
    Attack(
        "budget-of-tomorrow", rules=sponsored(SHOPS), meter=DAILY, sponsors=BUDGET,
        packets=[at(datagram(ALICE, SHOP, 1400)), at(datagram(ALICE, SHOP, 1400), DAY_S)],
        pays={"shop": 2000, ALICE: 800}),
)
