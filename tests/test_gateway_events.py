"""What a live run tells of quotas, budgets and losses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gateways import (
    packet,
    rows,
    running,
    wait,
    write_rules,
)

from tollsplit.model import Event
from tollsplit.rules import load


def test_gateway_thresholds_and_quota_end_are_told_once_and_kept(home: Path) -> None:
    rules = write_rules(
        home, "50%", ', quota = "1000", per = "day", thresholds = ["30%", "80%"]')
    with running(home, rules) as run:
        for _ in range(30):
            run.frames.lanes[0].give(packet(time.time_ns()))
            time.sleep(0.02)
        wait(lambda: "quota_end" in run.kinds())
    events = [event for event in run.told if isinstance(event, Event)]
    assert [(event.kind, event.threshold_octets) for event in events] == [
        ("threshold", 300), ("threshold", 800), ("quota_end", 1000)]
    assert {(e.subscriber, e.rule, e.sponsor) for e in events} == {
        ("10.0.0.7", "paid", "video-co")}
    assert all(e.octets is not None and e.octets >= e.threshold_octets for e in events)
    assert rows(home, "SELECT kind FROM events ORDER BY id") == [
        ("threshold",), ("threshold",), ("quota_end",)]


@pytest.mark.parametrize(("more", "least", "most"), [("", 0, 0), ("budget", 2, 99)])
def test_gateway_that_nobody_watches_looks_for_budgets_alone(
    home: Path, more: str, least: int, most: int
) -> None:
    rules = write_rules(home, window="1h")
    if more:
        path = home / "rules.toml"
        path.write_text(path.read_text().replace(
            "[sponsors.video-co]", '[sponsors.video-co]\nbudget = "1 GiB"\nper = "day"'))
        rules = load(path)
    with running(home, rules, booked=False, watched=False) as run:
        for _ in range(5):
            run.frames.lanes[0].give(packet(time.time_ns()))
            time.sleep(0.1)
        assert least <= len(run.looks) <= most
        run.end()
    assert run.looks[-1].seen.packets == 5


def test_gateway_budget_end_is_told(home: Path) -> None:
    path = home / "rules.toml"
    path.write_text(path.read_text().replace(
        "[sponsors.video-co]", '[sponsors.video-co]\nbudget = "500"\nper = "day"'))
    with running(home, load(path), booked=False) as run:
        for _ in range(3):
            run.frames.lanes[0].give(b"".join(packet(time.time_ns()) for _ in range(5)))
            time.sleep(0.6)
    [event] = [event for event in run.told if isinstance(event, Event)]
    assert (event.kind, event.sponsor, event.octets, event.threshold_octets) == (
        "budget_end", "video-co", 500, 500)


def test_gateway_loss_is_told_by_the_snapshot_that_shows_it_and_to_the_last(home: Path) -> None:
    lost = [0]
    with running(home, booked=False, lost=lambda: (lost[0], 0)) as run:
        lost[0] = 3
        wait(lambda: run.gateway.latest and run.gateway.latest.lost_kernel == 3)
        stop = run.frames.stop

        def stop_late() -> None:
            stop()
            lost[0] = 5  # after the last flush

        run.frames.stop = stop_late
        run.end()
    for snapshot in run.looks:
        assert (snapshot.events["lost"] > 0) == (snapshot.lost_kernel > 0)
    assert [e.octets for e in run.told if isinstance(e, Event) and e.kind == "lost"] == [3, 2]
    assert run.looks[-1].events["lost"] == 2
