"""A distribution server with two sponsorships, and an engine that its marks are in force in."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from gateways import Running, running

from tollsplit.rules import load
from tollsplit.rules.door import receive, send

if TYPE_CHECKING:
    from serving import Served

    from tollsplit.services.client import Client
    from tollsplit.services.session import Open, Opened

RULES = """
[meter]
window = "1h"
[[pools]]
prefixes = ["10.0.0.0/8"]
directory = "subscribers.csv"
[sponsors.shop-co]
[[rules]]
id = "session"
precedence = 1
match = { marks = "tags.marks" }
split = { sponsor = "shop-co", share = "70%" }
[[rules]]
id = "preset"
precedence = 2
match = { marks = "addresses.marks" }
split = { sponsor = "shop-co" }
[tariffs.standard]
currency = "CNY"
price = "1 CNY / MiB"
"""
SPONSOR = "sponsor:shop-co"
ALICE = "imsi:460001234567890"
BOB = "address:10.0.0.8"
IDENTITY = "seven of nine"
SHOP = "shop.example:443"
BEHAVIOUR = "https://shop.example/checkout"
PROXIES = ("203.0.113.10:8080", "203.0.113.11:8080")


def identity(text: str, payee: str = SHOP, identifier: str = ALICE) -> Open:
    """A session asked for by identity."""
    from tollsplit.services.session import ByIdentity, Open

    return Open(identifier, ByIdentity(text, payee))


def policy(home: Path, **more: Any) -> Any:
    """The settings: shop-co's sessions have tags, those for gifts a proxy's address each."""
    from tollsplit.services.sponsorship import SessionPolicy

    common = {"account": SPONSOR, "payees": [SHOP]}
    return msgspec.convert({
        "rules": f"{home}/rules.toml", "engine": f"{home}/control", "sponsorships": [
            {"name": "shop", "marks": "tags.marks", "proxies": [PROXIES[0]],
             "behaviours": ["https://shop.example/*"], "tags": ["dscp=46", "dscp=34"],
             "lifetime_s": 900, **common, **more},
            {"name": "gifts", "marks": "addresses.marks", "proxies": list(PROXIES),
             "behaviours": ["gift"], "permissions": ["behaviour"], "credential": False, **common}],
    }, SessionPolicy)  # fmt: skip


def write_rules(home: Path) -> None:
    (home / "rules.toml").write_text(RULES)
    for name in ("tags.marks", "addresses.marks"):
        (home / name).write_text("")
    (home / "subscribers.csv").write_text(
        "prefix,account,valid_from,valid_to\n10.0.0.7/32,alice,,\n10.0.0.8/32,bob,,\n")


class Distribution:
    """The served sessions, their engine, and devices that are registered."""

    def __init__(self, served: Served, home: Path) -> None:
        from tollsplit.services.session import SUBSCRIBE, Subscribe

        self.served = served
        self.home = home
        self.operator = served.device("operator", "operator")
        self.alice = served.device("terminal", "alice")
        self.proxy = served.device("proxy", SPONSOR)
        for who, account, address, identity in (
            (ALICE, "alice", "10.0.0.7", IDENTITY), (BOB, "bob", "10.0.0.8", None)):
            self.operator.call(SUBSCRIBE, Subscribe(who, account, address, identity))

    def ask(
        self, client: Client | None = None, identifier: str = ALICE, behaviour: str = BEHAVIOUR,
        **more: Any,
    ) -> Opened:  # fmt: skip
        from tollsplit.services.session import OPEN, ByBehaviour, Open

        return (client or self.alice).call(
            OPEN, Open(identifier, ByBehaviour(behaviour)), **more)

    def open(self, *more: Any, **others: Any) -> Opened:
        """A session whose mark is in force."""
        opened = self.ask(*more, **others)
        self.served.run_errands()
        assert self.state(opened) == "open"
        return opened

    def state(self, opened: Opened) -> str:
        from tollsplit.services.session import LOOK, Look

        return self.operator.call(LOOK, Look(opened.session)).state

    def end(self, opened: Opened, client: Client | None = None, **more: Any) -> Any:
        from tollsplit.services.session import END, End

        return (client or self.alice).call(END, End(opened.session), **more)

    def permit(self, opened: Opened, client: Client | None = None, **other: Any) -> Any:
        """What a proxy is told of the session's claim, or of another one."""
        from tollsplit.services import secret
        from tollsplit.services.session import PERMIT, Permit

        credential = other.pop("credential", opened.credential)
        claim = {"identifier": ALICE, "source": "10.0.0.7", "preset": opened.proxy.host,
                 "tag": opened.tag or "",
                 "credential_digest": secret.digest(credential) if credential else ""}
        return (client or self.proxy).call(PERMIT, Permit(**(claim | other)))

    def marks(self, file: str = "tags.marks") -> list[str]:
        return (self.home / file).read_text().splitlines()[1:]


@contextmanager
def door(path: Path) -> Iterator[None]:
    """Takes rules as an engine does, at once, and meters nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            with caller, suppress(OSError, ValueError):  # who asks may be killed meanwhile
                asked = json.loads(receive(caller))
                content = {name: base64.b64decode(text)
                           for name, text in asked["content"].items()}
                version = load(asked["path"], content).version
                send(caller, json.dumps(
                    {"rules_version": version, "in_force_ns": time.time_ns()}).encode())

    answering = threading.Thread(target=answer)
    answering.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        answering.join()
        path.unlink()


@contextmanager
def sessions_served(serve: Callable[..., Any], home: Path, **more: Any) -> Iterator[Served]:
    """The session service alone, without an engine."""
    from tollsplit.services import device, session
    from tollsplit.services.sponsorship import SessionPolicy

    write_rules(home)
    settings = {SessionPolicy: policy(home, **more)}
    with serve((device.SERVICE, session.SERVICE), settings=settings) as served:
        yield served


@contextmanager
def distribution(
    serve: Callable[..., Any], home: Path, ledger: str | None = None, **more: Any
) -> Iterator[tuple[Distribution, Running]]:
    """With an engine that runs; it books where there is a ledger."""
    books = {"ledger": ledger, "journal": home / "journal"} if ledger else {"booked": False}
    with sessions_served(serve, home, **more) as served, running(
            home, load(home / "rules.toml"), control=home / "control", **books) as engine:
        yield Distribution(served, home), engine
