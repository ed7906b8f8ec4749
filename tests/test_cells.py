"""Stretches of time follow each other without gap or overlap, whatever clocks do."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from tollsplit.engine.cells import Months, Schedule, Steps, Times, span

# Zones that change their clocks at odd hours, by odd amounts, over midnight, or skip a day.
ZONES = (
    "UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe",
    "Pacific/Chatham", "America/St_Johns", "America/Goose_Bay", "America/Havana",
    "America/Sao_Paulo", "Antarctica/Casey", "Antarctica/Troll", "Pacific/Apia", "Asia/Beirut",
    "Africa/Casablanca", "Asia/Kathmandu",
)  # fmt: skip
SCHEDULES: tuple[Schedule, ...] = (
    Steps(1), Steps(60), Steps(900), Steps(2700), Steps(3600), Steps(7200), Steps(21_600),
    Steps(86_400), Months(), Times({3600, 5400, 64_800}),
)  # fmt: skip


def changes(zone: ZoneInfo) -> list[int]:
    """Instants at which the zone's clocks were changed, from 2000 to 2027, to the hour."""
    hours = range(946_684_800, 1_798_761_600, 3600)
    offsets = [datetime.fromtimestamp(hour, zone).utcoffset() for hour in hours[::12]]
    return [hours[::12][i] for i in range(1, len(offsets)) if offsets[i] != offsets[i - 1]]


@pytest.mark.parametrize("name", ZONES)
def test_cells_partition_time(name: str) -> None:
    """Every instant of a stretch gives that stretch; the next one begins where it ends."""
    zone, chance = ZoneInfo(name), random.Random(name)
    near = changes(zone)
    for schedule in SCHEDULES:
        for change in [*near, *(chance.randrange(90_000, 2**32) for _ in range(20))]:
            instant = change + chance.randrange(-90_000, 90_000)
            start, end = span(schedule, zone, instant)
            assert start <= instant < end
            for inside in (start, end - 1, chance.randrange(start, end)):
                assert span(schedule, zone, inside) == (start, end)
            assert span(schedule, zone, end)[0] == end


def spans(name: str, schedule: Schedule, first: datetime, count: int) -> list[str]:
    zone, instant, found = ZoneInfo(name), int(first.timestamp()), []
    for _ in range(count):
        start, end = span(schedule, zone, instant)
        found.append(f"{datetime.fromtimestamp(start, zone):%d %H:%M%z} {(end - start) // 60}")
        instant = end
    return found


def test_cells_hour_that_is_repeated_from_within() -> None:
    """Chatham's clocks go back from 3:45 to 2:45: the hour from 3:00 on stands twice."""
    assert spans("Pacific/Chatham", Steps(3600), datetime(2026, 4, 4, 12, 20, tzinfo=UTC), 4) == [
        "05 02:00+1345 60", "05 03:00+1345 60", "05 03:00+1245 60", "05 04:00+1245 60"]


def test_cells_days_of_23_and_25_hours() -> None:
    assert spans("Europe/Berlin", Steps(86_400), datetime(2026, 3, 28, 12, tzinfo=UTC), 3) == [
        "28 00:00+0100 1440", "29 00:00+0100 1380", "30 00:00+0200 1440"]
    assert spans("Europe/Berlin", Steps(86_400), datetime(2026, 10, 25, 12, tzinfo=UTC), 2) == [
        "25 00:00+0200 1500", "26 00:00+0100 1440"]
    # Midnight comes twice, and the day begins once.
    assert spans("America/Havana", Steps(86_400), datetime(2026, 11, 1, 12, tzinfo=UTC), 2) == [
        "01 00:00-0400 1500", "02 00:00-0500 1440"]
    # Midnight is jumped over.
    assert spans("America/Sao_Paulo", Steps(86_400), datetime(2018, 11, 4, 12, tzinfo=UTC), 2) == [
        "04 01:00-0200 1380", "05 00:00-0200 1440"]


def test_cells_day_whose_midnight_is_shown_again() -> None:
    """St John's clocks went from 0:01 back to 23:01 of the day before."""
    again = datetime(2007, 11, 4, 3, 0, 51, tzinfo=UTC)  # 23:30:51, the second time
    zone = ZoneInfo("America/St_Johns")
    start, end = span(Steps(86_400), zone, int(again.timestamp()))
    assert (end - start) // 60 == 25 * 60
    assert datetime.fromtimestamp(start, zone).strftime("%d %H:%M") == "04 00:00"
