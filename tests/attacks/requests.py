"""HTTP requests that one reader takes for the shop's, and another for another's."""

from __future__ import annotations

from .attack import ALICE, ELSEWHERE, SHOP, SHOPS, Attack, sponsored
from .names import ALL, ANSWER, HANDSHAKE, decoyed
from .wire import Connection, sent

HOSTED = sponsored(f'{SHOPS}, host = ["shop.example"]')
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + bytes(900)


def request(*fields: str, target: str = "/", method: str = "GET", host: str = "shop.example",
            body: str = "") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", body]
    return "\r\n".join(lines).encode()


def exchange(server: str, *requests: bytes, client: int = 1000,
             response: bytes = RESPONSE) -> list[bytes]:
    """A connection in which these requests are answered, one after the other."""
    connection = Connection(ALICE, server, (client, 80))
    packets = connection.handshake()
    for octets in requests:
        packets += [connection.up(octets), connection.down(response)]
    return packets


def octets(*requests: bytes) -> int:
    """Of the packets of requests and responses, the handshake left out."""
    return sum(40 + len(one) + 40 + len(RESPONSE) for one in requests)


SHOPS_REQUEST, OTHERS_REQUEST = request(), request(host="free.example")
AMBIGUOUS = {
    "two-hosts": request("Host: free.example"),
    "folded": request("X-Note: a", " Host: free.example"),
    "space-before-colon": request("Host : free.example"),
    "two-lengths": request("Content-Length: 0", "Content-Length: 44", method="POST"),
    "length-and-chunks": request("Content-Length: 5", "Transfer-Encoding: chunked", method="POST",
                                 body="0\r\n\r\n"),
    "absolute-target": request(target="http://free.example/"),
    "a-list-of-hosts": request(host="shop.example, free.example"),
}

ATTACKS = (
    Attack(
        "host-honest", rules=HOSTED, packets=sent(*exchange(SHOP, SHOPS_REQUEST)),
        pays={"shop": HANDSHAKE + octets(SHOPS_REQUEST)}),
    Attack(
        "host-forged", rules=HOSTED, packets=sent(*exchange(ELSEWHERE, SHOPS_REQUEST)),
        pays={ALICE: HANDSHAKE + octets(SHOPS_REQUEST)},
        counted={"mismatch": octets(SHOPS_REQUEST)}),
    Attack(
        "host-changed", rules=HOSTED,  # the first request is the shop's, those behind it are not
        packets=sent(*exchange(SHOP, SHOPS_REQUEST, OTHERS_REQUEST, SHOPS_REQUEST)),
        pays={"shop": HANDSHAKE + 2 * octets(SHOPS_REQUEST), ALICE: octets(OTHERS_REQUEST)}),
    *(Attack(
        f"request-with-{how}", rules=HOSTED, packets=sent(*exchange(SHOP, one, SHOPS_REQUEST)),
        pays={ALICE: HANDSHAKE + octets(one, SHOPS_REQUEST)})
      for how, one in AMBIGUOUS.items()),
    Attack(
        "request-decoy", rules=HOSTED, packets=sent(*decoyed(SHOPS_REQUEST, OTHERS_REQUEST)),
        pays={"shop": HANDSHAKE + 40 + len(SHOPS_REQUEST),
              ALICE: 40 + len(OTHERS_REQUEST) + ALL},
        owed={ALICE: HANDSHAKE + 80 + len(SHOPS_REQUEST) + len(OTHERS_REQUEST) + ALL}),
)
assert len(SHOPS_REQUEST) == len(OTHERS_REQUEST) and len(ANSWER) == 1000
