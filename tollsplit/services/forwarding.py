"""An HTTP/1.1 forwarder: requests come in, are passed on where a route says, answers go back.

Both ends of a sponsored session are one: the terminal's, which the browser asks, and the sponsor's
proxy, which the terminal asks. They differ in their routes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import h11

from ..errors import UsageError
from ..limits import (
    PROXY_CHUNK_OCTETS,
    PROXY_CONNECTIONS_MAX,
    PROXY_CONNECTIONS_OF_ONE_MAX,
    PROXY_EXCHANGE_S,
    PROXY_HEAD_OCTETS_MAX,
    PROXY_HEAD_S,
    PROXY_LINGER_S,
)
from .claim import Payee
from .exchange import Asked, Exchange, Refused, Route, Side
from .marking import carry

Told = Callable[[Mapping[str, object]], None]
PHRASES = {400: "Bad Request", 403: "Forbidden", 408: "Request Timeout",
           413: "Content Too Large", 431: "Request Header Fields Too Large",
           502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}  # fmt: skip


class Forwarder:
    """Listens, and passes on what `route` does not refuse.

    route   where a request goes; raises Refused
    told    is given what happens, as plain values without secrets
    """

    def __init__(self, route: Callable[[Asked], Awaitable[Route]], told: Told) -> None:
        self._route = route
        self._told = told
        self._servers: list[asyncio.Server] = []
        self._open: dict[asyncio.Task[None], str] = {}

    async def listen(self, listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            self._servers.append(await asyncio.start_server(
                self._accepted, sock=listener, limit=PROXY_CHUNK_OCTETS))

    async def close(self, patience_s: float = 0.0) -> None:
        """Take no more connections, and end those that are open, after some patience."""
        for server in self._servers:
            server.close()
        tasks = list(self._open)
        if tasks and patience_s:
            await asyncio.wait(tasks, timeout=patience_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = _address(writer.get_extra_info("peername"))
        of_one = sum(other == source for other in self._open.values())
        task = asyncio.create_task(self._serve(_Downstream(reader, writer, source), of_one))
        self._open[task] = source
        task.add_done_callback(self._open.pop)

    async def _serve(self, down: _Downstream, of_one: int) -> None:
        """One connection; `of_one` others are its source's."""
        try:
            if len(self._open) > PROXY_CONNECTIONS_MAX or of_one >= PROXY_CONNECTIONS_OF_ONE_MAX:
                refused = Refused(503, "too many connections")
                self._told({"event": "refused", "source": down.source, "status": refused.status,
                            "reason": refused.reason})  # fmt: skip
                await down.refuse(refused)
            else:
                await self._converse(down)
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # of the connection nothing is left to be told
        finally:
            down.writer.close()
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(down.writer.wait_closed(), PROXY_LINGER_S)

    async def _converse(self, down: _Downstream) -> None:
        """One request after the other, as long as both sides keep the connection."""
        while True:
            since_s = time.monotonic()
            event: dict[str, object] = {"source": down.source}
            try:
                asked = await down.asked()
                if asked is None:
                    return
                event |= {"method": asked.method.decode("ascii", "replace"),
                          "payee": f"{asked.payee.host}:{asked.payee.port}"}
                route = await self._route(asked)
                event |= route.label
                async with asyncio.timeout(PROXY_EXCHANGE_S):
                    await Exchange(down, asked, route, event).run()
                event["event"] = "answered"
            except Refused as refused:
                event |= {"event": "refused", "status": refused.status, "reason": refused.reason}
                self._tell(event, since_s)
                await down.refuse(refused)
                return
            except (OSError, TimeoutError, h11.ProtocolError) as error:
                event |= {"event": "broken", "reason": type(error).__name__}
                self._tell(event, since_s)
                raise
            self._tell(event, since_s)
            if not down.next():
                return

    def _tell(self, event: dict[str, object], since_s: float) -> None:
        self._told(event | {"elapsed_ms": round((time.monotonic() - since_s) * 1000)})


class _Downstream(Side):
    """Who asks."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str
    ) -> None:
        super().__init__(h11.Connection(h11.SERVER, PROXY_HEAD_OCTETS_MAX), reader, writer)
        self.source = source
        self.preset = _address(writer.get_extra_info("sockname"))
        self._socket: socket.socket = writer.get_extra_info("socket")

    async def asked(self) -> Asked | None:
        """The next request; None where there is none. Raises Refused."""
        try:
            event = await self.event(PROXY_HEAD_S)
        except TimeoutError:
            if not self.words.trailing_data[0]:
                return None  # it said nothing
            raise Refused(408, "head not in time") from None
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint, "not HTTP") from None
        if not isinstance(event, h11.Request):
            return None
        headers = [(bytes(key), bytes(value)) for key, value in event.headers]
        payee, path = _target(event.method, event.target)
        return Asked(event.method, payee, path, headers, self.source, self.preset)

    def carry(self, dscp: int) -> None:
        carry(self._socket, dscp)

    async def refuse(self, refused: Refused) -> None:
        """Say so, where nothing was said yet. What is refused is not marked."""
        with suppress(OSError):
            self.carry(0)
        if self.words.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise OSError("too late to refuse")
        phrase = PHRASES.get(refused.status, "Refused")
        body = json.dumps({"type": "about:blank", "title": phrase, "status": refused.status})
        await self.send(h11.Response(
            status_code=refused.status, reason=phrase.encode(), headers=[
                ("Content-Type", "application/problem+json"),
                ("Content-Length", str(len(body))), ("Connection", "close")]))  # fmt: skip
        await self.send(h11.Data(data=body.encode()))
        await self.send(h11.EndOfMessage())
        await self._linger()

    async def _linger(self) -> None:
        """Read what still comes: closing before would make the other side lose the answer."""
        with suppress(TimeoutError, OSError):
            self.writer.write_eof()
            async with asyncio.timeout(PROXY_LINGER_S):
                while await self.reader.read(PROXY_CHUNK_OCTETS):
                    pass

    def next(self) -> bool:
        """Whether another request may follow on this connection."""
        if self.words.our_state is not h11.DONE or self.words.their_state is not h11.DONE:
            return False
        self.words.start_next_cycle()
        return True


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(128)
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        cause = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{address}: port {port} cannot be listened on: {cause}") from error
    return listener


def _target(method: bytes, target: bytes) -> tuple[Payee, bytes | None]:
    """Whom a request is for, and its path there. Raises Refused: a proxy serves nothing itself."""
    try:
        text = target.decode("ascii")
        parts = urlsplit(f"//{text}" if method == b"CONNECT" else text)
        port = parts.port
    except ValueError:
        raise Refused(400, "target") from None
    host = (parts.hostname or "").rstrip(".")
    if not host or parts.username is not None or parts.password is not None:
        raise Refused(400, "target")
    if method == b"CONNECT":
        if port is None or parts.path or parts.query or parts.fragment:
            raise Refused(400, "target")
        return Payee(host, port), None
    if parts.scheme != "http" or parts.fragment:
        raise Refused(400, "target")
    path = text.split("://", 1)[1]
    path = path[min((path.find(c) for c in "/?" if c in path), default=len(path)):]
    return Payee(host, port or 80), (path if path.startswith("/") else f"/{path}").encode()


def _address(name: tuple[Any, ...]) -> str:
    """The address of a socket's name, an IPv4 one as such."""
    return str(name[0]).removeprefix("::ffff:")
