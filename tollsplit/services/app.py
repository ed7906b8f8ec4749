"""The HTTP service: routes to operations, and nothing of what they do."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from anyio import CapacityLimiter, fail_after, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import LedgerError
from ..ledger.store import Row
from ..limits import SERVICE_BODY_OCTETS_MAX, SERVICE_BODY_S, SERVICE_THREADS
from . import problem
from .call_log import log
from .desk import Asking, Desk, Reply
from .figures import Figures
from .openapi import document
from .operation import Operation, Service, Settings
from .problem import (
    MALFORMED,
    MEDIA,
    METHOD,
    NOT_FOUND,
    SLOW,
    TOO_LARGE,
    Kind,
    Problem,
    of_ledger,
)
from .rate import Buckets, Rates, network_of
from .signature import Message, lines
from .stream import Streams

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
KINDS: dict[str, Kind] = {
    kind.name: kind for kind in vars(problem).values() if isinstance(kind, Kind)
}


class App:
    """Serves operations through a desk.

    origins  the addresses that devices know this service by ("https://pay.example"): a request that
             was signed for another service is not taken
    """

    def __init__(
        self, desk: Desk, streams: Streams, figures: Figures, services: Sequence[Service],
        origins: Callable[[], Sequence[str]], settings: Settings,
    ) -> None:  # fmt: skip
        self._desk = desk
        self._streams = streams
        self._figures = figures
        rates = settings[Rates]
        assert isinstance(rates, Rates)
        self._buckets = Buckets(rates.address_per_s, rates.address_burst)
        self._origins = origins
        self._limiter: CapacityLimiter | None = None
        self._kinds = KINDS | {
            kind.name: kind for service in services for operation in service.operations
            for kind in operation.all_refusals
        }  # fmt: skip
        self._description = json.dumps(document(services)).encode()
        routes = [
            Route(operation.path, self._endpoint(operation), methods=[operation.method])
            for service in services for operation in service.operations
        ]
        pages = [page for service in services for page in service.pages]
        self.asgi = Starlette(
            routes=[
                *routes, *pages, Route("/notices/stream", self._stream),
                Route("/problems/{name}", self._problem), Route("/openapi.json", self._described),
                Route("/health", self._healthy),
            ],
            exception_handlers={HTTPException: _refused},
        )

    def _endpoint(self, operation: Operation[Any, Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            begun_s = time.monotonic()
            try:
                asking = await self._asking(request)
                reply: Reply = await self._on_a_thread(self._desk.answer, operation, asking)
            except Problem as refusal:
                reply = Reply.refusing(refusal)
            self._note(operation.name, reply, time.monotonic() - begun_s)
            return _response(reply)

        return endpoint

    def _note(self, operation: str, reply: Reply, took_s: float) -> None:
        self._figures.count(operation, reply.status, reply.refusal, took_s)
        log.info("call", extra={
            "operation": operation, "status": reply.status, "refusal": reply.refusal,
            "device": reply.device, "took_ms": round(took_s * 1000, 1),
        })  # fmt: skip

    async def _on_a_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if self._limiter is None:
            self._limiter = CapacityLimiter(SERVICE_THREADS)
        return await to_thread.run_sync(work, *arguments, limiter=self._limiter)

    async def _asking(self, request: Request) -> Asking:
        if request.client is not None:
            self._buckets.take(network_of(request.client.host))
        body = await _body(request)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json":
            raise MEDIA("expected Content-Type: application/json")
        names = [name for name, _ in request.query_params.multi_items()]
        if len(names) != len(set(names)):
            raise MALFORMED("expected each name once in the query")
        return Asking(
            Message(request.method, self._url(request), lines(request.headers.raw)),
            request.path_params, dict(request.query_params), body,
            request.headers.get("idempotency-key"),
        )  # fmt: skip

    def _url(self, request: Request) -> str:
        """The URL as the caller had it. Behind a proxy that ends TLS the scheme is another."""
        host = request.headers.get("host", "").lower()
        for origin in self._origins():
            if origin.partition("://")[2] == host:
                target = request.scope["raw_path"].decode("latin-1")
                query = request.scope["query_string"].decode("latin-1")
                return f"{origin}{target}{query and f'?{query}'}"
        raise MALFORMED("this service is not known by that Host")

    async def _stream(self, request: Request) -> Response:
        """A device's notices as they come."""
        try:
            asking = await self._asking(request)
            last = request.headers.get("last-event-id", "0")
            if not (last.isascii() and last.isdecimal() and len(last) < 19):
                raise MALFORMED("Last-Event-ID: expected a notice's number")
            who = await self._on_a_thread(self._desk.device_of, asking)
            self._streams.expect_room(who.id)
        except Problem as refusal:
            return _response(Reply.refusing(refusal))
        except LedgerError as error:
            return _response(Reply.refusing(of_ledger(error)))
        events = self._streams.events(who.id, int(last), self._look)
        return StreamingResponse(events, headers=HEADERS, media_type="text/event-stream")

    async def _look(self, device: str, last: int) -> list[Row] | None:
        try:
            found: list[Row] | None = await self._on_a_thread(self._desk.told, device, last)
        except LedgerError as error:
            log.warning("stream", extra={"what": str(error)})
            return None  # the device comes again
        return found

    async def _healthy(self, request: Request) -> Response:
        """Whether calls can be answered: the ledger is there, and takes what is written."""
        try:
            await self._asking(request)
            await self._on_a_thread(self._desk.expect_ledger)
        except Problem as refusal:
            return _response(Reply.refusing(refusal))
        return _response(Reply(200, "application/json", b'{"status":"up"}'))

    async def _described(self, request: Request) -> Response:
        return Response(self._description, headers=HEADERS, media_type="application/json")

    async def _problem(self, request: Request) -> Response:
        """What a problem's type leads to."""
        kind = self._kinds.get(request.path_params["name"])
        if kind is None:
            return _response(Reply.refusing(NOT_FOUND("no such kind of problem")))
        return PlainTextResponse(f"{kind.title} (status {kind.status})\n", headers=HEADERS)


async def _body(request: Request) -> bytes:
    octets = bytearray()
    try:
        with fail_after(SERVICE_BODY_S):
            async for chunk in request.stream():
                octets += chunk
                if len(octets) > SERVICE_BODY_OCTETS_MAX:
                    raise TOO_LARGE(f"expected at most {SERVICE_BODY_OCTETS_MAX} octets")
    except TimeoutError:
        raise SLOW(f"expected all of it within {SERVICE_BODY_S:g} s") from None
    return bytes(octets)


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, {**HEADERS, **reply.headers}, reply.media_type)


async def _refused(request: Request, error: Exception) -> Response:
    """What no route takes."""
    assert isinstance(error, HTTPException)
    kind = {404: NOT_FOUND, 405: METHOD}.get(error.status_code, MALFORMED)
    refusal = Problem(kind, "look at /openapi.json", headers=error.headers or {})
    return _response(Reply.refusing(refusal))
