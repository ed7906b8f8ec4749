"""What is made to stop ingesters or gateways: each is refused, or sent otherwise, and no more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from batches import (
    EPOCH,
    altered,
    ask,
    dispatching,
    expect_booked,
    ingest,
    make_streams,
    octets_of,
    publish,
    refusals,
    segments,
    send,
    wait,
)
from brokers import Broker
from databases import Database, PostgresDatabase
from gateways import write_rules

from tollsplit.broker import dispatch as dispatches
from tollsplit.broker import streams
from tollsplit.broker.address import parse_url
from tollsplit.broker.ingest import Figures, Ingester
from tollsplit.broker.message import DIGEST, FORM_NAME, PARTS, Key, batch_messages
from tollsplit.engine.journal import ENTRY, read, settle
from tollsplit.ledger import open_ledger
from tollsplit.model import Event
from tollsplit.rules import RuleSet

pytestmark = pytest.mark.usefixtures("hurried")
HEADERS = {FORM_NAME: "1", PARTS: "0", DIGEST: "0"}


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    return write_rules(tmp_path, window="1m")


def taken(broker: Broker, url: str) -> Figures:
    """What an ingester has done that has to be through within seconds."""

    async def take() -> Figures:
        ingester = Ingester(parse_url(broker.url), url, lambda _: None)
        async with asyncio.timeout(20):
            await ingester.run(until_empty=True)
        return ingester.figures

    return asyncio.run(take())


def answers(broker: Broker) -> int:
    """To how many batches there is one."""
    return int(ask(broker, lambda js: js.stream_info("tollsplit_answers")).state.messages)


def test_refused_are_events_that_no_ledger_could_keep(broker: Broker, database: Database) -> None:
    make_streams(broker)
    good = {"kind": "lost", "at_ns": 1, "source": "gw1", "epoch": "e"}
    tried: list[object] = [
        {"source": None}, {"source": 7}, {"kind": ["lost"]}, {"kind": "other"}, {"epoch": 7},
        {"period_start_ns": {"a": 1}}, {"octets": 1.5}, {"octets": True}, {"subscriber": [1]},
        {"at_ns": 2**70}, {"epoch": "\ud800"}, {"more": 1}]
    for number, fields in enumerate(tried):
        assert isinstance(fields, dict)
        publish(broker, f"tollsplit.post.gw1.events.{number}",
                json.dumps([good | fields]).encode(), HEADERS)
    publish(broker, "tollsplit.post.gw1.events.deep", b"[" * 100_000, HEADERS)
    assert taken(broker, database.url).refused == len(tried) + 1
    with open_ledger(database.url) as ledger:
        assert not ledger.events()


def test_refused_are_batches_whose_heads_hold_what_no_run_writes(
    tmp_path: Path, rules: RuleSet, broker: Broker, database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "BROKER_DUPLICATES_S", 0.1)
    make_streams(broker)
    [path] = segments(tmp_path / "journal", rules, 1)
    with dispatching(broker, [path]):  # in its last form, and then known
        pass
    ask(broker, lambda js: js.purge_stream("tollsplit"))
    octets = path.read_bytes()
    tried: list[dict[str, Any]] = [
        {"program": {"a": 1}}, {"program": 7}, {"first_sequence": "0"}, {"epoch": 7},
        {"epoch": "\ud800"}, {"source": None}, {"trust_ip_length": "x"},
        {"rules": {"path": "\ud800", "version": "", "content": {}}},
    ]
    for number, fields in enumerate(tried):
        key = Key("gw1", str(fields.get("epoch", EPOCH)).replace("\ud800", "e"), 0)
        sent = batch_messages("tollsplit", key, altered(octets, **fields), 1 << 20)[-1]
        publish(broker, sent.subject, sent.payload, {**sent.headers, "Nats-Msg-Id": str(number)})
        assert taken(broker, database.url).refused == 1, fields
    ask(broker, lambda js: js.purge_stream("tollsplit_answers"))
    send(broker, [path])
    ingest(broker, database.url)
    expect_booked(database.url, database.rows, octets_of(1))


def test_refused_is_kept_however_large_and_whatever_its_headers_ask_for(
    broker: Broker, books: PostgresDatabase
) -> None:
    make_streams(broker)
    publish(broker, "tollsplit.post.gw1.a", b"x" * ((1 << 20) - 64), {})
    publish(broker, "tollsplit.post.gw1.b", b"x", {"Nats-Expected-Last-Subject-Sequence": "0"})
    publish(broker, "tollsplit.post.gw1.c", b"x", {FORM_NAME: "1" * 9000, "Other": "y" * 9000})
    publish(broker, "tollsplit.post.gw1.batch.e.0", b"x", HEADERS | {DIGEST: "f" * 9000})
    assert taken(broker, books.url).refused == 4
    assert len(refusals(broker)) == 4


def test_batch_that_lost_its_parts_is_not_answered_and_comes_again(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its gateway must not set aside what the broker has lost, nor let go of what only stands
    under a key that is booked.
    """
    monkeypatch.setattr(dispatches, "BROKER_PIECE_OCTETS", 300)
    monkeypatch.setattr(dispatches, "BROKER_RESEND_S", 0.5)
    make_streams(broker)
    [path] = segments(tmp_path / "journal", rules, 1)
    [other] = segments(tmp_path / "other", rules, 1, octets=900)
    with dispatching(broker, [path]) as dispatch:
        wait(lambda: dispatch.is_through)
        ask(broker, lambda js: js.purge_stream("tollsplit", subject="tollsplit.part.>"))
        assert ingest(broker, books.url).refused == 1
        assert answers(broker) == 0
        broker.lose_everything()  # and what it knows repetitions by
        make_streams(broker)
        wait(lambda: ingest(broker, books.url) and not dispatch.batches)
    with dispatching(broker, [other]) as dispatch:
        wait(lambda: dispatch.is_through)
        ask(broker, lambda js: js.purge_stream("tollsplit", subject="tollsplit.part.>"))
        assert ingest(broker, books.url).refused == 1
    assert other.exists()
    expect_booked(books.url, books.rows, octets_of(1))


def test_gateway_sends_many_events_to_a_broker_of_small_messages(
    tmp_path: Path, rules: RuleSet, books: PostgresDatabase
) -> None:
    """And its batches, which come behind them."""
    broker = Broker("max_payload: 16384")
    try:
        make_streams(broker)
        with dispatching(broker, segments(tmp_path / "journal", rules, 1)) as dispatch:
            for number in range(300):
                dispatch.tell(Event("lost", number, "gw1", EPOCH, octets=3))
            wait(lambda: ingest(broker, books.url) and not dispatch.batches)
        with open_ledger(books.url) as ledger:
            assert len(ledger.events()) == 300
    finally:
        broker.close()


def test_broker_full_of_parts_goes_on_with_more_room(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parts are all that has room, of no batch all of them; nothing is lost meanwhile."""
    monkeypatch.setattr(dispatches, "BROKER_PIECE_OCTETS", 300)
    make_streams(broker, 1500)
    paths = {name: segments(tmp_path / name, rules, 2, source=name, subscribers=40)
             for name in ("gw1", "gw2")}
    with dispatching(broker, paths["gw1"], "gw1") as one, \
            dispatching(broker, paths["gw2"], "gw2") as other:
        wait(lambda: "maximum bytes" in f"{one.error}" and "maximum bytes" in f"{other.error}")
        assert not ingest(broker, books.url).batches
        make_streams(broker)
        wait(lambda: ingest(broker, books.url) and not one.batches and not other.batches)
    expect_booked(books.url, books.rows, 2 * octets_of(2, 40))


def test_refused_is_a_batch_that_goes_on_behind_its_seal(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    """What is counted there would be no record more, and so add to those that are sealed."""
    make_streams(broker)
    [path] = segments(tmp_path / "journal", rules, 1)
    settle(path, read(path))
    octets = path.read_bytes()
    head_end = ENTRY.size + ENTRY.unpack_from(octets)[1]
    counted = octets[head_end : head_end + ENTRY.size + ENTRY.unpack_from(octets, head_end)[1]]
    sent = batch_messages("tollsplit", Key("gw1", EPOCH, 0), octets + counted, 1 << 20)[-1]
    publish(broker, sent.subject, sent.payload, sent.headers)
    found = taken(broker, books.url)
    assert (found.batches, found.refused) == (0, 1)
