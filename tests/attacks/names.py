"""Names that are claimed: in a TLS ClientHello, for whoever looks, and with whom one speaks."""

from __future__ import annotations

from hellos import ENCRYPTED, Extension, hello, named, names, records
from initials import crypto, initial
from strategies import ipv4, udp

from .attack import ALICE, ELSEWHERE, SHOP, SHOPS, Attack, Refusal, sponsored
from .wire import UDP, Connection, datagram, ip, sent, ttl

# The servers are a delivery network's: the shop's, and others', at the same addresses.
NAMED = sponsored(f'{SHOPS}, sni = ["shop.example"]')
OUTER = sponsored(f'{SHOPS}, sni = ["shop.example"], ech = true')
HANDSHAKE = 3 * 40
ANSWER = bytes(1000)
ALL = 40 + 1000  # of the packet with the answer


def first(*extensions: Extension) -> bytes:
    """A client's first octets: 200, or more than that, in one TLS record."""
    return records(hello(*extensions))


def asked(server: str, octets: bytes) -> list[bytes]:
    """A connection in which these come first, and an answer."""
    connection = Connection(ALICE, server)
    return [*connection.handshake(), connection.up(octets), connection.down(ANSWER)]


SHOPS_HELLO = first(named(b"shop.example"))
OTHERS_HELLO = first(named(b"free.example"))
assert len(SHOPS_HELLO) == len(OTHERS_HELLO)
HELLO = 40 + len(SHOPS_HELLO)
WHOLE = HANDSHAKE + HELLO + ALL
HIDDEN = first(named(b"shop.example"), (ENCRYPTED, bytes(100)))
ALIKE = {  # names that look like the shop's
    "below-another": b"shop.example.free.example", "as-a-tail": b"notshop.example",
    "above": b"example", "of-its-own": b"shop.example.", "in-capitals": b"Shop.EXAMPLE",
}
IS_SHOPS = ("of-its-own", "in-capitals")


def decoy(connection: Connection, lie: bytes, truth: bytes) -> list[bytes]:
    """What dies on its way, and then what the server reads, in the same place of the stream."""
    lied = connection.up(lie)
    connection.sent[0] -= len(lie)
    return [ttl(lied, 2), connection.up(truth)]


def decoyed(lie: bytes, truth: bytes) -> list[bytes]:
    connection = Connection(ALICE, SHOP)
    return [*connection.handshake(), *decoy(connection, lie, truth), connection.down(ANSWER)]


def elsewhere_in_the_stream() -> list[bytes]:
    """The lie lies far behind what the server waits for, which comes next."""
    connection = Connection(ALICE, SHOP)
    packets = connection.handshake()
    connection.sent[0] = 1_000_000
    packets.append(connection.up(SHOPS_HELLO))
    connection.sent[0] = 1
    return [*packets, connection.up(OTHERS_HELLO), connection.down(ANSWER)]


def overlapping() -> list[bytes]:
    """A hello whose name is in two segments, and a lie laid over the second's place before it."""
    connection = Connection(ALICE, SHOP)
    cut = OTHERS_HELLO.index(b"free.example")
    packets = [*connection.handshake(), connection.up(OTHERS_HELLO[:cut])]
    return [*packets, *decoy(connection, SHOPS_HELLO[cut:], OTHERS_HELLO[cut:]),
            connection.down(ANSWER)]


def asked_again() -> list[bytes]:
    """A hello, an answer of 100 octets that asks for another one, and that."""
    connection = Connection(ALICE, SHOP)
    return [*connection.handshake(), connection.up(SHOPS_HELLO), connection.down(bytes(100)),
            connection.up(OTHERS_HELLO), connection.down(ANSWER)]


TRUTH = 40 + len(SHOPS_HELLO) - SHOPS_HELLO.index(b"shop.example")  # the last part


def over_quic(payload: bytes, port: int = 1000) -> bytes:
    """A datagram of Alice's to the shop."""
    return ip(UDP, udp(port, 443, payload), ALICE, SHOP)


def asked_over_quic(name: bytes, number: bytes, port: int = 1000) -> list[bytes]:
    """A QUIC connection's first packet, 1,228 octets, and 1,000 of its answer."""
    return [over_quic(initial(crypto(hello(named(name))), to=number), port),
            ip(UDP, udp(443, port, bytes(972)), SHOP, ALICE)]


def quic_decoyed() -> list[bytes]:
    lie = asked_over_quic(b"shop.example", b"number 1")[0]
    return [ttl(lie, 2), *asked_over_quic(b"free.example", b"number 1")]


def quic_in_parts() -> list[bytes]:
    """Half of the shop's hello, another connection's, and the shop's other half."""
    shops = hello(named(b"shop.example"))
    halves = [initial(crypto(shops[at : at + 80], at), number, to=b"number 1")
              for number, at in enumerate((0, 80))]
    return [over_quic(halves[0]), *asked_over_quic(b"free.example", b"number 2"),
            over_quic(halves[1])]


def in_fragments(packet: bytes, first: int) -> list[bytes]:
    """A packet to the shop, cut in two: 20 octets more."""
    content = packet[20:]
    return [ipv4(packet[9], content[:first], ALICE, SHOP, fragment=0x2000),
            ipv4(packet[9], content[first:], ALICE, SHOP, fragment=first // 8)]


def quic_in_fragments() -> list[bytes]:
    """Another connection, whose first packet comes in two fragments."""
    first_packet, answer = asked_over_quic(b"free.example", b"number 2")
    return [*in_fragments(first_packet, 800), answer]


def truth_in_fragments() -> list[bytes]:
    """What the server reads comes in fragments, before the lie in the same place."""
    connection = Connection(ALICE, SHOP)
    packets = connection.handshake()
    packets += in_fragments(connection.up(OTHERS_HELLO), 80)
    connection.sent[0] -= len(OTHERS_HELLO)
    return [*packets, ttl(connection.up(SHOPS_HELLO), 2), connection.down(ANSWER)]


def syn_in_fragments() -> list[bytes]:
    """Another connection's first packet, so short in its first fragment that it shows nothing."""
    packets = asked(SHOP, OTHERS_HELLO)
    return [*in_fragments(packets[0], 16), *packets[1:]]


OVER_QUIC = 1228 + 1000
IN_PARTS = WHOLE + 40 + TRUTH

ATTACKS = (
    Attack(
        "sni-honest", rules=NAMED, packets=sent(*asked(SHOP, SHOPS_HELLO)), pays={"shop": WHOLE}),
    Attack(
        "sni-forged", rules=NAMED, packets=sent(*asked(ELSEWHERE, SHOPS_HELLO)),
        pays={ALICE: WHOLE}, counted={"mismatch": HELLO + ALL}),
    Attack(
        "sni-of-another", rules=NAMED, packets=sent(*asked(SHOP, OTHERS_HELLO)),
        pays={ALICE: WHOLE}),
    *(Attack(
        f"sni-{how}", rules=NAMED, packets=sent(*asked(SHOP, first(named(name)))),
        pays={"shop" if how in IS_SHOPS else ALICE: (
            WHOLE - len(SHOPS_HELLO) + len(first(named(name))))})
      for how, name in ALIKE.items()),
    Attack(
        "sni-twice", rules=NAMED,  # two names in one hello
        packets=sent(*asked(SHOP, first((0, names(b"shop.example", b"free.example"))))),
        pays={ALICE: WHOLE + 3 + len(b"free.example")}),
    Attack(
        "sni-in-another-port", rules=NAMED,  # a datagram that begins as a hello is none
        packets=sent(datagram(ALICE, SHOP, 1000)), pays={ALICE: 1000}),
    Attack(
        "domain-fronting", rules=NAMED,  # the Host behind the encryption is another's
        packets=sent(*asked(SHOP, SHOPS_HELLO)), pays={"shop": WHOLE}, owed={ALICE: WHOLE}),
    Attack(
        "hello-encrypted", rules=NAMED, packets=sent(*asked(SHOP, HIDDEN)),
        pays={ALICE: WHOLE + len(HIDDEN) - len(SHOPS_HELLO)}),
    Attack(
        "hello-encrypted-believed", rules=OUTER, packets=sent(*asked(SHOP, HIDDEN)),
        pays={"shop": WHOLE + len(HIDDEN) - len(SHOPS_HELLO)},
        owed={ALICE: WHOLE + len(HIDDEN) - len(SHOPS_HELLO)}),
    Attack(
        "hello-decoy", rules=NAMED, packets=sent(*decoyed(SHOPS_HELLO, OTHERS_HELLO)),
        pays={"shop": HANDSHAKE + HELLO, ALICE: HELLO + ALL}, owed={ALICE: WHOLE + HELLO}),
    Attack(
        "hello-decoy-honest-first", rules=NAMED, packets=sent(*decoyed(OTHERS_HELLO, SHOPS_HELLO)),
        pays={ALICE: WHOLE + HELLO}),
    Attack(
        "hello-decoy-in-part", rules=NAMED, packets=sent(*overlapping()),
        pays={"shop": IN_PARTS - TRUTH - ALL, ALICE: TRUTH + ALL}, owed={ALICE: IN_PARTS}),
    Attack(
        "hello-decoy-elsewhere", rules=NAMED, packets=sent(*elsewhere_in_the_stream()),
        pays={ALICE: WHOLE + HELLO}),
    Attack(
        # The server asks for another hello (RFC 8446 §4.1.4), and takes another name in it.
        "hello-asked-for-again", rules=NAMED, packets=sent(*asked_again()),
        pays={"shop": WHOLE + HELLO + 140}, owed={"shop": HANDSHAKE + HELLO + 140,
                                                  ALICE: HELLO + ALL}),
    Attack(
        # The same ports, and even the same first number, once the shop's connection is over.
        "connection-used-again", rules=NAMED,
        packets=[*sent(*asked(SHOP, SHOPS_HELLO)), *sent(*asked(SHOP, OTHERS_HELLO), start_s=20)],
        pays={"shop": WHOLE, ALICE: WHOLE}),
    Attack(
        "connection-used-again-in-fragments", rules=NAMED,
        packets=[*sent(*asked(SHOP, SHOPS_HELLO)), *sent(*syn_in_fragments(), start_s=20)],
        pays={"shop": WHOLE, ALICE: WHOLE + 20}),
    Attack(
        "hello-decoy-after-fragments", rules=NAMED, packets=sent(*truth_in_fragments()),
        pays={ALICE: WHOLE + HELLO + 20}),
    Attack(
        "quic-honest", rules=NAMED, packets=sent(
            *asked_over_quic(b"shop.example", b"number 1")), pays={"shop": OVER_QUIC}),
    Attack(
        "quic-connection-used-again", rules=NAMED, packets=sent(
            *asked_over_quic(b"shop.example", b"number 1"),
            *asked_over_quic(b"free.example", b"number 2")),
        pays={"shop": OVER_QUIC, ALICE: OVER_QUIC}),
    Attack(
        "quic-connection-decoy", rules=NAMED,  # to the same number, and the first one dies
        packets=sent(*quic_decoyed()), pays={"shop": 1228, ALICE: OVER_QUIC}, owed={
            ALICE: 1228 + OVER_QUIC}),
    Attack(
        "quic-connection-in-parts", rules=NAMED,  # between the parts of the shop's hello
        packets=sent(*quic_in_parts()), pays={ALICE: 2 * 1228 + OVER_QUIC}),
    Attack(
        "quic-connection-in-fragments", rules=NAMED, packets=sent(
            *asked_over_quic(b"shop.example", b"number 1"), *quic_in_fragments()),
        pays={"shop": OVER_QUIC, ALICE: OVER_QUIC + 20}),
    Attack(
        # Begun between ports of its own, it goes on between those of the shop's (RFC 9000 §9).
        "quic-connection-moved", rules=NAMED, packets=sent(
            *asked_over_quic(b"shop.example", b"number 1"),
            *asked_over_quic(b"free.example", b"number 2", port=1001),
            datagram(ALICE, SHOP, 100), datagram(SHOP, ALICE, 1400, (443, 1000))),
        pays={"shop": OVER_QUIC + 1500, ALICE: OVER_QUIC},
        owed={"shop": OVER_QUIC, ALICE: OVER_QUIC + 1500}),
)

REFUSALS = (
    Refusal("sni-alone", sponsored('sni = ["shop.example"]'), "users can write sni themselves"),
    Refusal("host-alone", sponsored('host = ["shop.example"]'), "users can write host themselves"),
)
