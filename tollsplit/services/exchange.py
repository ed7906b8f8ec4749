"""One request passed on and its answer passed back, or one tunnel."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import h11

from ..limits import (
    PROXY_CHUNK_OCTETS,
    PROXY_CONNECT_S,
    PROXY_HEAD_OCTETS_MAX,
    PROXY_IDLE_S,
    PROXY_LINGER_S,
    PROXY_RECHECK_S,
    PROXY_REQUEST_OCTETS_MAX,
)
from ..rules.marks import Tag
from .claim import Payee
from .marking import carry, flowinfo, tagged

Headers = list[tuple[bytes, bytes]]
# Between two neighbours only (RFC 9110 §7.6.1); what "Connection" names comes on top.
HOP_BY_HOP = frozenset((
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-authentication-info", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade", b"expect",
))  # fmt: skip
VIA = b"1.1 tollsplit"


class Refused(Exception):
    """A request that is not passed on. `reason` is for the operator; the asker gets the status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's head, and where it came from.

    path   None: a tunnel is asked for (CONNECT)
    """

    method: bytes
    payee: Payee
    path: bytes | None
    headers: Headers = field(repr=False)
    source: str
    preset: str

    def header(self, name: bytes) -> bytes | None:
        """The header's value; None where there is none, or more than one."""
        found = [value for key, value in self.headers if key == name]
        return found[0] if len(found) == 1 else None


class Place(NamedTuple):
    """Where to connect to: an address, never a name."""

    family: int
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Route:
    """How a request is passed on.

    places          tried one after the other
    label           what events say of it; no secrets
    tag, source     what the way there carries, and the address that it begins at
    answer_dscp     what the way back carries
    authorization   the next one is a proxy, and this is shown to it
    stays           asked now and then whether a tunnel may stay
    """

    places: Sequence[Place]
    label: Mapping[str, object] = field(default_factory=dict)
    tag: Tag | None = None
    source: str | None = None
    answer_dscp: int = 0
    authorization: bytes | None = None
    stays: Callable[[], Awaitable[bool]] | None = None


class Side:
    """One end of a connection: h11 for the words, asyncio for the octets."""

    def __init__(
        self, words: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.words = words
        self.reader = reader
        self.writer = writer

    async def event(self, timeout_s: float = PROXY_IDLE_S) -> Any:
        async with asyncio.timeout(timeout_s):
            while (event := self.words.next_event()) is h11.NEED_DATA:
                if self.words.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                self.words.receive_data(await self.reader.read(PROXY_CHUNK_OCTETS))
        return event

    async def send(self, event: Any) -> None:
        octets = self.words.send(event)
        if octets:
            await self.pour(octets)

    async def pour(self, octets: bytes) -> None:
        async with asyncio.timeout(PROXY_IDLE_S):
            self.writer.write(octets)
            await self.writer.drain()


class Exchange:
    """One request passed on, and its answer passed back."""

    def __init__(
        self, down: Side, asked: Asked, route: Route, event: dict[str, object]
    ) -> None:
        self._down = down
        self._asked = asked
        self._route = route
        self._event = event
        self._up_octets = self._down_octets = 0
        self._said_s = time.monotonic()

    async def run(self) -> None:
        up = await self._connected()
        try:
            carry(self._down.writer.get_extra_info("socket"), self._route.answer_dscp)
            if self._asked.path is None:
                await self._tunnel(up)
            else:
                await self._request(up)
        finally:
            self._event |= {"uplink_octets": self._up_octets,
                            "downlink_octets": self._down_octets}  # fmt: skip
            up.writer.close()
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(up.writer.wait_closed(), PROXY_LINGER_S)

    async def _connected(self) -> Side:
        """A connection to the first place that takes it. Raises Refused."""
        status, reason = 502, "no address"
        for place in self._route.places:
            try:
                connection = tagged(place.family, self._route.tag, place.address)
            except OSError as error:
                raise Refused(502, f"mark: {error.strerror}") from None
            try:
                if self._route.source is not None:
                    connection.bind((self._route.source, 0))
                async with asyncio.timeout(PROXY_CONNECT_S):
                    await asyncio.get_running_loop().sock_connect(
                        connection, _sockaddr(place, self._route.tag))
                reader, writer = await asyncio.open_connection(
                    sock=connection, limit=PROXY_CHUNK_OCTETS)
            except TimeoutError:
                connection.close()
                status, reason = 504, "connect: not in time"
            except OSError as error:
                connection.close()
                status, reason = 502, f"connect: {os.strerror(error.errno or 0)}"
            else:
                return Side(h11.Connection(h11.CLIENT, PROXY_HEAD_OCTETS_MAX), reader, writer)
        raise Refused(status, reason)

    # --- a request ----------------------------------------------------------------------

    async def _request(self, up: Side) -> None:
        asked, route = self._asked, self._route
        target = asked.path or b"/"
        if route.authorization is not None:
            target = b"http://" + _authority(asked.payee, 80) + target
        headers = [(b"Host", _authority(asked.payee, 80)), *_forwardable(asked.headers, b"host"),
                   (b"Via", VIA), (b"Connection", b"close")]  # fmt: skip
        if any(key == b"transfer-encoding" for key, _ in asked.headers):
            headers.append((b"Transfer-Encoding", b"chunked"))
        if route.authorization is not None:
            headers.append((b"Proxy-Authorization", route.authorization))
        await up.send(h11.Request(method=asked.method, target=target, headers=headers))
        body = asyncio.create_task(self._send_body(up))
        answer = asyncio.create_task(self._answer(up))
        try:
            await asyncio.wait([body, answer], return_when=asyncio.FIRST_COMPLETED)
            if body.done() and (error := body.exception()) is not None:
                raise error
            await answer
        finally:
            for task in (body, answer):
                task.cancel()
            await asyncio.gather(body, answer, return_exceptions=True)

    async def _send_body(self, up: Side) -> None:
        """Pass the request's body on. Where the server hangs up, its answer says why."""
        broken = False
        while True:
            try:
                event = await self._down.event()
            except h11.RemoteProtocolError as error:
                raise Refused(error.error_status_hint, "not HTTP") from None
            if isinstance(event, h11.Data):
                self._up_octets += len(event.data)
                if self._up_octets > PROXY_REQUEST_OCTETS_MAX:
                    raise Refused(413, "request too large")
            elif not isinstance(event, h11.EndOfMessage):
                raise ConnectionError("the terminal hung up")
            if not broken:
                try:
                    # Trailers are for neighbours that agreed on them.
                    await up.send(h11.EndOfMessage() if isinstance(event, h11.EndOfMessage)
                                  else event)
                except OSError:
                    broken = True
            if isinstance(event, h11.EndOfMessage):
                return

    async def _answer(self, up: Side) -> None:
        """Pass the answer back. Raises Refused where none comes."""
        begun = False
        try:
            while True:
                event = await up.event()
                if isinstance(event, h11.InformationalResponse):
                    await self._inform(event)
                elif isinstance(event, h11.Response):
                    begun = True
                    self._event["status"] = event.status_code
                    await self._down.send(h11.Response(
                        status_code=event.status_code, reason=event.reason,
                        headers=[*_forwardable(list(event.headers)), (b"Via", VIA)]))
                elif isinstance(event, h11.Data):
                    self._down_octets += len(event.data)
                    await self._down.send(event)
                elif isinstance(event, h11.EndOfMessage):
                    await self._down.send(h11.EndOfMessage())
                    return
                else:
                    raise h11.RemoteProtocolError("no answer")
        except TimeoutError:
            if begun:
                raise
            raise Refused(504, "no answer in time") from None
        except (OSError, h11.ProtocolError):
            if begun:
                raise
            raise Refused(502, "no answer") from None

    async def _inform(self, event: h11.InformationalResponse) -> None:
        # 100 was said already, or not waited for; HTTP/1.0 knows none (RFC 9110 §15.2).
        if event.status_code not in (100, 101) and self._down.words.their_http_version == b"1.1":
            await self._down.send(h11.InformationalResponse(
                status_code=event.status_code, headers=_forwardable(list(event.headers))))

    # --- a tunnel -----------------------------------------------------------------------

    async def _tunnel(self, up: Side) -> None:
        early = b""
        if self._route.authorization is not None:
            early = await self._through(up)
        while not isinstance(await self._down.event(), h11.EndOfMessage | h11.ConnectionClosed):
            pass
        self._event["status"] = 200
        await self._down.send(h11.Response(status_code=200, reason=b"Connected", headers=[]))
        if early:
            self._down_octets += len(early)
            await self._down.pour(early)
        said, _ = self._down.words.trailing_data
        if said:
            self._up_octets += len(said)
            await up.pour(said)
        both = asyncio.gather(self._pump(self._down, up, uplink=True),
                              self._pump(up, self._down, uplink=False))
        watch = asyncio.create_task(self._watch())
        ends: set[asyncio.Future[Any]] = {both, watch}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if both.done():
                await both
            else:
                self._event["reason"] = await watch
        finally:
            both.cancel()
            watch.cancel()
            await asyncio.gather(both, watch, return_exceptions=True)

    async def _through(self, up: Side) -> bytes:
        """Have the next proxy make its part of the tunnel. Returns what came behind its answer.

        Raises Refused with its status.
        """
        authority = _authority(self._asked.payee, 0)
        await up.send(h11.Request(method=b"CONNECT", target=authority, headers=[
            (b"Host", authority), (b"Proxy-Authorization", self._route.authorization or b"")]))
        await up.send(h11.EndOfMessage())
        try:
            while isinstance(event := await up.event(), h11.InformationalResponse):
                pass
        except (OSError, TimeoutError, h11.ProtocolError):
            raise Refused(502, "next proxy: no answer") from None
        if not isinstance(event, h11.Response) or not 200 <= event.status_code < 300:
            status = event.status_code if isinstance(event, h11.Response) else 502
            raise Refused(status, "next proxy refused")
        return bytes(up.words.trailing_data[0])

    async def _pump(self, from_: Side, to: Side, *, uplink: bool) -> None:
        while octets := await from_.reader.read(PROXY_CHUNK_OCTETS):
            self._said_s = time.monotonic()
            if uplink:
                self._up_octets += len(octets)
            else:
                self._down_octets += len(octets)
            await to.pour(octets)
        with suppress(OSError):
            to.writer.write_eof()

    async def _watch(self) -> str:
        """Why the tunnel may stay no longer, as soon as that is so."""
        stays = self._route.stays
        while stays is None or await stays():
            if time.monotonic() - self._said_s > PROXY_IDLE_S:
                return "idle"
            await asyncio.sleep(PROXY_RECHECK_S)
        return "session ended"


def _authority(payee: Payee, default: int) -> bytes:
    host = f"[{payee.host}]" if ":" in payee.host else payee.host
    return (host if payee.port == default else f"{host}:{payee.port}").encode("ascii")


def _forwardable(headers: Headers, *less: bytes) -> Headers:
    """What is not between two neighbours only."""
    named = {word.strip().lower() for key, value in headers if key == b"connection"
             for word in value.split(b",")}  # fmt: skip
    left = HOP_BY_HOP | named | set(less)
    if any(key == b"transfer-encoding" for key, _ in headers):
        left |= {b"content-length"}  # it counts for nothing then (RFC 9112 §6.3)
    return [(key, value) for key, value in headers if key not in left]


def _sockaddr(place: Place, mark: Tag | None) -> tuple[Any, ...]:
    if place.family == socket.AF_INET6:
        return (place.address, place.port, flowinfo(mark), 0)
    return (place.address, place.port)
