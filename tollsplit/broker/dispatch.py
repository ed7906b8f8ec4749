"""From a gateway's journal to a broker: each segment stays on the disk until it is booked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nats.js.errors import NotFoundError

from ..engine.journal import read, set_aside, settle
from ..errors import JournalError, RulesError, UnbookableError
from ..gateway.deliverer import Deliverer, recovered
from ..limits import BROKER_END_S, BROKER_PIECE_OCTETS, BROKER_RESEND_S
from ..model import Event
from ..snapshot import Notice
from .address import Address, connected
from .message import (
    Key,
    Message,
    answer_subject,
    batch_messages,
    digest_of,
    events_message,
    read_answer,
)
from .streams import answers_of

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

# How soon, and at last how seldom, it is asked whether what was sent is booked.
LOOK_S = 0.5
LOOK_MAX_S = 30.0
# What a message has beside its payload.
ENVELOPE_OCTETS = 4096
EVENTS_AT_ONCE = 500
DOUBLINGS_MAX = 5


@dataclass(slots=True)
class _Batch:
    """A segment that the broker is to have."""

    path: Path
    key: Key | None = None  # once it is read
    records: int = 0
    digest: str = ""
    sent_s: float | None = None  # when the broker took it, by the monotonic clock
    sent: int = 0  # how often
    left: bool = False  # by an earlier run, which may have sent it


class Dispatch(Deliverer):
    """Sends sealed segments, and takes them off the disk once an ingester says they are booked.

    leftovers   segments of earlier runs; they come first
    noticed     is told what happens
    source      whose events it sends

    The broker need not be trusted with anything: what it has taken and lost is sent again after
    BROKER_RESEND_S, then after twice as long, and so on; what is sent twice is booked once. It has
    a connection only while there is something to say or to ask, so there is none to go stale.
    """

    def __init__(
        self, address: Address, source: str, leftovers: list[Path],
        noticed: Callable[[Event | Notice], None],
    ) -> None:  # fmt: skip
        super().__init__("dispatch", address.hosts, noticed)
        self._address = address
        self._source = source
        self._batches = [_Batch(path, left=True) for path in leftovers]
        self._look_s = LOOK_S
        self._patient_s = 0.0  # until when a run that ends waits for answers

    @property
    def batches(self) -> int:
        return len(self._batches)

    @property
    def is_through(self) -> bool:
        """Whether the broker has taken all that is there."""
        with self._changed:
            return all(batch.sent_s is not None for batch in self._batches)

    def add(self, path: Path) -> None:
        with self._changed:
            self._batches.append(_Batch(path))
            self._changed.notify()

    def end(self) -> None:
        """Have it end once what is there is booked, soon after the broker has it, or it fails."""
        with self._changed:
            if not self._ending:
                self._patient_s = time.monotonic() + BROKER_END_S
                self._look_s = LOOK_S
        super().end()

    def _run(self) -> None:
        while self._wait():
            try:
                asyncio.run(self._turn())
            except Exception as error:  # whatever a broker does must not end the metering
                if not self._fails(error):
                    return
            else:
                self._succeeds()

    def _wait(self) -> bool:
        """Until there is something to send or to ask; False: nothing more comes."""
        with self._changed:
            while not self._events and self.is_through:
                if self._ending and (not self._batches or time.monotonic() >= self._patient_s):
                    return False
                if not self._batches:
                    self._changed.wait()
                elif not self._changed.wait(self._look_s):
                    break
            return True

    async def _turn(self) -> None:
        """Send what is to be sent, ask what became of the rest."""
        async with connected(self._address, f"tollsplit capture {self._source}") as (
            client, broker
        ):
            while events := tuple(self._events[:EVENTS_AT_ONCE]):
                message = events_message(self._address.stream, self._source, events)
                while len(message.payload) > client.max_payload - ENVELOPE_OCTETS and events[1:]:
                    events = events[: len(events) // 2]
                    message = events_message(self._address.stream, self._source, events)
                await self._send(broker, message)
                del self._events[: len(events)]
            booked = False
            for batch in tuple(self._batches):
                if batch.sent_s is not None or batch.left:
                    booked |= await self._is_over(broker, batch)
                if batch in self._batches and self._is_due(batch):
                    await self._publish(client, broker, batch)
                    booked = True
        self._look_s = LOOK_S if booked else min(2 * self._look_s, LOOK_MAX_S)

    def _is_due(self, batch: _Batch) -> bool:
        if batch.sent_s is None:
            return True
        # Ever more seldom: a long queue must not be made longer, and what is in it not moved on.
        pause_s = BROKER_RESEND_S * (1 << min(batch.sent - 1, DOUBLINGS_MAX))
        return time.monotonic() - batch.sent_s >= pause_s

    async def _publish(self, client: Client, broker: JetStreamContext, batch: _Batch) -> None:
        """Hand a batch to the broker; raises BrokerError where it does not say that it has it."""
        if not self._know(batch):
            self._forget(batch)
            return
        assert batch.key is not None
        piece = min(BROKER_PIECE_OCTETS, max(1, client.max_payload - ENVELOPE_OCTETS))
        try:
            octets = batch.path.read_bytes()
        except FileNotFoundError:  # another run has seen to it
            self._forget(batch)
            return
        try:
            messages = batch_messages(self._address.stream, batch.key, octets, piece)
        except UnbookableError as error:
            self._set_aside(batch, str(error))
            self._forget(batch)
            return
        for message in messages:
            await self._send(broker, message)
        batch.sent_s = time.monotonic()
        batch.sent += 1

    async def _send(self, broker: JetStreamContext, message: Message) -> None:
        await broker.publish(message.subject, message.payload, stream=self._address.stream,
                             headers=dict(message.headers))

    def _know(self, batch: _Batch) -> bool:
        """Know a segment's key, and that nothing changes it any more; whether there is usage.

        Raises JournalError where the disk does not take its last form.
        """
        path = batch.path
        if batch.key is not None:
            return True
        try:
            contents = read(path)
        except (JournalError, RulesError) as error:
            if path.exists():  # if not, another run has seen to it
                self._set_aside(batch, str(error))
            return False
        if contents.records is None and contents.last_ns:
            self._noticed(recovered(path, contents))
        try:
            settle(path, contents)
            batch.digest = digest_of(path.read_bytes())
        except (JournalError, FileNotFoundError):
            if not path.exists():
                return False
            raise
        batch.records = contents.records or 0
        if not batch.records:
            path.unlink(missing_ok=True)
            return False
        head = contents.head
        batch.key = Key(head.source, head.epoch, head.first_sequence)
        return True

    async def _is_over(self, broker: JetStreamContext, batch: _Batch) -> bool:
        """Whether an ingester has said what became of it; it is then no longer ours."""
        if not batch.path.exists() or not self._know(batch):  # or another run has seen to it
            self._forget(batch)
            return True
        assert batch.key is not None
        stream = self._address.stream
        try:
            answer = await broker.get_last_msg(
                answers_of(stream), answer_subject(stream, batch.key), direct=True)
        except NotFoundError:
            return False
        said = read_answer(answer.data or b"")
        if said.digest != batch.digest:
            # Another run may have settled it, too; else it is of something else under the same key.
            batch.digest = digest_of(batch.path.read_bytes())
        if said.digest != batch.digest:
            return False
        if said.refused is not None:
            self._set_aside(batch, f"{batch.path.name}: refused: {said.refused}")
        else:
            self.records += batch.records
            batch.path.unlink(missing_ok=True)
        self._forget(batch)
        return True

    def _set_aside(self, batch: _Batch, why: str) -> None:
        self._notice(f"{why}; it is kept as {set_aside(batch.path)}, and not booked")

    def _forget(self, batch: _Batch) -> None:
        with self._changed:
            self._batches.remove(batch)
