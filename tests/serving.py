"""A service of one's own: in this process, on loopback, with a clock that tests set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from databases import Database

if TYPE_CHECKING:
    from tollsplit.ledger import Ledger
    from tollsplit.services.client import Client
    from tollsplit.services.operation import Service
    from tollsplit.services.problem import Problem
    from tollsplit.services.role import Role
    from tollsplit.services.server import Server

# For tests to which the database makes no difference.
on_sqlite = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
NOW_NS = 1_795_000_000_000_000_000  # 2026-11-18
SECOND_NS = 1_000_000_000


class Clock:
    """The server's and the clients' time; stands still until it is set forward."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns

    def forward(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND_NS)


def problem_of(work: Callable[..., object], *given: Any, **more: Any) -> Problem:
    """The problem that a call meets."""
    from tollsplit.services.problem import Problem

    with pytest.raises(Problem) as caught:
        work(*given, **more)
    return caught.value


def refused(work: Callable[..., object], *given: Any, **more: Any) -> str:
    """What kind of problem a call meets."""
    return problem_of(work, *given, **more).kind.name


def refusal(work: Callable[..., object], *given: Any, **more: Any) -> tuple[str, int]:
    """The kind and status of the problem that a call meets."""
    kind = problem_of(work, *given, **more).kind
    return kind.name, kind.status


class Served:
    """A running service, and what tests do with it."""

    def __init__(self, database: Database, server: Server, clock: Clock) -> None:
        self.database = database
        self.server = server
        self.clock = clock
        self._clients: list[Client] = []

    @property
    def origin(self) -> str:
        return self.server.address

    def device(self, role: Role = "terminal", account: str = "alice", **more: Any) -> Client:
        """A client with a device of its own, registered as a device registers. more: of Client."""
        from tollsplit.services import device
        from tollsplit.services.signature import DeviceKey

        made = self.write(
            lambda ledger: device.enrol(ledger.store, role, account, self.clock.now_ns))
        key = DeviceKey.new()
        client = self.client(key, **more)
        client.call(device.REGISTER, device.Register(made.token, key.public_key, f"{account}'s"))
        return client

    def client(self, key: Any = None, **more: Any) -> Client:
        """A client by a key that nobody registered, or by none."""
        from tollsplit.services.client import Client

        usual: dict[str, Any] = {"clock_ns": self.clock, "wait": lambda seconds: None}
        self._clients.append(Client(self.origin, key, **{**usual, **more}))
        return self._clients[-1]

    def write(self, work: Callable[[Ledger], Any]) -> Any:
        """Do work on the ledger behind the services' back, in a transaction."""
        return self.server.books.write(work)

    def read(self, work: Callable[[Ledger], Any]) -> Any:
        return self.server.books.read(work)

    def sweep(self) -> None:
        """Let happen what happens by itself every few seconds."""
        self.server.desk.sweep()

    def run_errands(self) -> None:
        """Have done what services do outside the ledger."""
        for service in self.server.options.services:
            if service.errand:
                self.server.desk.run_errand(service)

    def notices(self, client: Client) -> list[tuple[str, dict[str, Any]]]:
        """Kind and content of all that a device was told."""
        import json

        from tollsplit.services import notice

        rows = self.read(lambda ledger: notice.since(ledger.store, client.device, 0))
        return [(kind, json.loads(about)) for _, kind, about, _ in rows]

    def verify(self) -> None:
        """The books balance, the services' tables hold."""
        from tollsplit.services.catalog import annexes

        services = self.server.options.services
        found = self.read(lambda ledger: ledger.verify(annexes=annexes(services)))
        assert found.findings == ()

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextmanager
def serving(
    database: Database, services: tuple[Service, ...] | None = None, **options: Any
) -> Iterator[Served]:
    """Serve on a ledger until the context ends; then the books have to hold.

    services  None: all that there are
    options   of the server
    """
    from argon2 import PasswordHasher

    from tollsplit.ledger import open_ledger
    from tollsplit.services import secret
    from tollsplit.services.catalog import SERVICES
    from tollsplit.services.rate import Rates
    from tollsplit.services.server import Options, Server

    clock = Clock()
    # What makes guessing slow would make tests slow.
    slow, secret.HASHER = secret.HASHER, PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    open_ledger(database.url, clock_ns=clock).close()
    unlimited = Rates(device_per_s=0, address_per_s=0)
    options["settings"] = {Rates: unlimited, **options.get("settings", {})}
    server = Server(Options(
        database.url, port=0, services=SERVICES if services is None else services,
        clock_ns=clock, sweeps=False, **options,
    ))  # fmt: skip
    thread = threading.Thread(target=server.run)
    thread.start()
    served = Served(database, server, clock)
    try:
        yield served
        served.verify()
    finally:
        served.close()
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
        secret.HASHER = slow


@pytest.fixture
def served(database: Database) -> Iterator[Served]:
    """All services on both databases."""
    with serving(database) as served:
        yield served


@pytest.fixture
def serve(database: Database) -> Callable[..., Any]:
    """Makes a context that serves on either database: `with serve((SERVICE,)) as served`."""
    return partial(serving, database)
