"""The parties of a sponsored session, on the loopback interface."""

from __future__ import annotations

import asyncio
import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tollsplit.rules.marks import Tag
from tollsplit.services.claim import Claim, Grant, Payee
from tollsplit.services.exchange import Place
from tollsplit.services.proxy import Proxy

T = TypeVar("T")
HOME = "127.0.0.1"
INSIDE = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]
TAG = Tag("dscp", 46)
ALICE = "address:127.0.0.1"
CREDENTIAL = "dG9wLXNlY3JldA"


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T], timeout_s: float = 20) -> T:
        async def done() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(timeout_s)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


@dataclass
class PaymentServer:
    """Answers every request, and remembers it: (method, path, headers, body)."""

    port: int
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def payment_server(
    answer: Mapping[str, tuple[int, dict[str, str], bytes]] | None = None, address: str = HOME
) -> Iterator[PaymentServer]:
    """answer   path → status, headers, body; others get 200 and "paid" """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self._body()
            headers = {name: ", ".join(self.headers.get_all(name, [])) for name in self.headers}
            found.seen.append((self.command, self.path, headers, body))
            status, more, content = (answer or {}).get(
                self.path, (200, {"Content-Type": "text/plain"}, b"paid"))
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            if status != 204 and not {"Content-Length", "Transfer-Encoding"} & more.keys():
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_HEAD = do_PUT = handle_any

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *values: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def handle_error(self, *values: object) -> None:
            pass  # whoever hangs up does so on purpose

    server = Server((address, 0), Handler)
    found = PaymentServer(server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


class Register:
    """A distribution server that knows claims by heart, and remembers who asked."""

    def __init__(self, *payees: Payee, tag: Tag | None = TAG) -> None:
        self.good = {(ALICE, tag, CREDENTIAL): Grant("s-1", "shop-co", frozenset(payees), tag)}
        self.asked: list[Claim] = []

    async def permits(self, claim: Claim) -> Grant | None:
        self.asked.append(claim)
        grant = self.good.get((claim.identifier, claim.tag, claim.credential))
        if claim.identifier != f"address:{claim.source}":
            return None
        return grant


class Names:
    """A resolver: what names lead to, in turn where they have several answers."""

    def __init__(self, **names: str | list[str]) -> None:
        self.names = {name.replace("_", "."): found for name, found in names.items()}
        self.asked: list[str] = []

    async def __call__(self, payee: Payee) -> Sequence[Place]:
        self.asked.append(payee.host)
        found = self.names.get(payee.host, [])
        address = found if isinstance(found, str) else found.pop(0) if found else ""
        if not address:
            raise OSError("no such name")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [Place(family, address, payee.port)]


@dataclass
class Running:
    """A proxy that listens, and what it told."""

    proxy: Proxy
    port: int
    told: list[Mapping[str, object]]
    loop: Loop

    def events(self, count: int) -> list[Mapping[str, object]]:
        """What it told, once it is so many: a client may have its answer before."""
        end = time.monotonic() + 10
        while len(self.told) < count:
            assert time.monotonic() < end, f"{count} events expected, there are {self.told}"
            time.sleep(0.002)
        return self.told


@contextmanager
def running_proxy(
    permits: Any, resolve: Callable[..., Any], listens: str = HOME, flow_labels: bool = False,
    **options: Any,
) -> Iterator[Running]:
    loop = Loop()
    told: list[Mapping[str, object]] = []
    proxy = Proxy(permits, told.append, resolve=resolve, **({"inside": INSIDE} | options))
    try:
        loop.run(proxy.listen([(listens, 0)], flow_labels=flow_labels))
        yield Running(proxy, proxy.places[0][1], told, loop)
    finally:
        loop.run(proxy.close())
        loop.close()


def claim(**other: Any) -> bytes:
    values: dict[str, Any] = {"identifier": ALICE, "tag": TAG, "credential": CREDENTIAL}
    return Claim(**(values | other)).header()


def said(port: int, octets: bytes, address: str = HOME, source: str | None = None) -> bytes:
    """What is answered to some octets until the other side hangs up."""
    start = (source, 0) if source else None
    with socket.create_connection((address, port), 20, start) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(octets)
        return drained(connection)


def drained(connection: socket.socket) -> bytes:
    found = bytearray()
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return bytes(found)


def request(
    target: str, method: str = "GET", shown: bytes | None = None, *more: str, body: str = ""
) -> bytes:
    """A request to a proxy, the last one on its connection."""
    lines = [f"{method} {target} HTTP/1.1", "Host: whatever.example", "Connection: close", *more]
    if shown is not None:
        lines.append(f"Proxy-Authorization: {shown.decode('latin-1')}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0
