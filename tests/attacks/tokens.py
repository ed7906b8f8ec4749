"""A sponsor's signed word, copied, changed, used twice, too late, or for another server."""

from __future__ import annotations

from ipaddress import ip_network

from strategies import udp

from tollsplit.rules.rule import Prefix
from tollsplit.tokens.carrier import header, prefix
from tollsplit.tokens.keys import Key
from tollsplit.tokens.verdict import mint

from .attack import ALICE, BOB, ELSEWHERE, REST, SHOP, Attack, sponsored
from .names import HANDSHAKE
from .requests import OTHERS_REQUEST, SHOPS_REQUEST, exchange, octets, request
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


def brings(carried: bytes, source: str = ALICE, destination: str = SHOP,
           ports: tuple[int, int] = (1000, 443)) -> bytes:
    """A datagram that carries a token."""
    return ip(UDP, udp(*ports, prefix(carried)), source, destination)


def flow(carried: bytes, subscriber: str = ALICE, server: str = SHOP, client: int = 1000,
         ) -> list[bytes]:
    """A packet with a token, an answer of 1,400 octets, and one more of 100."""
    return [brings(carried, subscriber, server, (client, 443)),
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
IN_HEAD = request(header(token()))
IN_RESPONSE = (f"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n{header(token())}\r\n\r\n".encode()
               + bytes(900))
UNREAD = {  # heads that have none, or are none
    "twice": request(header(token()), header(token(nonce=b"87654321"))),
    "folded": request(*header(token()).replace(": ", ":\r\n ").split("\r\n")),
    "in-a-body": request(f"Content-Length: {len(IN_HEAD)}", method="POST", body=IN_HEAD.decode()),
}

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
    Attack("token-in-a-head-honest", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*exchange(SHOP, IN_HEAD)), pays={"shop": HANDSHAKE + octets(IN_HEAD)}),
    *(Attack(f"token-in-a-head-{how}", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
             packets=sent(*exchange(SHOP, one)), pays={ALICE: HANDSHAKE + octets(one)})
      for how, one in UNREAD.items()),
    *(Attack(f"token-in-a-head-{how}", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
             packets=sent(*exchange(SHOP, one)), pays={ALICE: HANDSHAKE + octets(one)},
             counted={f"refused_token:{reason}": 40 + len(one)})
      for how, reason, one in (
          ("of-anothers", "wrong_mac", request(header(token(BOB)))),
          ("that-has-expired", "expired", request(header(token(expires_s=NOW_S)))),
          ("too-long", "malformed", request(header(token()) + "A" * 1000)),
      )),
    Attack("token-in-a-head-replayed", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*exchange(SHOP, IN_HEAD), *exchange(SHOP, IN_HEAD, client=1001)),
           pays={who: HANDSHAKE + octets(IN_HEAD) for who in ("shop", ALICE)},
           counted={"refused_token:used": 40 + len(IN_HEAD)}),
    Attack("token-in-a-response", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*exchange(SHOP, SHOPS_REQUEST, response=IN_RESPONSE)),
           pays={ALICE: HANDSHAKE + 80 + len(SHOPS_REQUEST) + len(IN_RESPONSE)}),
    Attack("token-for-one-request-of-many", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*exchange(SHOP, IN_HEAD, OTHERS_REQUEST)),
           pays={"shop": HANDSHAKE + octets(IN_HEAD, OTHERS_REQUEST)},
           owed={"shop": HANDSHAKE + octets(IN_HEAD), ALICE: octets(OTHERS_REQUEST)}),
    Attack("token-for-one-request-of-many-with-hosts", sponsors=SPONSORS, files=KEYS,
           rules=sponsored('token = "shop", host = ["shop.example"]'),
           packets=sent(*exchange(SHOP, IN_HEAD, OTHERS_REQUEST)),
           pays={"shop": HANDSHAKE + octets(IN_HEAD), ALICE: octets(OTHERS_REQUEST)}),
    Attack("token-flood", rules=TOKEN, sponsors=SPONSORS, files=KEYS,
           packets=sent(*[brings(MADE_UP, ports=(2000 + n, 443)) for n in range(50)],
                        *flow(token())),
           pays={"shop": ALL, ALICE: 50 * BROUGHT},
           counted={"refused_token:wrong_mac": 50 * BROUGHT}),
)
