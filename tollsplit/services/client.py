"""The devices' side: a typed client that signs, and asks again under the same key."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2
import msgspec

from ..errors import TollsplitError
from ..limits import SERVICE_RETRIES, SERVICE_RETRY_S_MAX
from .operation import Asked, Operation, Told
from .problem import Kind, Problem
from .signature import DeviceKey, Message
from .wire import new_id


class UnreachableError(TollsplitError):
    """The service does not answer; what was asked may have been done: ask again under its key."""


class Notice(NamedTuple):
    """What a device was told."""

    number: int
    kind: str
    about: str  # JSON

    def read(self, kind: type[Told]) -> Told:
        """What it is about, as the service says that gives it."""
        return msgspec.json.decode(self.about, type=kind)


class Client:
    """Calls operations of a service for one device.

    origin    the service's address, "https://pay.example"
    key       the device's; None: for operations that anybody may call
    clock_ns  what signatures are dated by
    wait      seconds pass while it is called
    verify    certificates that are trusted: True, the system's; a path, that file's
    """

    def __init__(
        self, origin: str, key: DeviceKey | None = None, *,
        clock_ns: Callable[[], int] = time.time_ns, wait: Callable[[float], None] = time.sleep,
        timeout_s: float = 30.0, retries: int = SERVICE_RETRIES, verify: Any = True,
    ) -> None:  # fmt: skip
        self.origin = origin.rstrip("/")
        self.key = key
        self.clock_ns = clock_ns
        self._wait = wait
        self._retries = retries
        # What the environment says of proxies is not meant for a terminal's own service.
        self.http = httpx2.Client(timeout=timeout_s, verify=verify, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    @property
    def device(self) -> str:
        """The id of its device."""
        assert self.key is not None
        return self.key.device

    def call(
        self, operation: Operation[Asked, Told], asked: Asked, *, key: str | None = None
    ) -> Told:
        """Ask, and ask again where no answer comes: under one key it is done once.

        key  the Idempotency-Key; None: a new one

        Raises Problem where it is refused, UnreachableError.
        """
        key = key or new_id()
        delay_s = 0.1
        for attempt in range(self._retries + 1):
            try:
                response = self.http.send(self.request(operation, asked, key))
                refusal = _refusal(response)
                if refusal is None:
                    return msgspec.json.decode(response.content, type=operation.told)
                if refusal.kind.name not in _AGAIN or attempt == self._retries:
                    raise refusal
                delay_s = max(delay_s, float(refusal.headers.get("retry-after", 0)))
            except httpx2.TransportError as error:
                if attempt == self._retries:
                    raise self._unreachable(error) from error
            except msgspec.MsgspecError as error:
                raise UnreachableError(f"{self.origin}: not an answer of tollsplit: {error}"
                                       ) from error  # fmt: skip
            self._wait(min(delay_s, SERVICE_RETRY_S_MAX) * random.uniform(0.5, 1.0))
            delay_s *= 2
        raise AssertionError("the last attempt answers or raises")

    def request(
        self, operation: Operation[Asked, Any], asked: Asked, key: str | None = None
    ) -> httpx2.Request:
        """A request as it is sent, signed where there is a key."""
        given = msgspec.to_builtins(asked)
        path = operation.path.format(**{name: given.pop(name) for name in operation.path_names})
        headers = {"Accept": "application/json"}
        if not operation.changes:
            query = {name: value for name, value in given.items() if value is not None}
            request = self.http.build_request("GET", self.origin + path, params=query or None,
                                              headers=headers)  # fmt: skip
            self.sign(request, b"")
            return request
        body = msgspec.json.encode(given)
        headers |= {"Content-Type": "application/json", "Idempotency-Key": key or new_id()}
        request = self.http.build_request("POST", self.origin + path, content=body, headers=headers)
        self.sign(request, body)
        return request

    def notices(self, after: int = 0) -> Iterator[Notice]:
        """What the device is told after a notice that it has, and whatever it is told from then
        on; connects again where the connection is lost.

        Raises Problem where it is refused, UnreachableError where nobody has ever answered.
        """
        delay_s, lost, reached = 0.1, 0, False
        while True:
            try:
                with self._listen(after) as events:
                    reached = True
                    for event in events:
                        after, delay_s = int(event.id), 0.1
                        yield Notice(after, event.event, event.data)
            except httpx2.TransportError as error:
                lost += 1
                if not reached and lost > self._retries:
                    raise self._unreachable(error) from error
            self._wait(min(delay_s, SERVICE_RETRY_S_MAX) * random.uniform(0.5, 1.0))
            delay_s *= 2

    @contextmanager
    def _listen(self, after: int) -> Iterator[Iterable[httpx2.ServerSentEvent]]:
        """A stream's events; none where it is to be asked for again."""
        request = self.http.build_request(
            "GET", f"{self.origin}/notices/stream",
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(after)},
        )  # fmt: skip
        self.sign(request, b"")
        response = self.http.send(request, stream=True)
        try:
            if response.status_code >= 400:
                response.read()
                refusal = _refusal(response)
                assert refusal is not None
                if refusal.kind.name not in _AGAIN:
                    raise refusal
                yield ()
            else:
                yield httpx2.EventSource(response)
        finally:
            response.close()

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(f"{self.origin}: {error or type(error).__name__}; is `tollsplit "
                                "serve` running there?")  # fmt: skip

    def sign(self, request: httpx2.Request, body: bytes) -> None:
        if self.key is not None:
            message = Message(request.method, str(request.url), request.headers)
            self.key.sign(message, body, self.clock_ns())


# Refusals that another attempt under the same key may not meet.
_AGAIN = {"key-in-progress", "unavailable", "too-many-requests"}


def _refusal(response: httpx2.Response) -> Problem | None:
    """The problem that an answer is; None: it is none."""
    if response.status_code < 400:
        return None
    try:
        found = msgspec.json.decode(response.content, type=dict[str, Any])
        kind = Kind(str(found.pop("type")).rpartition("/")[2], response.status_code,
                    str(found.pop("title")))  # fmt: skip
        detail = str(found.pop("detail", ""))
    except (msgspec.DecodeError, KeyError) as error:
        raise UnreachableError(
            f"{response.url}: answered {response.status_code}, and not as tollsplit does"
        ) from error
    found.pop("status", None)
    return Problem(kind, detail, found, {k.lower(): v for k, v in response.headers.items()})
