"""Answers of resolvers that are forged, unasked for, or say more than they were asked."""

from __future__ import annotations

import dns.message
import dns.rrset
from strategies import udp

from .attack import ALICE, BOB, ELSEWHERE, OWN_TUNNELS, SHOP, Attack, sponsored
from .wire import UDP, datagram, ip, sent

RESOLVER, ANOTHER = "192.0.2.53", "198.51.100.53"  # the operator's, and a friend's
GIVEN = sponsored('dns = ["shop.example"]')
TRUSTED = f'resolvers = ["{RESOLVER}/32", "{BOB}/32"]\n{OWN_TUNNELS}'
SHOPS, FREE = "shop.example", "free.example"
DAY_S = 86_400
VISIT = 1500
Record = tuple[str, str, str]  # a name, the kind of record, its value


def asked(name: str = SHOPS, *, who: str = ALICE, resolver: str = RESOLVER, port: int = 5000,
          number: int = 7) -> bytes:
    query = dns.message.make_query(f"{name}.", "A", id=number)
    return ip(UDP, udp(port, 53, query.to_wire()), who, resolver)


def answered(*records: Record, name: str = SHOPS, who: str = ALICE, resolver: str = RESOLVER,
             port: int = 5000, number: int = 7, ttl_s: int = 60) -> bytes:
    """An answer; without records it gives the friend's address for the shop's name."""
    response = dns.message.make_response(dns.message.make_query(f"{name}.", "A", id=number))
    for owner, kind, value in records or ((SHOPS, "A", ELSEWHERE),):
        response.answer.append(dns.rrset.from_text(f"{owner}.", ttl_s, "IN", kind, value))
    return ip(UDP, udp(53, port, response.to_wire()), resolver, who)


def visit(server: str, client: int = 1000) -> list[bytes]:
    """1,000 octets up, and 500 down."""
    return [datagram(ALICE, server, 1000, (client, 443)),
            datagram(server, ALICE, 500, (443, client))]


TO_SHOP = answered((SHOPS, "A", SHOP))
FOR_EVER = answered((SHOPS, "A", SHOP), ttl_s=2**31 - 1)
ALIASED = answered((SHOPS, "CNAME", "cdn.free.example."), ("cdn.free.example", "A", ELSEWHERE))
OF_BOB = [asked(resolver=BOB), answered(resolver=BOB)]
UNBELIEVED = {
    "of-an-untrusted-resolver": [asked(resolver=ANOTHER), answered(resolver=ANOTHER)],
    "of-another-resolver": [asked(), answered(resolver=ANOTHER)],
    "unasked": [answered()],
    "before-its-question": [answered(), asked()],
    "with-another-number": [asked(), answered(number=8)],
    "to-another-port": [asked(), answered(port=5001)],
    "to-another-question": [asked(FREE), answered()],
    "sent-by-herself": [asked(), ip(UDP, answered()[20:], ALICE, RESOLVER)],
    "for-an-alias-of-the-shops": [asked(FREE), answered(
        (FREE, "CNAME", "shop.example."), (SHOPS, "A", ELSEWHERE), name=FREE)],
    "with-more-than-was-asked": [asked(FREE), answered(
        (FREE, "A", "198.51.100.1"), (SHOPS, "A", ELSEWHERE), name=FREE)],
    "with-another-owner": [asked(), answered(("a.shop.example", "A", ELSEWHERE))],
}


def heard(name: str, packets: list[bytes], *, server: str, pays: dict[str, int],
          owed: dict[str, int] | None = None) -> Attack:
    """A visit after these were heard, which themselves are on whose bill they are."""
    own = {ALICE: sum(map(len, packets))}
    return Attack(
        f"dns-{name}", rules=GIVEN, meter=TRUSTED, packets=sent(*packets, *visit(server)),
        pays=added(own, pays), owed=None if owed is None else added(own, owed))


def added(*bills: dict[str, int]) -> dict[str, int]:
    return {who: sum(bill.get(who, 0) for bill in bills)
            for who in dict.fromkeys(key for bill in bills for key in bill)}


ATTACKS = (
    heard("honest", [asked(), TO_SHOP], server=SHOP, pays={"shop": VISIT}),
    heard("alias", [asked(), ALIASED], server=ELSEWHERE, pays={"shop": VISIT}),  # the shop's word
    *(heard(f"answer-{how}", packets, server=ELSEWHERE, pays={ALICE: VISIT})
      for how, packets in UNBELIEVED.items()),
    Attack(
        "dns-answer-of-a-subscriber", rules=GIVEN, meter=TRUSTED,  # Bob's end is on his bill
        packets=sent(*OF_BOB, *visit(ELSEWHERE)),
        pays={ALICE: VISIT + sum(map(len, OF_BOB)), BOB: sum(map(len, OF_BOB))},
        counted={"metered_twice": sum(map(len, OF_BOB))}),
    Attack(
        "dns-answer-for-ever", rules=GIVEN, meter=TRUSTED,  # a day is all that is believed
        packets=[*sent(asked(), FOR_EVER, *visit(SHOP)),
                 *sent(*visit(SHOP, 1001), start_s=DAY_S - 1),
                 *sent(*visit(SHOP, 1002), start_s=DAY_S + 1)],
        pays={"shop": 2 * VISIT, ALICE: VISIT + len(asked()) + len(FOR_EVER)}),
    heard("of-a-delivery-network", [asked(), TO_SHOP], server=SHOP,  # others are served there too
          pays={"shop": VISIT}, owed={ALICE: VISIT}),
    heard("resolver-deceived", [asked(), answered()], server=ELSEWHERE,  # or its address forged
          pays={"shop": VISIT}, owed={ALICE: VISIT}),
)
