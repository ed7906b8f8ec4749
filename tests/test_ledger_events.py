"""Events in the ledger: kept once, however often they are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from databases import Database, Refused

from tollsplit.ledger import Ledger, open_ledger
from tollsplit.model import Event

REACHED = Event(
    "threshold", 1_000, "sensor-1", "7", "10.0.0.7", "alice", "video", "video-co", 0, 812, 800
)
STEP = Event("clock_step", 2_000, "sensor-1", "7")


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with open_ledger(database.url) as ledger:
        yield ledger
        assert ledger.verify().findings == ()


def test_events_are_kept_once(ledger: Ledger) -> None:
    assert ledger.record_events([REACHED, STEP, REACHED]) == 2
    assert ledger.record_events(iter([STEP, REACHED])) == 0
    assert ledger.events() == [REACHED, STEP]


def test_events_of_a_period_are_the_same_whenever_they_are_noticed(ledger: Ledger) -> None:
    """A replay cuts time into other batches: noticed later, with more octets, it is the same."""
    ledger.record_events([REACHED])
    assert ledger.record_events([replace(REACHED, at_ns=1_500, octets=990)]) == 0
    assert ledger.events() == [REACHED]
    others = [
        replace(REACHED, **{name: value}) for name, value in (
            ("kind", "quota_end"), ("source", "sensor-2"), ("epoch", "8"), ("subscriber", None),
            ("account", "bob"), ("rule", "other"), ("sponsor", None), ("period_start_ns", 5),
            ("threshold_octets", 900),
        )
    ]  # fmt: skip
    assert ledger.record_events(others) == len(others)


def test_events_without_a_period_happen_each_time(ledger: Ledger) -> None:
    assert ledger.record_events([STEP, replace(STEP, at_ns=2_001)]) == 2


def test_events_are_recorded_all_or_none(ledger: Ledger) -> None:
    def events() -> Iterator[Event]:
        yield REACHED
        raise OSError("the journal's own")

    with pytest.raises(OSError, match="the journal's own"):
        ledger.record_events(events())
    assert ledger.events() == []


def test_events_are_append_only_and_verified(database: Database) -> None:
    with open_ledger(database.url) as ledger:
        ledger.record_events([REACHED])
        for sql in ("DELETE FROM events", "UPDATE events SET octets = 0"):
            with pytest.raises(Refused, match="append-only"):
                database.rows(sql)
        with database.unguarded():
            database.rows("UPDATE events SET account = 'bob'")
        finding, _ = ledger.verify().findings
    assert finding.startswith("event 1: identity") and "bob" in finding
