"""Streams: notices as they come, by Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from ..ledger.store import Row
from ..limits import SERVICE_STREAM_LOOK_S, SERVICE_STREAMS_MAX, SERVICE_STREAMS_OF_ONE_MAX
from .problem import TOO_MANY, Problem

# The notices of a device after a number; None: the device is not there any more.
Look = Callable[[str, int], Awaitable[list[Row] | None]]


class Streams:
    """The open streams, and how they are woken: from any thread, or from a signal's handler."""

    def __init__(self) -> None:
        self.over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: dict[str, set[asyncio.Event]] = {}
        self._open: Counter[str] = Counter()

    def ring(self, devices: Collection[str]) -> None:
        """Wake the streams of devices that have a new notice."""
        if devices and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, frozenset(devices))

    def close(self) -> None:
        """End all of them at once."""
        self.over = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, None)

    def _wake(self, devices: Collection[str] | None) -> None:
        for device in list(self._events) if devices is None else devices:
            for event in self._events.get(device, ()):
                event.set()

    @property
    def count(self) -> int:
        """How many are open."""
        return self._open.total()

    def expect_room(self, device: str) -> None:
        """Raises Problem where a device, or all of them, have enough streams."""
        if (
            self._open[device] >= SERVICE_STREAMS_OF_ONE_MAX
            or self.count >= SERVICE_STREAMS_MAX
        ):
            raise Problem(TOO_MANY, "too many streams", headers={"Retry-After": "10"})

    async def events(self, device: str, last: int, look: Look) -> AsyncIterator[bytes]:
        """What the stream says: everything after the last notice that the device had."""
        self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._events.setdefault(device, set()).add(event)
        self._open[device] += 1
        try:
            yield b": notices follow\n\n"
            while not self.over:
                event.clear()  # before looking: what comes meanwhile is looked for again
                found = await look(device, last)
                if found is None:
                    return
                for number, kind, about, _ in found:
                    yield f"id: {number}\nevent: {kind}\ndata: {about}\n\n".encode()
                    last = number
                if not found and not await _rung(event):
                    yield b":\n\n"
        finally:
            self._open[device] -= 1
            self._events[device].discard(event)
            if not self._events[device]:
                del self._events[device], self._open[device]


async def _rung(event: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(event.wait(), SERVICE_STREAM_LOOK_S)
    except TimeoutError:
        return False
    return True
