"""What the tests of billing authentication start from: users, terminals, copies of resources."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from bookings import MONEY
from databases import Database
from serving import Served, serving

if TYPE_CHECKING:
    from tollsplit.services.billing_auth import Allowed
    from tollsplit.services.client import Client
    from tollsplit.services.interface import Interface

PRICE = 5_000_000
DAY_S = 24 * 3600


@dataclass
class User:
    """Somebody with a terminal on which a resource is installed."""

    account: str
    terminal: Client
    copy: Client  # the installed resource's own device
    key: Path  # its key's file
    socket: Path  # of the terminal's billing manager


@dataclass
class Arcade:
    """A service, and users who may or may not have paid."""

    served: Served
    operator: Client
    folder: Path
    server_key: str
    names: Iterator[int] = field(default_factory=count)

    def user(self) -> User:
        """A new one, with money and a running billing manager."""
        from tollsplit.ledger import Transfer
        from tollsplit.model import Posting

        number = next(self.names)
        account = f"user {number}"

        def fund(ledger: Any) -> None:
            ledger.open_account(account, MONEY, "subscriber", floor=0)
            ledger.transfer(Transfer(f"top-up {number}", "top-up", (
                Posting(account, MONEY, 10 * PRICE), Posting("bank", MONEY, -10 * PRICE))))

        self.served.write(fund)
        copy = self.served.device("resource", account)
        return User(account, self.served.device("terminal", account), copy,
                    key_file(copy, self.folder / f"{number}.key"), self.folder / f"{number}")

    def resource(self, **more: Any) -> str:
        """A new one that can be bought."""
        from tollsplit.services.resource_register import REGISTER_RESOURCE, RegisterResource

        name = f"game-{next(self.names)}"
        usual: dict[str, Any] = {
            "account": "studio", "amount": PRICE, "unit": MONEY, "period_s": DAY_S}
        self.operator.call(REGISTER_RESOURCE, RegisterResource(resource=name, **{**usual, **more}))
        return name

    def buy(self, user: User, resource: str, amount: int = PRICE) -> None:
        from tollsplit.services.resource_register import BUY, Buy

        user.terminal.call(BUY, Buy(resource=resource, amount=amount, unit=MONEY))

    def interface(self, user: User, resource: str, **more: Any) -> Interface:
        """The resource on the user's terminal."""
        from tollsplit.services.interface import Interface

        usual: dict[str, Any] = {
            "manager": user.socket, "clock_ns": self.served.clock, "retries": 0,
            "server_key": self.server_key}
        return Interface(resource, self.served.origin, user.key, **{**usual, **more})


def key_file(client: Client, path: Path) -> Path:
    """A client's private key, as programs read it."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    assert client.key is not None
    path.touch(0o600)
    path.write_bytes(client.key.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@contextmanager
def managing(user: User, client: Client | None = None) -> Iterator[None]:
    """The user's billing manager runs."""
    from tollsplit.services.billing_terminal import BillingManager

    manager = BillingManager(user.socket, client or user.terminal)
    thread = Thread(target=manager.run)
    thread.start()
    try:
        yield
    finally:
        manager.stop()
        thread.join(20)


@contextmanager
def arcade_on(database: Database, folder: Path) -> Iterator[Arcade]:
    from tollsplit.ledger.signing import make_keys, read_public_key
    from tollsplit.services.billing_auth import Settings

    def open_accounts(ledger: Any) -> None:
        for account in ("studio", "bank"):
            ledger.open_account(account, MONEY, "settlement")

    public = make_keys(folder / "server.key")
    policy = {Settings: Settings(key=str(folder / "server.key"))}
    with serving(database, settings=policy) as served:
        served.write(open_accounts)
        yield Arcade(served, served.device("operator", "operator:staff"), folder,
                     read_public_key(public))  # fmt: skip


@pytest.fixture(scope="module")
def arcade(databases: Callable[[], Database]) -> Iterator[Arcade]:
    """One service for all tests of a module; its sockets have short names."""
    with (
        tempfile.TemporaryDirectory() as folder,
        arcade_on(databases(), Path(folder)) as found,
    ):
        yield found


def line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


@pytest.fixture
def alice(arcade: Arcade) -> User:
    return arcade.user()


@pytest.fixture
def game(arcade: Arcade, alice: User) -> str:
    """A resource that Alice has paid for."""
    name = arcade.resource()
    arcade.buy(alice, name)
    return name



def nonce() -> str:
    """Of one question."""
    return secrets.token_urlsafe(16)


def issued(user: User, game: str, mark: str, **more: Any) -> str:
    """A code, as the user's manager gets it."""
    from tollsplit.services.billing_auth import ISSUE, Issue

    usual = {"resource": game, "operation": "play", "device": user.copy.device, "nonce": mark}
    return user.terminal.call(ISSUE, Issue(**{**usual, **more})).code  # type: ignore[arg-type]


def verify(user: User, game: str, mark: str, code: str, **more: Any) -> Allowed:
    """The server's word on a code, as the resource has it verified."""
    from tollsplit.services.billing_auth import VERIFY, Verify

    usual = {"resource": game, "operation": "play", "nonce": mark, "code": code}
    return user.copy.call(VERIFY, Verify(**{**usual, **more}))
