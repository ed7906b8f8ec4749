"""`tollsplit serve`: the services on a socket, from start to stop."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import uvicorn

from ..errors import TollsplitError, UsageError
from ..ledger import Ledger, open_ledger
from ..limits import SERVICE_LEDGER_WAIT_S, SERVICE_STOP_S, SERVICE_SWEEP_S
from .app import App
from .books import Books
from .catalog import SERVICES, annexes
from .desk import Desk
from .figures import Figures
from .operation import Service, Settings
from .rate import Rates
from .stream import Streams


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve."""

    ledger: str  # its URL
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any that is free
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False  # listen beyond loopback without TLS
    # Further addresses by which devices know this service, where a proxy stands before it.
    origins: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict)
    services: tuple[Service, ...] = SERVICES
    clock_ns: Callable[[], int] = time.time_ns
    wait_s: float = SERVICE_LEDGER_WAIT_S  # for a locked ledger
    sweeps: bool = True  # False: whoever made it sweeps and runs errands


class Server:
    """The services, listening from its making on. `run` serves until `stop` is called."""

    def __init__(self, options: Options) -> None:
        """Raises UsageError, LedgerError, or TollsplitError where the address is not to be had."""
        _expect_safe(options)
        self.options = options
        self._over = Event()
        self.books = Books(partial(_open, options))
        try:
            self.books.write(lambda ledger: ledger.define(annexes(options.services)))
            self._socket = _listen(options)
        except BaseException:
            self.books.close()
            raise
        settings = {**defaults(options.services), **options.settings}
        self._streams = Streams()
        self.desk = Desk(
            self.books, options.services, settings, options.clock_ns, self._streams.ring)
        self.figures = Figures(lambda: self._streams.count)
        self.app = App(self.desk, self._streams, self.figures, options.services,
                       lambda: self.origins, settings)  # fmt: skip
        self._uvicorn = _Uvicorn(uvicorn.Config(
            self.app.asgi, log_config=None, access_log=False, server_header=False, lifespan="off",
            proxy_headers=False, timeout_graceful_shutdown=SERVICE_STOP_S, ws="none",
            ssl_certfile=options.tls_certificate, ssl_keyfile=options.tls_key,
        ))  # fmt: skip

    @property
    def origins(self) -> tuple[str, ...]:
        """Every address by which devices may know this service."""
        scheme = "https" if self.options.tls_certificate else "http"
        port = self._socket.getsockname()[1]
        host = self.options.host
        names = {f"[{host}]" if ":" in host else host}
        if _is_loopback(host):
            names.add("localhost")
        return (*self.options.origins, *(f"{scheme}://{name}:{port}" for name in sorted(names)))

    @property
    def address(self) -> str:
        """The first of its own."""
        return self.origins[len(self.options.origins)]

    def run(self) -> None:
        """Serve until stopped, then finish what was begun."""
        others = [Thread(target=self._sweep, name="sweeper", daemon=True)]
        others += [Thread(target=self._run_errands, args=(service,), name=service.name, daemon=True)
                   for service in self.options.services if service.errand]
        if not self.options.sweeps:
            others = []
        for thread in others:
            thread.start()
        try:
            self._uvicorn.run([self._socket])
        finally:
            self._over.set()
            for due in self.desk.due.values():
                due.set()
            for thread in others:
                thread.join()
            self._socket.close()
            self.books.close()

    def stop(self) -> None:
        """Take no more calls and end; may be called from a signal's handler, or another thread."""
        self._over.set()
        self._streams.close()
        self._uvicorn.should_exit = True

    def _run_errands(self, service: Service) -> None:
        due = self.desk.due[service.name]
        while not self._over.is_set():
            due.clear()
            self.desk.run_errand(service)
            due.wait(SERVICE_SWEEP_S)

    def _sweep(self) -> None:
        while True:
            self.desk.sweep()
            if self._over.wait(SERVICE_SWEEP_S):
                return


class _Uvicorn(uvicorn.Server):
    """Signals are its caller's."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _open(options: Options) -> Ledger:
    return open_ledger(options.ledger, create=False, wait_s=options.wait_s,
                       clock_ns=options.clock_ns)  # fmt: skip


def defaults(services: Sequence[Service]) -> dict[type[msgspec.Struct], msgspec.Struct]:
    """What services are set to where nobody set anything."""
    return {kind: kind() for kind in _kinds(services).values()}


def _kinds(services: Sequence[Service]) -> dict[str, type[msgspec.Struct]]:
    """What can be set, by the names of the tables that set it."""
    own = {service.name: service.settings for service in services if service.settings}
    return {"rates": Rates, **own}


def read_settings(
    path: Path, services: Sequence[Service] = SERVICES
) -> dict[type[msgspec.Struct], msgspec.Struct]:
    """What a file sets: TOML, a table for each service. Raises UsageError."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: expected TOML, a table for each service: {error}") from error
    kinds = _kinds(services)
    settings = {}
    for name, table in found.items():
        kind = kinds.get(name)
        if kind is None:
            raise UsageError(f"{path}: [{name}]: expected one of {', '.join(sorted(kinds))}")
        try:
            settings[kind] = msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            raise UsageError(f"{path}: [{name}]: {error}") from error
    return settings


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "::1", "localhost") or host.startswith("127.")


def _expect_safe(options: Options) -> None:
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise UsageError("TLS needs both a certificate and its key")
    if options.tls_certificate and options.tls_key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                options.tls_certificate, options.tls_key)
        except OSError as error:  # ssl.SSLError too
            raise UsageError(
                f"{options.tls_certificate}, {options.tls_key}: expected a certificate and its key "
                f"in PEM: {error.strerror or error}"
            ) from error
    if options.host in ("0.0.0.0", "::") and not options.origins:
        raise UsageError(f"{options.host}: is no address that devices know the service by; give "
                         "those that they do with --origin")  # fmt: skip
    if not (_is_loopback(options.host) or options.tls_certificate or options.insecure):
        raise UsageError(
            f"{options.host}: is reached from other machines, and without TLS they can be listened "
            "to: give --tls-cert and --tls-key, or insist with --insecure-listen"
        )


def _listen(options: Options) -> socket.socket:
    try:
        return socket.create_server(
            (options.host, options.port), backlog=1024,
            family=socket.AF_INET6 if ":" in options.host else socket.AF_INET,
        )  # fmt: skip
    except OSError as error:
        raise TollsplitError(
            f"{options.host}:{options.port}: cannot be listened on: {error.strerror or error}"
        ) from error
