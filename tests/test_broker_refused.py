"""What nobody can book: it is told, kept, and stops nothing behind it."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path

import pytest
from batches import (
    EPOCH,
    SUBSCRIBERS,
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
from tollsplit.broker import message, streams
from tollsplit.broker.address import connected, parse_url
from tollsplit.broker.message import DIGEST, FORM_NAME, PARTS, Key, batch_messages
from tollsplit.engine import journal as journals
from tollsplit.gateway.booking import book
from tollsplit.ledger import open_ledger
from tollsplit.rules import RuleSet

pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    return write_rules(tmp_path, window="1m")


def test_refused_messages_stop_nothing(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chance, unknown forms, segments cut, altered, of another's name; then good ones."""
    monkeypatch.setattr(streams, "BROKER_DUPLICATES_S", 0.1)
    make_streams(broker)
    [bad, *good] = segments(tmp_path / "journal", rules, 3)
    with dispatching(broker, [bad]):  # in its last form, and then known
        pass
    octets = bad.read_bytes()
    ask(broker, lambda js: js.purge_stream("tollsplit"))
    key = Key("gw1", EPOCH, 0)
    last = batch_messages("tollsplit", key, octets, 1 << 20)[-1]
    assert not ingest(broker, books.url).refused
    tried: list[tuple[str, bytes, dict[str, str]]] = [
        (last.subject, b"no segment", {}),
        (last.subject, last.payload, {FORM_NAME: "2"}),
        (last.subject, last.payload, {FORM_NAME: "1", PARTS: "x", DIGEST: "0"}),
        (last.subject, b"no segment", {FORM_NAME: "1", PARTS: "0", DIGEST: "0"}),
        (last.subject, last.payload[:-9], last.headers),
        (last.subject, last.payload, last.headers | {PARTS: "1"}),
        (last.subject, last.payload, last.headers | {DIGEST: "0" * 64}),
        (last.subject, b"", {"Nats-Expected-Last-Subject-Sequence": "0"}),
        ("tollsplit.post.gw1", b"", {FORM_NAME: "1"}),
        ("tollsplit.post.\x1b[2J", b"", {FORM_NAME: "1"}),
        ("tollsplit.post.gw1.batch.a.b.c", b"", {FORM_NAME: "1", PARTS: "0", DIGEST: "0"}),
        ("tollsplit.post.gw1.events.0", b"[{}]", {FORM_NAME: "1", PARTS: "0", DIGEST: "0"}),
        ("tollsplit.post.gw1.events.0",
         json.dumps([{"kind": "lost", "at_ns": 1, "source": "gw2", "epoch": "e"}]).encode(),
         {FORM_NAME: "1", PARTS: "0", DIGEST: "0"}),
    ]
    for content in (
        octets[:40], octets[:-30], altered(octets, source="gw2"), altered(octets, epoch="e"),
        altered(octets, first_sequence=5), altered(octets, format=99), altered(octets, rules=7),
        altered(octets, rules={"path": "/etc/passwd", "version": "", "content": {}}),
        zlib.compress(octets),
    ):
        sent = batch_messages("tollsplit", key, content, 1 << 20)[-1]
        tried.append((sent.subject, sent.payload, sent.headers))
    told: list[str] = []
    for number, (subject, payload, headers) in enumerate(tried):
        publish(broker, subject, payload, headers | {"Nats-Msg-Id": str(number)})
        assert ingest(broker, books.url, told).refused == 1, number
    assert len(told) == len(tried)
    assert all(text.isprintable() and text.isascii() for text in (*told, *refusals(broker)))
    assert len(refusals(broker)) == len(tried)
    send(broker, good)
    assert ingest(broker, books.url).batches == 2
    with open_ledger(books.url) as ledger:  # what was refused is missing, and that is seen
        [missing] = ledger.missing()
    assert (missing.source, missing.first_sequence, missing.records) == ("gw1", 0, SUBSCRIBERS)
    ask(broker, lambda js: js.purge_stream("tollsplit_answers"))
    send(broker, [bad])
    ingest(broker, books.url)
    expect_booked(books.url, books.rows, octets_of(3))


def test_refused_is_another_batch_under_a_key_that_is_booked(
    tmp_path: Path, rules: RuleSet, broker: Broker, database: Database
) -> None:
    """Two machines of one name, whose runs began in the same microsecond: the second is refused,
    its gateway keeps what it counted, and the first booking stands.
    """
    make_streams(broker)
    one = segments(tmp_path / "one", rules, 2)
    other = segments(tmp_path / "other", rules, 2, octets=900)
    # Overlaps the first's second batch, and begins elsewhere.
    third = segments(tmp_path / "third", rules, 2, subscribers=SUBSCRIBERS + 2)[1:]
    with dispatching(broker, one) as first:
        wait(lambda: ingest(broker, database.url) and not first.batches)
    told: list[str] = []
    with dispatching(broker, [*other, *third]) as second:
        wait(lambda: ingest(broker, database.url, told) and not second.batches)
    assert second.records == 0
    assert len(told) == 3 and all("that booking stands" in text for text in told[:2])
    assert "booked already, in a batch that begins elsewhere" in told[2]
    assert sorted(path.suffix for path in (tmp_path / "other").glob("*.segment*")) == [
        ".damaged"] * 2
    assert all("refused" in one.text for one in second.told)  # type: ignore[attr-defined]
    expect_booked(database.url, database.rows, octets_of(2))


def test_refused_is_what_lacks_parts_and_was_not_confirmed(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    """That its key is booked says nothing: another batch may have it. Of the one that is booked the
    parts have gone because it is."""
    make_streams(broker)
    [path] = segments(tmp_path / "journal", rules, 1)
    with dispatching(broker, [path]) as dispatch:
        wait(lambda: dispatch.is_through)
        octets = path.read_bytes()
        wait(lambda: ingest(broker, books.url) and not dispatch.batches)
    sent = batch_messages("tollsplit", Key("gw1", EPOCH, 0), octets, 1 << 20)[-1]
    for digest, refused in ((sent.headers[DIGEST], 0), ("0" * 64, 1)):
        publish(broker, sent.subject, b"", sent.headers | {
            PARTS: "3", DIGEST: digest, "Nats-Msg-Id": digest})
        found = ingest(broker, books.url)
        assert (found.known, found.refused) == (1 - refused, refused)
    expect_booked(books.url, books.rows, octets_of(1))


@pytest.mark.parametrize("source", ["answer", "post", "a.b *>%/\n$JS", "é"])
def test_gateway_may_have_any_name(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase, source: str
) -> None:
    make_streams(broker)
    with dispatching(broker, segments(tmp_path / "journal", rules, 1, source=source),
                     source) as dispatch:
        wait(lambda: ingest(broker, books.url) and not dispatch.batches)
    assert books.rows("SELECT DISTINCT source FROM runs") == [(source,)]
    expect_booked(books.url, books.rows, octets_of(1))


def test_refused_is_taken_in_again_when_it_can_be(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An ingester that is older than its gateways refuses; a newer one takes it all in."""
    async def again() -> int:
        async with connected(parse_url(broker.url), "test") as (_, js):
            return await streams.put_back(js, "tollsplit")

    monkeypatch.setattr(dispatches, "BROKER_PIECE_OCTETS", 300)
    make_streams(broker)
    assert asyncio.run(again()) == 0  # of a stream that never held any
    send(broker, segments(tmp_path / "journal", rules, 3))
    with monkeypatch.context() as older:
        older.setattr(message, "FORM", "0")
        assert ingest(broker, books.url).refused == 3
    assert len(refusals(broker)) == 3
    assert asyncio.run(again()) == 3
    assert asyncio.run(again()) == 0
    assert ingest(broker, books.url).batches == 3
    assert ask(broker, lambda js: js.stream_info("tollsplit")).state.messages == 0
    expect_booked(books.url, books.rows, octets_of(3))


def test_missing_records_of_an_epoch_are_found(tmp_path: Path, database: Database) -> None:
    rules = write_rules(tmp_path, window="1m")
    paths = segments(tmp_path / "journal", rules, 6)
    with open_ledger(database.url) as ledger:
        for path in paths[1], paths[2], paths[4]:
            book(ledger, journals.read(path))
        found = [(one.epoch, one.first_sequence, one.records) for one in ledger.missing()]
        assert found == [(EPOCH, 0, 5), (EPOCH, 15, 5)]
        assert not [check for check in ledger.verify().checks if check.findings]
