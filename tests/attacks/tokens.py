"""A sponsor's signed word, copied, changed, used twice, too late, or for another server."""

from __future__ import annotations

from ipaddress import ip_network

from strategies import udp

from tollsplit.rules.rule import Prefix
from tollsplit.tokens.carrier import prefix
from tollsplit.tokens.keys import Key
from tollsplit.tokens.verdict import mint

from .attack import ALICE, BOB, ELSEWHERE, REST, SHOP, Attack, sponsored
from .wire import START_NS, UDP, datagram, ip, sent

SECRET = bytes(range(32))
KEYS = {"shop.keys": b"""[[keys]]
sponsor = "shop"
id = 1
secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
"""}
SPONSORS = f'{REST}\n[tokens]\nkeys = "shop.keys"\n'
TOKEN = sponsored('token = "shop"')
KEY = Key("shop", 1, SECRET)
NOW_S = START_NS // 10**9
DOWN = (443, 1000)
BROUGHT = 28 + 40  # octets of a packet with a token and nothing else


def subnet(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.version, int(network.network_address), network.prefixlen)


def token(subscriber: str = ALICE, server: str = "203.0.113.0/24", expires_s: int = NOW_S + 60,
          key: Key = KEY, nonce: bytes = b"12345678") -> bytes:
    return mint(key, subnet(subscriber), subnet(server), expires_s, nonce)


def brings(octets: bytes, source: str = ALICE, destination: str = SHOP,
           ports: tuple[int, int] = (1000, 443)) -> bytes:
    """A datagram that carries a token."""
    return ip(UDP, udp(*ports, prefix(octets)), source, destination)


def flow(octets: bytes, subscriber: str = ALICE, server: str = SHOP, client: int = 1000,
         ) -> list[bytes]:
    """A packet with a token, an answer of 1,400 octets, and one more of 100."""
    return [brings(octets, subscriber, server, (client, 443)),
            datagram(server, subscriber, 1400, (443, client)),
            datagram(subscriber, server, 100, (client, 443))]


ALL = BROUGHT + 1500


def refused(name: str, packets: list[bytes], reason: str, *, start_s: float = 0.0,
            payer: str = ALICE) -> Attack:
    """A flow whose token opens nothing."""
    return Attack(name, rules=TOKEN, sponsors=SPONSORS, files=KEYS,
                  packets=sent(*packets, start_s=start_s), pays={payer: ALL},
                  counted={f"refused_token:{reason}": BROUGHT})


ANYWHERE = bytearray(token())
ANYWHERE[1] = 1  # good for half of all servers, if that were not signed
MADE_UP = token(key=Key("shop", 1, b"guess".ljust(32)))

ATTACKS = (
    Attack("token-honest", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*flow(token())), pays={"shop": ALL}),
    refused("token-made-up", flow(MADE_UP), "wrong_mac"),
    refused("token-changed", flow(bytes(ANYWHERE)), "wrong_mac"),
    refused("token-copied", flow(token(), subscriber=BOB), "wrong_mac", payer=BOB),
    refused("token-for-another-server", flow(token(), server=ELSEWHERE), "wrong_mac"),
    refused("token-expired", flow(token()), "expired", start_s=61),
    refused("token-too-early", flow(token(expires_s=NOW_S + 2 * 86_400)), "too_early"),
    refused("token-of-an-unknown-key", flow(token(key=Key("shop", 2, SECRET))), "unknown_key"),
    Attack("token-replayed", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*flow(token()), *flow(token(), client=1001)),
           pays={"shop": ALL, ALICE: ALL}, counted={"refused_token:used": BROUGHT}),
    Attack("token-late", rules=TOKEN, sponsors=SPONSORS, files=KEYS,  # 20 s into its flow
           packets=[*sent(datagram(ALICE, SHOP, 100)), *sent(*flow(token()), start_s=20)],
           pays={ALICE: 100 + ALL}),
    Attack("token-from-the-server", rules=TOKEN, sponsors=SPONSORS, files=KEYS,  # by a friend
           packets=sent(brings(token(server="198.51.100.0/24"), ELSEWHERE, ALICE, DOWN),
                        datagram(ALICE, ELSEWHERE, 1500)),
           pays={ALICE: ALL}),
    Attack("token-answered-by-another", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(brings(token()), datagram(ELSEWHERE, ALICE, 1500, DOWN)),
           pays={"shop": BROUGHT, ALICE: 1500}),
    Attack("token-answered-in-the-shops-name", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(brings(token()), datagram(SHOP, ALICE, 1500, DOWN)),  # somebody's
           pays={"shop": ALL}, owed={"shop": BROUGHT, ALICE: 1500}),
    Attack("token-flood", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*[brings(MADE_UP, ports=(2000 + n, 443)) for n in range(50)],
                        *flow(token())),
           pays={"shop": ALL, ALICE: 50 * BROUGHT},
           counted={"refused_token:wrong_mac": 50 * BROUGHT}),
)
