"""The terminal's program, from the browser's page to the payment server and back."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateways import wait
from networks import HOME as HOME_NETWORK
from networks import OPERATOR, MockedNetworks
from session_parties import (
    HOME,
    INSIDE,
    Loop,
    Names,
    PaymentServer,
    payment_server,
    request,
    said,
    status,
)
from sessions import SPONSOR, door, sessions_served

from tollsplit.services import terminal as terminals
from tollsplit.services.client import Client
from tollsplit.services.detector import Report, detected
from tollsplit.services.forwarding import Forwarder, listening
from tollsplit.services.identifier import identifier
from tollsplit.services.network import Switch
from tollsplit.services.permission import ServerPermits
from tollsplit.services.proxy import Proxy
from tollsplit.services.reports import Reports, write_extension
from tollsplit.services.session import SUBSCRIBE, Subscribe
from tollsplit.services.terminal import Subscription, Terminal

pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")
ALICE = identifier("address:127.0.0.1")
CHECKOUT = b"""<!doctype html><title>Checkout</title>
<p>Pay <input autocomplete="cc-number"></p>
<button onclick="fetch('/pay', {method: 'POST', body: 'order=7'}).then(a => a.text()).then(
  text => document.title = text)">Pay</button>"""
INTERFACE = b"""<!doctype html><title>Shop</title><button onclick="new PaymentRequest(
  [{supportedMethods: 'https://shop.test/method'}],
  {total: {label: 'Tea', amount: {currency: 'CNY', value: '1.00'}}}).show().catch(() => {})"
>Buy</button>"""
PLAIN = b"<!doctype html><title>News</title><p>Nothing to buy.</p>"
PAGES = {path: (200, {"Content-Type": "text/html"}, content) for path, content in (
    ("/checkout", CHECKOUT), ("/interface", INTERFACE), ("/news", PLAIN))}  # fmt: skip


@dataclass
class Scene:
    """All parties but the engine, each as it runs."""

    shop: PaymentServer
    terminal: Terminal
    reports: Reports
    relay: int
    client: Client
    told: list[Mapping[str, object]]
    proxied: list[Mapping[str, object]]

    def page(self, path: str = "/checkout") -> str:
        return f"http://shop.test:{self.shop.port}{path}"

    def report(self, token: str = "t", **more: Any) -> dict[str, Any]:
        """What a browser is told to a report."""
        body = json.dumps({"page": self.page(), "tab": 1, "facts": ["card_fields"]} | more)
        asked = urllib.request.Request(
            f"http://{self.reports.address}/reports", body.encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def via(self) -> list[bool]:
        """Of each request that the payment server got: whether the sponsor's proxy passed it on."""
        # The relay and the proxy each say that they did.
        return [headers.get("Via", "").count("tollsplit") == 2
                for _, path, headers, _ in self.shop.seen if "favicon" not in path]


@contextmanager
def errands(served: Any) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            served.run_errands()

    running = threading.Thread(target=run)
    running.start()
    try:
        yield
    finally:
        stop.set()
        running.join()


@contextmanager
def scene_of(
    serve: Callable[..., Any], home: Path, switch: Switch | None = None
) -> Iterator[Scene]:
    with ExitStack() as stack:
        shop = stack.enter_context(payment_server(PAGES))
        listener = listening(HOME, 0)
        port = listener.getsockname()[1]
        listener.close()
        served = stack.enter_context(sessions_served(
            serve, home, proxies=[f"{HOME}:{port}"], payees=[f"shop.test:{shop.port}"],
            behaviours=[f"http://shop.test:{shop.port}/checkout",
                        f"http://shop.test:{shop.port}/interface"]))
        stack.enter_context(door(home / "control"))
        stack.enter_context(errands(served))
        served.device("operator", "operator").call(
            SUBSCRIBE, Subscribe(str(ALICE), "alice", HOME, "seven of nine"))
        loop = Loop()
        stack.callback(loop.close)
        proxied: list[Mapping[str, object]] = []
        proxy = Proxy(ServerPermits(served.device("proxy", SPONSOR, retries=0)), proxied.append,
                      inside=INSIDE, resolve=Names(shop_test=HOME))  # fmt: skip
        loop.run(proxy.listen([(HOME, port)]))
        stack.callback(lambda: loop.run(proxy.close()))
        told: list[Mapping[str, object]] = []
        client = served.device("terminal", "alice", retries=0)
        names = Names(shop_test=HOME)
        names.names[HOME] = HOME
        terminal = Terminal(client, Subscription(ALICE), told.append, switch, names)
        stack.callback(terminal.close)
        relay = Forwarder(terminal.route, lambda event: None)
        entrance = listening(HOME, 0)
        loop.run(relay.listen([entrance]))
        stack.callback(lambda: loop.run(relay.close()))
        terminal.relay = f"{HOME}:{entrance.getsockname()[1]}"
        reports = stack.enter_context(Reports(0, "t", terminal.take))
        yield Scene(shop, terminal, reports, entrance.getsockname()[1], client, told, proxied)


@pytest.fixture
def scene(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setattr(terminals, "SESSION_LINGER_S", 0.2)
    monkeypatch.setattr(terminals, "SESSION_POLL_S", 0.02)
    with scene_of(serve, tmp_path) as found:
        yield found


def kinds(told: list[Mapping[str, object]]) -> list[object]:
    return [event["event"] for event in told]


def test_payment_in_a_browser_goes_through_the_sponsors_proxy(
    scene: Scene, tmp_path: Path
) -> None:
    """Both detectors, in a real Chromium; what is no payment begins no session."""
    from browser import Chromium

    write_extension(tmp_path / "extension", scene.reports.address, "t")
    browser = Chromium(
        tmp_path, extension=tmp_path / "extension", hosts={"shop.test": HOME},
        arguments=["--unsafely-treat-insecure-origin-as-secure="
                   f"http://shop.test:{scene.shop.port}"])  # fmt: skip
    try:
        screen = browser.desk
        screen.open(scene.page("/news"))
        screen.open(scene.page("/checkout"))  # the page is on screen: detector a
        wait(lambda: "open" in kinds(scene.told), 20)
        _await_relay(scene, screen)
        scene.shop.seen.clear()
        screen.tap("button")
        screen.wait(lambda: screen.driver.title == "paid", "the payment's answer")
        assert scene.via() == [True]
        assert scene.shop.seen[0][3] == b"order=7"
        assert scene.told[0] == {"event": "detected", "detector": "page",
                                 "payee": f"shop.test:{scene.shop.port}"}  # fmt: skip
        screen.open(scene.page("/news"))  # the payment is left
        wait(lambda: "ended" in kinds(scene.told), 20)
        scene.told.clear()
        screen.open(scene.page("/interface"))
        time.sleep(0.3)
        assert not scene.told  # the page alone says nothing
        screen.tap("button")  # the system's payment interface is called: detector b
        wait(lambda: "open" in kinds(scene.told), 20)
        assert scene.told[0]["detector"] == "interface"
    finally:
        browser.quit()


def _await_relay(scene: Scene, screen: Any) -> None:
    """The browser has been told where to send requests, and does."""
    def goes() -> bool:
        scene.shop.seen.clear()
        screen.run("return fetch('/news').then(a => a.text())")
        return scene.via() == [True]

    screen.wait(goes, "requests through the relay")


def test_relay_marks_and_shows_the_claim_only_to_the_proxy(scene: Scene) -> None:
    directions = scene.report()
    assert directions == {"relay": f"{HOME}:{scene.relay}",
                          "payees": [f"shop.test:{scene.shop.port}"]}  # fmt: skip
    assert status(said(scene.relay, request(scene.page("/pay"), "POST", None,
                                            "Content-Length: 1", body="x"))) == 200
    assert scene.via() == [True]
    _, _, headers, _ = scene.shop.seen[-1]
    assert "Proxy-Authorization" not in headers
    target = f"shop.test:{scene.shop.port}"
    tunnelled = said(scene.relay, request(target, "CONNECT") +
                     b"GET /in HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
    assert tunnelled.endswith(b"paid") and scene.shop.seen[-1][1] == "/in"
    # what is no payment server's goes its own way, unmarked
    other = f"http://{HOME}:{scene.shop.port}/other"
    assert status(said(scene.relay, request(other))) == 200
    assert scene.via() == [True, False, False]  # a tunnel's inside is nobody's to add to
    assert scene.proxied[-1]["method"] == "CONNECT" and len(scene.proxied) == 2


def test_session_ends_when_the_last_page_is_left(scene: Scene) -> None:
    for tab in (1, 2):
        scene.report(tab=tab)
    scene.report(tab=1, facts=[], over=True)
    time.sleep(0.4)
    assert scene.report(tab=2, facts=[])["relay"]  # tab 2 pays still
    scene.report(tab=2, facts=[], over=True)
    wait(lambda: "ended" in kinds(scene.told))
    assert kinds(scene.told) == ["detected", "open", "ended"]
    assert scene.report(tab=2, facts=[]) == {"relay": None, "payees": []}
    time.sleep(0.05)
    direct = status(said(scene.relay, request(f"http://{HOME}:{scene.shop.port}/")))
    assert direct == 200 and not scene.proxied


def test_session_that_is_refused_is_none(scene: Scene) -> None:
    assert scene.report(page=scene.page("/elsewhere")) == {"relay": None, "payees": []}
    wait(lambda: len(scene.told) == 2)
    assert kinds(scene.told) == ["detected", "refused"]


@pytest.mark.parametrize(("facts", "page", "found"), [
    (["card_fields"], "https://shop.example/pay", "page"), (["product"], "https://a.b/", "page"),
    (["checkout", "order"], "http://a.b/", "page"),
    (["payment_request"], "https://a.b/", "interface"),
    (["payment_request", "product"], "https://a.b/", "interface"),
    ([], "https://a.b/", None), (["product"], "file:///etc/passwd", None),
    (["product"], "https:///x", None), (["product"], "https://a.b:x/", None),
])  # fmt: skip
def test_detectors_notice_payments_and_nothing_else(
    facts: Any, page: str, found: str | None, databases: Any
) -> None:
    payment = detected(Report(page, 1, facts))
    assert (payment and payment.detector) == found
    assert detected(Report(page, 1, facts, over=True)) is None


def test_reports_are_for_who_has_the_token(scene: Scene) -> None:
    """Any page may send requests to this machine."""
    for token in ("", "T", "t2"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            scene.report(token=token)
        assert caught.value.code == 403
        caught.value.close()
    for more, code in (({"facts": ["love"]}, 400), ({"page": "x" * 20_000}, 413),
                       ({"more": 1}, 400)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            scene.report(**more)
        assert caught.value.code == code
        caught.value.close()
    rebound = said(int(scene.reports.address.rpartition(":")[2]),
                   b"POST /reports HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer t\r\n"
                   b"Content-Length: 2\r\n\r\n{}")
    assert status(rebound) == 403
    assert not scene.told


# --- the network -----------------------------------------------------------------------------


@pytest.fixture
def switched(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    networks: MockedNetworks,
) -> Iterator[tuple[Scene, MockedNetworks]]:
    monkeypatch.setattr(terminals, "SESSION_LINGER_S", 0.1)
    monkeypatch.setattr(terminals, "SESSION_POLL_S", 0.02)
    switch = Switch(networks.manager(), tmp_path / "network.json")
    with scene_of(serve, tmp_path, switch) as scene:
        scene.terminal._who = Subscription(ALICE, "seven of nine", OPERATOR)
        yield scene, networks


def test_terminal_is_on_the_operators_network_for_the_session(
    switched: tuple[Scene, MockedNetworks],
) -> None:
    scene, networks = switched
    assert scene.report()["relay"]
    assert networks.active() == {OPERATOR}
    scene.report(facts=[], over=True)
    wait(lambda: "ended" in kinds(scene.told))
    assert networks.active() == {HOME_NETWORK}


def test_terminal_returns_where_the_session_is_refused(
    switched: tuple[Scene, MockedNetworks],
) -> None:
    scene, networks = switched
    scene.terminal._who = Subscription(ALICE, "another identity", OPERATOR)
    assert scene.report()["relay"] is None
    wait(lambda: "refused" in kinds(scene.told))
    assert networks.active() == {HOME_NETWORK}


def test_terminal_returns_where_the_server_does_not_answer(
    switched: tuple[Scene, MockedNetworks],
) -> None:
    scene, networks = switched
    with socket.create_server((HOME, 0)) as nobody:
        dead = nobody.getsockname()[1]
    scene.client.origin = f"http://{HOME}:{dead}"
    assert scene.report()["relay"] is None
    wait(lambda: "refused" in kinds(scene.told))
    assert networks.active() == {HOME_NETWORK}

