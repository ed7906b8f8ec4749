"""The sponsor's proxy: what it passes on, and how; what it refuses, and that nothing is fetched."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from session_parties import (
    ALICE,
    CREDENTIAL,
    HOME,
    TAG,
    Names,
    PaymentServer,
    Register,
    Running,
    claim,
    drained,
    payment_server,
    request,
    running_proxy,
    said,
    status,
)

from tollsplit.rules.marks import Tag
from tollsplit.services import exchange, forwarding
from tollsplit.services.claim import Claim, Grant, Payee, read_claim


@dataclass
class Scene:
    shop: PaymentServer
    proxy: Running
    register: Register
    names: Names

    def url(self, path: str = "/pay", host: str = "shop.example") -> str:
        return f"http://{host}:{self.shop.port}{path}"


LARGE = bytes(range(256)) * 4096
CHUNKED = b"4\r\npaid\r\n4;x=y\r\ntwic\r\n1\r\ne\r\n0\r\n\r\n"
ANSWERS = {
    "/large": (200, {}, LARGE),
    "/chunked": (200, {"Transfer-Encoding": "chunked", "Content-Length": "3"}, CHUNKED),
    "/gone": (204, {}, b""),
    "/hop": (200, {"Connection": "x-mine", "X-Mine": "1", "Keep-Alive": "timeout=5",
                   "Proxy-Authenticate": "Basic", "X-Kept": "yes"}, b"ok"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shop() -> Iterator[PaymentServer]:
    with payment_server(ANSWERS) as found:
        yield found


@pytest.fixture
def scene(shop: PaymentServer) -> Iterator[Scene]:
    shop.seen.clear()
    names = Names(shop_example=HOME, other_example=HOME, inner_example="10.0.0.1")
    register = Register(Payee("shop.example", shop.port), Payee("inner.example", shop.port))
    with running_proxy(register, names) as proxy:
        yield Scene(shop, proxy, register, names)


# --- what is passed on ---------------------------------------------------------------------


def test_proxy_fetches_for_a_good_claim_and_strips_what_is_its_own(scene: Scene) -> None:
    answer = said(scene.proxy.port, request(
        scene.url("/pay?order=7"), "POST", claim(), "Content-Length: 3", "X-Order: 7",
        "Proxy-Connection: keep-alive", "X-Drop: 1", "Connection: x-drop", "TE: trailers",
        body="abc"))  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\npaid")
    [(method, path, headers, body)] = scene.shop.seen
    assert (method, path, body) == ("POST", "/pay?order=7", b"abc")
    # whom it is for is the target's business, whatever the request's Host said (RFC 9112 §3.2.2)
    assert {name.lower(): value for name, value in headers.items()} == {
        "host": f"shop.example:{scene.shop.port}", "x-order": "7", "content-length": "3",
        "via": "1.1 tollsplit", "connection": "close"}  # fmt: skip
    [event] = scene.proxy.events(1)
    assert event.items() >= {
        "event": "answered", "session": "s-1", "sponsor": "shop-co", "method": "POST",
        "status": 200, "payee": f"shop.example:{scene.shop.port}", "uplink_octets": 3,
        "downlink_octets": 4}.items()  # fmt: skip
    assert CREDENTIAL not in str(event) and ALICE not in str(event) and "order" not in str(event)


@pytest.mark.parametrize(("path", "method", "length", "body"), [
    ("/large", "GET", len(LARGE), LARGE),
    ("/chunked", "GET", None, b"paidtwice"),
    ("/pay", "HEAD", 4, b""),
    ("/gone", "GET", None, b""),
])
def test_proxy_answer_is_the_payment_servers(
    scene: Scene, path: str, method: str, length: int | None, body: bytes
) -> None:
    import http.client

    connection = http.client.HTTPConnection(HOME, scene.proxy.port, timeout=20)
    connection.request(method, scene.url(path), headers={
        "Proxy-Authorization": claim().decode()})  # fmt: skip
    answer = connection.getresponse()
    assert answer.read() == body
    assert (length is None) == (answer.getheader("Content-Length") is None)
    # the connection serves another one
    connection.request("GET", scene.url(), headers={"Proxy-Authorization": claim().decode()})
    assert connection.getresponse().read() == b"paid"
    connection.close()


def test_proxy_keeps_neither_sides_headers_between_neighbours(scene: Scene) -> None:
    answer = said(scene.proxy.port, request(scene.url("/hop"), shown=claim())).lower()
    assert b"x-kept: yes" in answer
    for name in (b"x-mine", b"keep-alive", b"proxy-authenticate"):
        assert name not in answer


def test_proxy_passes_a_chunked_request_on_whole(scene: Scene) -> None:
    """And one length only: two that differ are how requests are smuggled."""
    answer = said(scene.proxy.port, request(
        scene.url(), "POST", claim(), "Transfer-Encoding: chunked", "Content-Length: 2",
        "Expect: 100-continue", body="3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"))
    assert b"200 OK" in answer
    [(_, _, headers, body)] = scene.shop.seen
    assert body == b"abcde"
    assert not {"content-length", "expect"} & {name.lower() for name in headers}


def test_proxy_tunnels_until_both_sides_have_ended(scene: Scene) -> None:
    target = f"shop.example:{scene.shop.port}"
    with socket.create_connection((HOME, scene.proxy.port), 20) as connection:
        inner = b"GET /inner HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"
        connection.sendall(request(target, "CONNECT", claim()) + inner)
        answer = drained(connection)
    assert answer.startswith(b"HTTP/1.1 200 Connected\r\n") and answer.endswith(b"paid")
    assert [seen[:2] for seen in scene.shop.seen] == [("GET", "/inner")]
    assert scene.proxy.events(1)[-1]["uplink_octets"] == len(inner)


def test_proxy_ends_a_tunnel_whose_session_ends(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PROXY_RECHECK_S", 0.02)
    with socket.create_connection((HOME, scene.proxy.port), 20) as connection:
        connection.sendall(request(f"shop.example:{scene.shop.port}", "CONNECT", claim()))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        scene.register.good.clear()
        assert drained(connection) == b""
    assert scene.proxy.events(1)[-1]["reason"] == "session ended"


def test_proxy_ends_a_tunnel_that_says_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PROXY_RECHECK_S", 0.02)
    monkeypatch.setattr(exchange, "PROXY_IDLE_S", 0.1)
    with socket.create_connection((HOME, scene.proxy.port), 20) as connection:
        connection.sendall(request(f"shop.example:{scene.shop.port}", "CONNECT", claim()))
        assert drained(connection).startswith(b"HTTP/1.1 200")
    assert scene.proxy.events(1)[-1]["reason"] == "idle"


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize("shown", [
    None,
    b"Basic YWxpY2U6cHc=",
    b"Sponsored",
    b'Sponsored tag="dscp=46", credential="dG9wLXNlY3JldA"',
    b'Sponsored identifier="address:127.0.0.1", tag="dscp=99", credential="x"',
    b"Sponsored \xff",
    b"Sponsored identifier=",
    b'Sponsored identifier="',
    b"Sponsored =",
    b'Sponsored identifier="' + b"a" * 2000 + b'"',
    claim(credential=None),
    claim(credential="wrong"),
    claim(tag=None),
    claim(tag=Tag("dscp", 45)),
    claim(tag=Tag("flow_label", 46)),
    claim(identifier="address:127.0.0.2"),
    claim(identifier="imsi:460001234567890"),
], ids=lambda shown: str(shown)[:40])  # fmt: skip
@pytest.mark.parametrize("tunnel", [False, True], ids=["request", "tunnel"])
def test_proxy_refuses_a_claim_that_is_not_good_and_fetches_nothing(
    scene: Scene, shown: bytes | None, tunnel: bool
) -> None:
    target = f"shop.example:{scene.shop.port}" if tunnel else scene.url()
    answer = said(scene.proxy.port, request(target, "CONNECT" if tunnel else "GET", shown))
    assert status(answer) == 403
    body = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    # which factor failed is nobody's business
    assert body == {"type": "about:blank", "title": "Forbidden", "status": 403}
    assert not scene.shop.seen and not scene.names.asked
    [event] = scene.proxy.events(1)
    assert event["event"] == "refused" and CREDENTIAL not in str(event)


def test_proxy_refuses_a_claim_from_another_address(scene: Scene) -> None:
    """A communication identifier that is an address is the one that packets come from."""
    assert status(said(scene.proxy.port, request(scene.url(), shown=claim()),
                       source="127.0.0.9")) == 403
    assert not scene.shop.seen
    assert scene.register.asked[-1].source == "127.0.0.9"


def test_proxy_refuses_two_claims_at_once(scene: Scene) -> None:
    two = request(scene.url(), "GET", claim(), f"Proxy-Authorization: {claim().decode()}")
    assert status(said(scene.proxy.port, two)) == 403
    assert not scene.shop.seen


@pytest.mark.parametrize(("target", "method", "expected"), [
    ("http://other.example:{port}/", "GET", 403),  # no payment server of the sponsor
    ("http://shop.example/", "GET", 403),  # its name, another port
    ("shop.example:22", "CONNECT", 403),
    ("http://127.0.0.1:{port}/", "GET", 403),  # its address is not its name
    ("http://inner.example:{port}/", "GET", 403),  # a sponsor's name that leads inside
    ("inner.example:{port}", "CONNECT", 403),
    ("/", "GET", 400),  # it serves nothing itself
    ("*", "GET", 400),
    ("https://shop.example/", "GET", 400),
    ("ftp://shop.example/", "GET", 400),
    ("http://shop.example@other.example:{port}/", "GET", 400),
    ("http://shop.example:{port}#x/", "GET", 400),
    ("http:///pay", "GET", 400),
    ("http://shop.example:99999/", "GET", 400),
    ("shop.example", "CONNECT", 400),
    ("shop.example:{port}/x", "CONNECT", 400),
    ("http://shop.example:{port}/", "CONNECT", 400),
])  # fmt: skip
def test_proxy_is_no_open_relay(scene: Scene, target: str, method: str, expected: int) -> None:
    asked = request(target.format(port=scene.shop.port), method, claim())
    assert status(said(scene.proxy.port, asked)) == expected
    assert not scene.shop.seen


@pytest.mark.parametrize("host", ["SHOP.example", "shop.example."])
def test_proxy_knows_a_payment_server_however_it_is_spelled(scene: Scene, host: str) -> None:
    assert status(said(scene.proxy.port, request(scene.url(host=host), shown=claim()))) == 200


@pytest.mark.parametrize("octets", [
    b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET http://shop.example/ HTTP/1.1\r\n\r\n",  # no Host
    b"GET http://shop.example/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET http://shop.example/ HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
    b"POST http://shop.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\n",
    b"GET http://shop.example/ HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 70_000 + b"\r\n\r\n",
])  # fmt: skip
def test_proxy_survives_what_is_not_http(scene: Scene, octets: bytes) -> None:
    assert status(said(scene.proxy.port, octets)) in (400, 431, 0, 501, 403)
    assert not scene.shop.seen
    assert status(said(scene.proxy.port, request(scene.url(), shown=claim()))) == 200


def test_proxy_refuses_a_request_that_is_too_large(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PROXY_REQUEST_OCTETS_MAX", 1000)
    answer = said(scene.proxy.port, request(
        scene.url(), "POST", claim(), "Content-Length: 1001", body="x" * 1001))
    assert status(answer) == 413
    assert status(said(scene.proxy.port, request(
        scene.url(), "POST", claim(), "Content-Length: 1000", body="x" * 1000))) == 200


def test_proxy_waits_for_a_head_only_so_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "PROXY_HEAD_S", 0.1)
    assert status(said(scene.proxy.port, b"GET http://shop.example/ HTTP/1.1\r\nHo")) == 408
    assert said(scene.proxy.port, b"") == b""  # who says nothing is told nothing


def test_proxy_takes_only_so_many_connections_of_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "PROXY_CONNECTIONS_OF_ONE_MAX", 2)
    held = [socket.create_connection((HOME, scene.proxy.port)) for _ in range(2)]
    try:
        while len(scene.proxy.proxy._forwarder._open) < 2:
            time.sleep(0.005)
        assert status(said(scene.proxy.port, request(scene.url(), shown=claim()))) == 503
        assert status(said(scene.proxy.port, request(
            scene.url(), shown=claim(identifier="address:127.0.0.5")),
            source="127.0.0.5")) == 403  # fmt: skip
    finally:
        for connection in held:
            connection.close()


# --- payment servers that misbehave ----------------------------------------------------------


@pytest.mark.parametrize(("answer", "expected"), [
    (b"", 502), (b"nonsense\r\n\r\n", 502),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", 200),  # cut, and so is what we say
    (b"HTTP/1.1 200 OK\r\n\r\nuntil it ends", 200),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     103),
    (b"HTTP/1.1 101 Switching\r\n\r\n", 502),
    (b"HTTP/1.1 200 OK\r\nX: " + b"b" * 70_000 + b"\r\n\r\n", 502),
])  # fmt: skip
def test_proxy_makes_the_best_of_a_broken_answer(answer: bytes, expected: int) -> None:
    with socket.create_server((HOME, 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        register = Register(Payee("shop.example", port))
        with running_proxy(register, Names(shop_example=HOME)) as proxy:
            found = said(proxy.port, request(f"http://shop.example:{port}/", shown=claim()))
            assert status(found) == expected
            assert (b"part" in found) == (b"part" in answer)
        serving.join()


def test_proxy_says_what_of_the_way_fails(scene: Scene) -> None:
    with socket.create_server((HOME, 0)) as listener:
        dead = listener.getsockname()[1]
    payees = frozenset({Payee("shop.example", dead), Payee("nowhere.example", 80)})
    scene.register.good = {(ALICE, TAG, CREDENTIAL): Grant("s-1", "shop-co", payees, TAG)}
    refused = said(scene.proxy.port, request(f"http://shop.example:{dead}/", shown=claim()))
    unknown = said(scene.proxy.port, request("http://nowhere.example/", shown=claim()))
    assert (status(refused), status(unknown)) == (502, 502)
    assert [event["reason"] for event in scene.proxy.events(2)] == [
        "connect: Connection refused", "name: unknown"]


def test_proxy_refuses_while_permission_cannot_be_asked_for(scene: Scene) -> None:
    class Away:
        async def permits(self, claim: Claim) -> Grant | None:
            raise OSError("away")

    with running_proxy(Away(), scene.names) as proxy:
        assert status(said(proxy.port, request(scene.url(), shown=claim()))) == 503
    assert not scene.shop.seen


def test_proxy_ends_open_connections_when_it_stops(scene: Scene) -> None:
    with socket.create_connection((HOME, scene.proxy.port), 20) as connection:
        connection.sendall(request(f"shop.example:{scene.shop.port}", "CONNECT", claim()))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        scene.proxy.loop.run(scene.proxy.proxy.close(0.05))
        assert drained(connection) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOME, scene.proxy.port), 5)


def test_claim_reads_back_and_shows_no_secret() -> None:
    full = Claim(ALICE, TAG, CREDENTIAL, "127.0.0.1", "127.0.0.2")
    assert read_claim(full.header(), "127.0.0.1", "127.0.0.2") == full
    assert CREDENTIAL not in repr(full)
    bare = Claim("msisdn:8613800000000")
    assert bare.header() == b'Sponsored identifier="msisdn:8613800000000"'
    assert read_claim(bare.header(), "", "") == bare
