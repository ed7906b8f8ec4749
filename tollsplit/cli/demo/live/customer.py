"""Alice before her screen: with a real browser, or with a plain HTTP client where there is none."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

from .chromium import Chromium
from .namespaces import TIMEOUT_S, End
from .program import StoryError
from .shop import PICTURE
from .stage import ALICE, SHOP, Stage

SHOP_URL = "http://shop.example"
RELAY = ("127.0.0.1", 3128)
REPORTS = ("127.0.0.1", 3127)


class Customer(Protocol):
    """What somebody does who buys something."""

    def arrive(self) -> None:
        """Open the checkout; comes back when what is sent to the shop is sponsored."""

    def pay(self) -> None: ...

    def leave(self) -> None: ...


class Person:
    """With Chromium: the extension tells the terminal's program what is on the screen."""

    def __init__(self, stage: Stage, extension: Path) -> None:
        self._browser = Chromium(stage, ALICE, extension)
        self._page = self._browser.page("about:blank")

    def arrive(self) -> None:
        self._page.open(f"{SHOP_URL}/checkout")
        # The extension has the browser send requests through the relay once the session is open.
        self._page.wait("fetch('/via').then(a => a.text()).then(via => via.includes('tollsplit'))")

    def pay(self) -> None:
        self._page.click("#pay")
        self._page.wait("document.title === 'paid'")

    def leave(self) -> None:
        self._page.open(f"{SHOP_URL}/")
        self._browser.quit()


class Script:
    """Without a browser: tells the terminal's program what the extension would."""

    def __init__(self, stage: Stage, token: str) -> None:
        self._stage = stage
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def arrive(self) -> None:
        fetch(self._stage, ALICE, (SHOP.ipv4, 80), "/checkout")
        self._report(facts=["card_fields"])

    def pay(self) -> None:
        fetch(self._stage, ALICE, RELAY, f"{SHOP_URL}/pay", b"order=1812")
        fetch(self._stage, ALICE, RELAY, f"{SHOP_URL}{PICTURE}")

    def leave(self) -> None:
        self._report(over=True)

    def _report(self, **about: object) -> None:
        report = {"page": f"{SHOP_URL}/checkout", "tab": 1, **about}
        fetch(self._stage, ALICE, REPORTS, "/reports", json.dumps(report).encode(), self._headers)


def fetch(
    stage: Stage, end: End, server: tuple[str, int], target: str, body: bytes | None = None,
    headers: Mapping[str, str] = {}, *, dscp: int = 0, source: str = "0.0.0.0",
) -> bytes:  # fmt: skip
    """What a server answers a host; a body is posted. Raises StoryError where it does not."""
    client = HTTPConnection(*server, timeout=TIMEOUT_S)
    client.sock = stage.namespaces.socket(end.name, socket.AF_INET, socket.SOCK_STREAM)
    try:
        client.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
        client.sock.bind((source, 0))
        client.sock.connect(server)
        client.request("GET" if body is None else "POST", target, body, dict(headers))
        answer = client.getresponse()
        found = answer.read()
    except OSError as error:
        raise StoryError(f"{end.name}: {target}: {error}") from error
    finally:
        client.close()
    if answer.status != 200:
        raise StoryError(f"{end.name}: {target}: answered {answer.status}")
    return found
