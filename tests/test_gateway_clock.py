"""What becomes of windows and totals when the clock is set."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from gateways import (
    Running,
    booked,
    expect_sound,
    load_other,
    packet,
    rows,
    running,
    wait,
    write_rules,
)

from tollsplit.engine import totals
from tollsplit.gateway import session
from tollsplit.model import Event
from tollsplit.rules import load


@pytest.mark.parametrize("pending", [False, True])
def test_gateway_clock_step_is_told_and_holds_nothing_up(
    home: Path, monkeypatch: pytest.MonkeyPatch, pending: bool
) -> None:
    """Also where it comes while one window is about to give way to another."""
    step_ns = 0
    real = time.time_ns
    monkeypatch.setattr(session.time, "time_ns", lambda: real() + step_ns)
    with running(home, booked=False) as run:
        wait(lambda: (run.gateway._following is not None) == pending)
        step_ns = -3600 * 10**9
        wait(lambda: "clock_step" in run.kinds())
        run.frames.lanes[0].give(packet(real()))
        run.frames.lanes[0].give(packet(real() + step_ns))
        wait(lambda: run.last.seen.packets == 2)
    assert run.last.identity_holds


def test_gateway_clock_that_steps_back_over_a_change_of_rules_delays_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instant at which a generation was to end lies an hour ahead then."""
    step_ns = 0
    real = time.time_ns
    monkeypatch.setattr(session.time, "time_ns", lambda: real() + step_ns)
    other = load_other(home)
    with running(home, write_rules(home, window="1h")) as run:
        succeed = run.gateway._counting.succeed

        def stepping(following: Any, until_ns: int) -> None:
            nonlocal step_ns
            succeed(following, until_ns)
            step_ns = -3600 * 10**9

        run.gateway._counting.succeed = stepping  # type: ignore[method-assign]
        threading.Thread(target=run.gateway._take_rules, args=(other,), daemon=True).start()
        wait(lambda: "clock_step" in run.kinds())
        run.frames.lanes[0].give(packet(real() + step_ns))
        wait(lambda: "rules" in run.kinds(), 3)
        wait(lambda: run.last.seen.packets == 1 and run.last.unflushed_octets == 0, 3)
    assert booked(home) == 128
    expect_sound(home)


class Clock:
    """The machine's clock, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shows_ns: int | None = None) -> None:
        real = time.time_ns
        self.ahead_ns = 0 if shows_ns is None else shows_ns - real()
        monkeypatch.setattr(time, "time_ns", lambda: real() + self.ahead_ns)

    def set(self, step_s: float) -> None:
        self.ahead_ns += int(step_s * 10**9)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9


FORWARD_AND_BACK = [(86_400, -86_400), (600, -660)]


@pytest.mark.parametrize("steps_s", FORWARD_AND_BACK)
@pytest.mark.parametrize("budget", [False, True])
def test_gateway_totals_of_a_day_outlast_a_clock_that_is_set_and_set_back(
    home: Path, monkeypatch: pytest.MonkeyPatch, steps_s: tuple[float, float], budget: bool
) -> None:
    """Seven packets of one day, with two windows of the next between them."""
    clock = Clock(monkeypatch, at("2026-03-10T23:59:45Z"))
    if budget:
        path = home / "rules.toml"
        path.write_text(path.read_text().replace(
            "[sponsors.video-co]", '[sponsors.video-co]\nbudget = "500"\nper = "day"'))
        rules = load(path)
    else:
        rules = write_rules(home, "100%", ', quota = "500", per = "day"')
    with running(home, rules) as run:
        give(run, 3)
        wait(lambda: run.gateway._figures.first_sequence == 1)
        clock.set(steps_s[0])
        wait(lambda: "clock_step" in run.kinds())
        for number in (2, 3):  # two windows more
            give(run, 1, subscriber=0x0A000000 + number)
            wait(lambda number=number: run.gateway._figures.first_sequence == number)  # type: ignore[misc]
        clock.set(steps_s[1])
        wait(lambda: run.kinds().count("clock_step") == 2)
        assert time.time_ns() < at("2026-03-11T00:00:00Z")
        give(run, 3)
        wait(lambda: {"quota_end", "budget_end"} & set(run.kinds()))
        wait(lambda: run.gateway._figures.first_sequence == 4)
        give(run, 1)
    [event] = [event for event in run.told if isinstance(event, Event)
               and event.kind != "clock_step"]
    assert event.kind == ("budget_end" if budget else "quota_end")
    assert event.period_start_ns == at("2026-03-10T00:00:00Z")
    [(paid,)] = rows(home, "SELECT sum(octets) FROM usage_shares")
    assert run.last.sponsor_octets == {"video-co": paid}
    share = 2 * (89 if budget else 128)
    assert paid == 500 + share
    expect_sound(home)


def give(run: Running, packets: int, subscriber: int = 0x0A000007) -> None:
    run.frames.lanes[0].give(
        b"".join(packet(time.time_ns(), subscriber=subscriber) for _ in range(packets)))


def test_gateway_quota_of_a_window_that_is_over_does_not_begin_anew(home: Path) -> None:
    rules = write_rules(home, "100%", ', quota = "300"')
    with running(home, rules) as run:
        late_ns = time.time_ns()
        run.frames.lanes[0].give(packet(late_ns) + packet(late_ns))
        wait(lambda: run.last.booked_records)
        run.frames.lanes[0].give(packet(late_ns) + packet(late_ns))
    assert rows(home, "SELECT octets FROM usage_shares ORDER BY run_id") == [(256,), (44,)]
    assert run.last.sponsor_octets == {"video-co": 300}
    assert [event.octets for event in run.told if isinstance(event, Event)] == [300]


def test_gateway_meters_each_packet_once_whatever_the_clock_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows are those that timestamps name (accounting §6), over their ends in both ways."""
    clock = Clock(monkeypatch)
    given: dict[int, int] = {}
    stop = threading.Event()

    def feed() -> None:
        while not stop.wait(0.002):
            now_ns = time.time_ns()
            run.frames.lanes[0].give(packet(now_ns))
            start = now_ns // 10**9 * 10**9
            given[start] = given.get(start, 0) + 128

    with running(home) as run:
        feeding = threading.Thread(target=feed)
        feeding.start()
        for step_s in (0.9, -1.3, 1.7, -0.3, -2.2, 3600, -3601, 0.4):
            # Shortly before a window's end, after it, and while one follows another.
            time.sleep(0.3 + (0.9 - time.time() % 1) % 1 / 2)
            clock.set(step_s)
        time.sleep(0.5)
        stop.set()
        feeding.join()
    records = rows(home, "SELECT window_start_ns, window_end_ns, first_packet_ns, last_packet_ns, "
                         "uplink_octets FROM usage_records")
    found: dict[int, int] = {}
    for start, end, first, last, octets in records:
        assert end == start + 10**9 and start <= first <= last < end
        found[start] = found.get(start, 0) + octets
    assert found == given
    assert run.last.seen.octets == sum(given.values())
    assert run.last.identity_holds
    expect_sound(home)


class Showing:
    """What a steady clock is made of."""

    def __init__(self) -> None:
        self.wall_ns = at("2026-03-10T12:00:00Z")
        self.monotonic_ns_ = 10**12

    def time_ns(self) -> int:
        return self.wall_ns

    def monotonic_ns(self) -> int:
        return self.monotonic_ns_

    def pass_(self, minutes: float, wall_minutes: float) -> None:
        self.monotonic_ns_ += int(minutes * 60) * 10**9
        self.wall_ns += int(wall_minutes * 60) * 10**9


def test_steady_clock_follows_one_that_was_set_forward_after_a_while(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes since noon that it shows: to who waits for a minute, to who waits for an hour."""
    showing = Showing()
    monkeypatch.setattr(totals, "time", showing)
    clock = totals.SteadyClock()

    def shown(minutes: float, wall_minutes: float) -> tuple[float, float]:
        showing.pass_(minutes, wall_minutes)
        return tuple((clock.now_ns(m) - at("2026-03-10T12:00:00Z")) / 60e9  # type: ignore[return-value]
                     for m in (1, 60))

    assert shown(0, 0) == (0, 0)
    assert shown(0.5, 0.5) == (0.5, 0.5)
    assert shown(0, 1440) == (0.5, 0.5)
    assert shown(3, 3) == (1443.5, 3.5)
    assert shown(50, 50) == (1493.5, 53.5)
    assert shown(0, -1440) == (53.5, 53.5)
    assert shown(0, -10) == (43.5, 43.5)  # back at once
    assert shown(0, 1450) == (43.5, 43.5)
    assert shown(62, 62) == (1555.5, 1555.5)
    assert len(clock._ahead_ns) < 62
