"""From a broker into the ledger: what was sent is booked once, and confirmed after its COMMIT."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import nats.errors
from nats.js.errors import NotFoundError

from ..engine.journal import read_octets
from ..errors import (
    BrokerError,
    IdentityError,
    JournalError,
    LedgerError,
    RulesError,
    StaleError,
    UnbookableError,
)
from ..gateway.booking import book
from ..ledger import Ledger, open_ledger
from ..limits import BROKER_BATCH_OCTETS_MAX, BROKER_SILENT_S, BROKER_WAIT_S
from .address import Address, connected
from .message import (
    BATCH,
    MESSAGE_ID,
    REFUSED,
    SUBJECT,
    Answer,
    Key,
    Post,
    answer_payload,
    own_headers,
    read_answer,
    read_events,
    read_post,
    refused_subject,
    token,
    unpack,
)
from .streams import CONSUMER, answers_of, refused_of

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

_Answer = TypeVar("_Answer")

RETRY_S = 1.0
RETRY_MAX_S = 30.0
# How long a broker with nothing to hand out is waited for, before it is asked again.
FETCH_S = 1.0
DRAIN_S = 0.1  # the same where it ends once there is nothing
REASON_MAX = 1000  # characters of a header
HEADER_MAX = 100  # of one that a sender has written, and more than the broker's client adds
HEAD = {"source": str, "epoch": str, "program": str, "first_sequence": int, "trust_ip_length": bool}
# What octets that anybody can send may raise where they are read.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
             struct.error)


class PartsLostError(UnbookableError):
    """The broker has lost parts of a batch. Its gateway has it still, and sends it again."""


@dataclass(slots=True)
class Figures:
    """What an ingester has done."""

    batches: int = 0  # booked
    records: int = 0
    known: int = 0  # batches that were booked before
    events: int = 0
    refused: int = 0
    waiting: int = 0  # in the broker, when it was last asked
    trouble: str | None = None  # why nothing is booked at present
    epochs: set[tuple[str, str]] = field(default_factory=set)  # source and epoch of batches


class Ingester:
    """Books what a broker hands out, one batch after the other, until stop().

    address   of the broker, whose streams are there
    url       of the ledger
    told      is told what a person should read
    """

    def __init__(self, address: Address, url: str, told: Callable[[str], None]) -> None:
        self.figures = Figures()
        self._address = address
        self._url = url
        self._told = told
        self._ledger: Ledger | None = None
        self._message_octets_max = 0  # headers included; the broker says it
        # The ledger's own thread: whoever speaks to the broker must not wait for a database.
        self._booking = ThreadPoolExecutor(1, thread_name_prefix="booking")
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Have it end when the batch that it works on is booked."""
        self._stopping.set()

    async def run(self, until_empty: bool = False) -> None:
        """Book until stop(), or until the broker has nothing left.

        Raises BrokerError, LedgerError where it ends while they take nothing; UsageError.
        """
        pause_s = RETRY_S
        try:
            while not self._stopping.is_set():
                try:
                    async with connected(self._address, "tollsplit ingest") as (client, broker):
                        self._message_octets_max = client.max_payload
                        await self._consume(broker, until_empty)
                    return
                except BrokerError as error:
                    if until_empty:
                        raise
                    if self.figures.trouble is None:
                        pause_s = RETRY_S
                    self._is_troubled(error)
                    if await self._pause(pause_s):
                        raise
                pause_s = min(2 * pause_s, RETRY_MAX_S)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._booking, self._close)
            self._booking.shutdown()

    async def _consume(self, broker: JetStreamContext, until_empty: bool) -> None:
        stream = self._address.stream
        waiting = await broker.pull_subscribe_bind(CONSUMER, stream)
        while not self._stopping.is_set():
            found = await waiting.consumer_info()  # raises where the broker has gone
            self.figures.waiting = found.num_pending or 0
            self._is_well(self._address.hosts)
            if until_empty and not (found.num_pending or found.num_ack_pending):
                return
            try:
                [message] = await waiting.fetch(
                    1, timeout=min(FETCH_S, DRAIN_S) if until_empty else FETCH_S)
            except nats.errors.TimeoutError:
                continue
            async with _spoken_up(message):
                await self._take(broker, message)

    async def _take(self, broker: JetStreamContext, message: Msg) -> None:
        """Book a message, confirm it, and only then let the broker forget it."""
        stream = self._address.stream
        post: Post | None = None
        refused: str | None = None
        is_final = True
        try:
            post = read_post(stream, message.subject, message.headers)
            if post.kind == BATCH:
                await self._book(broker, message, post)
            else:
                events = read_events(post, message.data)
                self.figures.events += await self._do(
                    lambda ledger: ledger.record_events(events))
        except (UnbookableError, IdentityError, RulesError, JournalError) as error:
            refused = _shown(str(error))
            is_final = not isinstance(error, PartsLostError)
            self.figures.refused += 1
            self._told(f"{_shown(message.subject)}: refused: {refused}; it is kept in the broker")
            await self._keep(broker, message, post.source if post else "unknown", refused)
        if post is not None and post.kind == BATCH and is_final:
            await broker.publish(post.answer_subject(stream),
                                 answer_payload(Answer(post.digest, refused)))
            if post.parts and refused is None:
                await broker.purge_stream(stream, subject=post.part_subject(stream, "*"))
        with suppress(nats.errors.MsgAlreadyAckdError):
            await message.ack_sync(timeout=BROKER_WAIT_S)

    async def _keep(
        self, broker: JetStreamContext, message: Msg, source: str, why: str
    ) -> None:
        """Put what cannot be booked where a person finds it, and `put_back` too.

        No gateway fills a message to its brim: of one that leaves no room for the reason, only its
        beginning is kept.
        """
        stream = self._address.stream
        sent = {name: value[:HEADER_MAX] for name, value in own_headers(message.headers).items()}
        headers = {**sent, SUBJECT: message.subject, REFUSED: why,
                   MESSAGE_ID: f"{message.subject}/{message.metadata.sequence.stream}"}
        taken = HEADER_MAX + sum(len(f"{name}: {value}\r\n".encode())
                                 for name, value in headers.items())
        await broker.publish(
            refused_subject(stream, source),
            message.data[: max(0, self._message_octets_max - taken)],
            stream=refused_of(stream), headers=headers)

    async def _book(self, broker: JetStreamContext, message: Msg, post: Post) -> None:
        pieces = await self._parts(broker, post)
        if pieces is None:
            if not await self._is_confirmed(broker, post):
                raise PartsLostError(f"batch of {post.source}: parts of it are not there")
            self.figures.known += 1
            return
        packed = b"".join((*pieces, message.data))
        octets = await asyncio.to_thread(unpack, post, packed)
        await self._do(partial(self._book_octets, octets, post, Path(message.subject)))

    async def _parts(self, broker: JetStreamContext, post: Post) -> list[bytes] | None:
        """What went ahead of a batch's last piece; None: it is not all there."""
        stream = self._address.stream
        pieces: list[bytes] = []
        for number in range(post.parts):
            try:
                found = await broker.get_last_msg(stream, post.part_subject(stream, number))
            except NotFoundError:
                return None
            pieces.append(found.data or b"")
            if sum(map(len, pieces)) > BROKER_BATCH_OCTETS_MAX:
                raise UnbookableError(f"batch of {post.source}: more than "
                                      f"{BROKER_BATCH_OCTETS_MAX:,} octets, packed")
        return pieces

    async def _is_confirmed(self, broker: JetStreamContext, post: Post) -> bool:
        """Whether an ingester has booked this very batch, and died before it was taken out."""
        stream = self._address.stream
        try:
            found = await broker.get_last_msg(answers_of(stream), post.answer_subject(stream))
        except NotFoundError:
            return False
        return read_answer(found.data or b"") == Answer(post.digest)

    def _book_octets(self, octets: bytes, post: Post, title: Path, ledger: Ledger) -> None:
        """In the ledger's thread."""
        while True:
            try:
                contents = read_octets(octets, title)
                head = contents.head
                key = Key(head.source, head.epoch, head.first_sequence)
                # What a ledger cannot keep looks to it as if the ledger were away.
                if not all(type(getattr(head, name)) is kind for name, kind in HEAD.items()):
                    raise ValueError("its head holds what no run writes there")
                is_own = (token(key.source), key.place) == (post.source, post.place)
            except MALFORMED as error:
                raise UnbookableError(f"{title}: no segment of a journal: {error!r}") from error
            if not is_own:
                raise UnbookableError(f"{title}: holds {head.source}, epoch {head.epoch}, from "
                                      f"{head.first_sequence} on: sent under another's name")
            if contents.records is None or contents.entries != 1:  # nothing follows a seal
                raise UnbookableError(f"{title}: no segment in its last form")
            try:
                receipt = book(ledger, contents).receipt
            except StaleError:
                continue  # it is worked out anew, from what was booked meanwhile
            break
        figures = self.figures
        figures.epochs.add((head.source, head.epoch))
        if receipt is None or not receipt.booked:
            figures.known += 1
        else:
            figures.batches += 1
            figures.records += receipt.records

    # --- the ledger ---------------------------------------------------------------------

    async def _do(self, ask: Callable[[Ledger], _Answer]) -> _Answer:
        """What the ledger says, however long it takes to be there.

        Raises UnbookableError, IdentityError; LedgerError where it is to end meanwhile.
        """
        loop = asyncio.get_running_loop()
        pause_s = RETRY_S
        while True:
            try:
                answer = await loop.run_in_executor(self._booking, self._asked, ask)
            except (UnbookableError, IdentityError):
                raise
            except LedgerError as error:
                self._is_troubled(error)
                if await self._pause(pause_s):
                    raise
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            self._is_well("the ledger")
            return answer

    def _asked(self, ask: Callable[[Ledger], _Answer]) -> _Answer:
        if self._ledger is None:
            self._ledger = open_ledger(self._url)
        try:
            return ask(self._ledger)
        except LedgerError:
            self._close()
            raise

    def _close(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()

    # --- what is told -------------------------------------------------------------------

    async def _pause(self, pause_s: float) -> bool:
        """Whether it is to end, then or meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        return self._stopping.is_set()

    def _is_troubled(self, error: Exception) -> None:
        if self.figures.trouble is None:
            self._told(f"{error}; what is not booked waits")
        self.figures.trouble = str(error)

    def _is_well(self, who: str) -> None:
        if self.figures.trouble is not None:
            self._told(f"{who} is back")
            self.figures.trouble = None


def _shown(text: str) -> str:
    """What people and headers are told, without what a sender may have hidden in it."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.encode("ascii", "replace").decode()[:REASON_MAX]


@asynccontextmanager
async def _spoken_up(message: Msg) -> AsyncIterator[None]:
    """While it is worked on, nobody else is given it."""

    async def speak() -> None:
        while True:
            await asyncio.sleep(BROKER_SILENT_S / 3)
            with suppress(nats.errors.Error):
                await message.in_progress()

    speaking = asyncio.create_task(speak())
    try:
        yield
    finally:
        speaking.cancel()
