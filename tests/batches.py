"""Segments that gateways have left, sent to a broker and taken in; and what they come to."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from brokers import Broker
from gateways import HEADER, packet
from gateways import wait as wait_for

from tollsplit.broker.address import connected, parse_url
from tollsplit.broker.dispatch import Dispatch
from tollsplit.broker.ingest import Figures, Ingester
from tollsplit.broker.streams import create
from tollsplit.cext.reader import Reader
from tollsplit.engine.journal import ENTRY, Head, Journal, _checksum
from tollsplit.engine.live import Generation
from tollsplit.ledger import open_ledger
from tollsplit.model import Event
from tollsplit.rules import RuleSet
from tollsplit.snapshot import Notice

WINDOW_NS = 60 * 10**9
BEGAN_NS = 1_795_046_400 * 10**9
EPOCH = "2026-11-18T00:00:00.000000Z"
SUBSCRIBERS = 5


def segments(
    folder: Path, rules: RuleSet, windows: int, *, source: str = "gw1",
    subscribers: int = SUBSCRIBERS, epoch: str = EPOCH, octets: int = 100, seal: bool = True,
) -> list[Path]:  # fmt: skip
    """What a run of so many windows leaves in its journal, each in several flushes.

    octets   of each packet of the first subscriber
    """
    first = 0
    paths = []
    with closing(Journal(folder, ("test0",))) as journal:
        for window in range(windows):
            head = Head(source, epoch, first, "tollsplit", rules)
            generation = Generation(rules)
            segment = journal.create(head)
            for flush in range(3):
                meter = generation.meter()
                reader = Reader()
                at_ns = BEGAN_NS + window * WINDOW_NS + flush * 10**9
                reader.feed(HEADER + b"".join(
                    packet(at_ns + number, octets + 7 * (number % 97), 0x0A000001 + number)
                    for number in range(subscribers)), True)
                meter.run(reader)
                segment.add(generation, meter)
            if seal:
                segment.seal(subscribers)
            else:
                segment.close()
            paths.append(segment.path)
            first += subscribers
    return paths


def wait(condition: Callable[[], object]) -> None:
    """A broker or a database that starts anew takes its time on a busy machine."""
    wait_for(condition, 40)


def octets_of(windows: int, subscribers: int = SUBSCRIBERS, octets: int = 100) -> int:
    """That segments() counts."""
    return windows * 3 * sum(octets + 7 * (number % 97) for number in range(subscribers))


@contextmanager
def dispatching(
    broker: Broker, leftovers: Sequence[Path] = (), source: str = "gw1", options: str = ""
) -> Iterator[Dispatch]:
    """A gateway's way to the broker. `told` of it has what it told."""
    told: list[Event | Notice] = []
    dispatch = Dispatch(parse_url(broker.url + options), source, list(leftovers), told.append)
    dispatch.told = told  # type: ignore[attr-defined]
    dispatch.start()
    try:
        yield dispatch
    finally:
        dispatch.finish(lambda: True)
        dispatch.join(20)
        assert not dispatch.is_alive()
    if dispatch.failure is not None:
        raise dispatch.failure


def send(broker: Broker, leftovers: Sequence[Path], source: str = "gw1") -> None:
    """Until the broker has them all; what is not booked stays on the disk."""
    with dispatching(broker, leftovers, source) as dispatch:
        dispatch.finish(lambda: False)
        assert dispatch.error is None, dispatch.error


def make_streams(broker: Broker, octets: int = 1 << 30) -> None:
    async def make() -> None:
        async with connected(parse_url(broker.url), "test") as (_, context):
            await create(context, "tollsplit", octets, 1)

    asyncio.run(make())


def ask(broker: Broker, question: Callable[[Any], Any]) -> Any:
    """What a question to JetStream is answered."""

    async def asking() -> Any:
        async with connected(parse_url(broker.url), "test") as (_, context):
            return await question(context)

    return asyncio.run(asking())


def ingest(broker: Broker, url: str, told: list[str] | None = None) -> Figures:
    """Until the broker has nothing left."""
    ingester = Ingester(parse_url(broker.url), url, (told if told is not None else []).append)
    asyncio.run(ingester.run(until_empty=True))
    return ingester.figures


def in_a_process(work: Callable[[], object]) -> int:
    """Run it in a process of its own; the process's id."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """How a process ended: its exit code, below 0 a signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def booked_of(rows: Callable[[str], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """All that was booked, whatever order it was booked in."""
    return sorted(
        rows("SELECT r.source, r.epoch, u.sequence, u.subscriber, u.uplink_octets, "
             "u.downlink_octets, u.subscriber_octets FROM usage_records u "
             "JOIN runs r ON r.id = u.run_id")
    ) + sorted(rows("SELECT idempotency_key, fingerprint FROM transactions"))


def expect_booked(url: str, rows: Callable[[str], list[tuple[Any, ...]]], octets: int) -> None:
    """Each octet once, and the books in order."""
    [(found,)] = rows("SELECT coalesce(sum(uplink_octets + downlink_octets), 0) FROM usage_records")
    assert found == octets
    with open_ledger(url) as ledger:
        traffic = [one for one in ledger.balances() if one.account == "operator:traffic"]
        assert [one.balance for one in traffic] == ([octets] if octets else [])
        verification = ledger.verify()
        assert not [check for check in verification.checks if check.findings], verification
        assert not ledger.missing()


@contextmanager
def ingesting(broker: Broker, url: str, told: list[str] | None = None) -> Iterator[None]:
    """An ingester that goes on until it is stopped, as SIGTERM would."""
    loop = asyncio.new_event_loop()
    ingester = Ingester(parse_url(broker.url), url, (told if told is not None else []).append)
    thread = threading.Thread(target=lambda: loop.run_until_complete(ingester.run()))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ingester.stop)
        thread.join(20)
        assert not thread.is_alive()
        loop.close()


def publish(broker: Broker, subject: str, payload: bytes, headers: dict[str, str]) -> None:
    ask(broker, lambda js: js.publish(subject, payload, headers=headers))


def refusals(broker: Broker) -> list[str]:
    """Why, of each message that is kept."""

    async def look(js: Any) -> list[str]:
        state = (await js.stream_info("tollsplit_refused")).state
        return [(await js.get_msg("tollsplit_refused", number)).headers["Tollsplit-Refused"]
                for number in range(state.first_seq, state.last_seq + 1)]

    found: list[str] = ask(broker, look)
    return found


def altered(octets: bytes, **fields: object) -> bytes:
    """A segment whose head says something else."""
    kind, length, _ = ENTRY.unpack_from(octets)
    rest = octets[ENTRY.size :]
    head = json.dumps(json.loads(rest[:length]) | fields).encode()
    entry = ENTRY.pack(kind, len(head), _checksum(kind, head))
    return entry + head + rest[length:]
