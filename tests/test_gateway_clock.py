"""What becomes of windows and totals when the clock is set."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from gateways import (
    booked,
    expect_sound,
    load_other,
    packet,
    running,
    wait,
    write_rules,
)

from tollsplit.gateway import session


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_rules(tmp_path)
    return tmp_path


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
