"""A live run that does not come to be, or is asked to end before it is there."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from gateways import (
    PROGRAM,
    Frames,
    Running,
    booked,
    expect_sound,
    packet,
    running,
    wait,
)

from tollsplit.cli.capture import _Signals
from tollsplit.engine.journal import Journal
from tollsplit.errors import JournalError, UsageError
from tollsplit.gateway import Gateway, Options
from tollsplit.gateway.delivery import Delivery
from tollsplit.rules import load
from tollsplit.rules.door import push_rules

pytestmark = pytest.mark.window("1h")


# --- what was begun ---------------------------------------------------------------------


def expect_nothing_is_held(home: Path) -> None:
    """The journal is free, and holds what a run leaves."""
    assert [path.name for path in (home / "journal").iterdir()] == ["test0.lock"]
    with running(home) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
    assert booked(home) == 128
    expect_sound(home)


@pytest.mark.parametrize("door", ["file", "nowhere/door", "x" * 200])
def test_gateway_that_cannot_open_its_door_lets_go_of_all(home: Path, door: str) -> None:
    (home / "file").write_text("no socket")
    with pytest.raises(UsageError, match=door) as refusal:
        Running(home, load(home / "rules.toml"), control=home / door)
    expect_nothing_is_held(home)
    assert (home / "file").read_text() == "no socket"
    del refusal  # it holds on to all frames, and so to what they did not let go of


def test_gateway_that_cannot_see_what_is_left_lets_go_of_all(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(journal: Journal) -> list[Path]:
        raise JournalError("no")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "leftovers", broken)
        with pytest.raises(JournalError, match="no") as refusal:
            Running(home, load(home / "rules.toml"))
    expect_nothing_is_held(home)
    del refusal


def test_gateway_whose_threads_cannot_start_lets_go_of_all(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: Delivery) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Delivery, "start", refused)
        run = Running(home, load(home / "rules.toml"), control=home / "door")
        run.end()
    assert isinstance(run.error, RuntimeError)
    assert not (home / "door").exists()
    expect_nothing_is_held(home)


def test_gateway_that_never_runs_lets_go_of_all(home: Path) -> None:
    gateway = Gateway(Frames(), load(home / "rules.toml"), Options(
        ("test0",), ledger=f"sqlite:///{home}/ledger.db", journal=home / "journal",
        control=home / "door"))
    with pytest.raises(JournalError, match="billed twice"):
        Running(home, load(home / "rules.toml"))
    gateway.close()
    assert not (home / "door").exists()
    expect_nothing_is_held(home)


def test_gateway_leaves_another_its_door(home: Path) -> None:
    with running(home, control=home / "door"):
        with pytest.raises(UsageError, match=r"another gateway.*--control"):
            Running(home, load(home / "rules.toml"), interface="test1", control=home / "door")
        push_rules(load(home / "rules.toml"), home / "door")
    assert not (home / "door").exists()


def test_gateway_takes_over_the_door_of_one_that_died(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(home / "door"))
    with running(home, control=home / "door"):
        push_rules(load(home / "rules.toml"), home / "door")


# --- signals ----------------------------------------------------------------------------


def test_gateway_signals_that_come_at_any_instant_hold_nothing_up(home: Path) -> None:
    """Thousands of them: a handler interrupts whatever its thread is at, other handlers too."""
    fed = home / "fed"
    command = [sys.executable, str(PROGRAM), str(home / "rules.toml"),
               f"sqlite:///{home}/ledger.db", str(home / "journal"), str(fed)]
    said = home / "said"
    with said.open("w") as errors, subprocess.Popen(command, stderr=errors) as run:
        try:
            wait(lambda: fed.exists() and fed.stat().st_size > 160, 30)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                os.kill(run.pid, signal.SIGHUP)
                time.sleep(50e-6)  # a handler has no time to be interrupted by a thousand others
            before = fed.stat().st_size
            wait(lambda: fed.stat().st_size > before)
            os.kill(run.pid, signal.SIGTERM)
            assert run.wait(10) == 0, said.read_text()[-2000:]
        finally:
            run.kill()
    assert not list((home / "journal").glob("*.segment"))
    expect_sound(home)


class Told:
    """What signals tell a gateway."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def stop(self, hurry: bool) -> None:
        self.calls.append(("stop", hurry))

    def reload(self, path: Path) -> None:
        self.calls.append(("reload", path))


def test_signals_before_there_is_a_gateway_are_told_to_it(home: Path) -> None:
    told = Told()
    before = signal.getsignal(signal.SIGTERM)
    with _Signals(home) as signals:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(number)
        signals.tell(told)  # type: ignore[arg-type]
        assert sorted(map(str, told.calls)) == sorted(
            map(str, [("stop", True), ("reload", home)]))
        signal.raise_signal(signal.SIGINT)
        assert told.calls[2:] == [("stop", True)]
    assert signal.getsignal(signal.SIGTERM) == before


def test_signal_that_comes_twice_ends_a_start_that_hangs(home: Path) -> None:
    # Whoever runs the tests in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _Signals(home):
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_gateway_asked_to_hurry_waits_no_longer_for_its_ledger(home: Path) -> None:
    """It was asked to end before, and waits for a ledger that another holds."""
    run = Running(home, load(home / "rules.toml"))
    run.frames.lanes[0].give(packet(time.time_ns()))
    wait(lambda: run.last.seen.packets and (home / "ledger.db").exists())
    with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        run.gateway.stop()
        time.sleep(1.5)
        since = time.monotonic()
        run.end(hurry=True)
        assert time.monotonic() - since < 2
        other.execute("ROLLBACK")
    wait(lambda: not run.gateway._books.delivery.is_alive())  # type: ignore[union-attr]
    with running(home):
        pass
    assert booked(home) == 128
    expect_sound(home)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_firewall_process_outlives_signals_and_ends_when_it_is_let_go(
    number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "tollsplit.gateway.firewall", "inet", "none", "none"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        ignored = Path(f"/proc/{process.pid}/status")
        wait(lambda: int(ignored.read_text().split("SigIgn:")[1].split()[0], 16)
             >> signal.SIGTERM - 1 & 1)
        process.send_signal(number)
        time.sleep(0.1)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0
