"""A live run from frames to books, without an interface: see gateways.py."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from gateways import (
    HEADER,
    PROGRAM,
    Running,
    booked,
    expect_sound,
    load_with,
    packet,
    rows,
    running,
    wait,
    write_rules,
)

import tollsplit
from tollsplit.engine import journal as journals
from tollsplit.errors import JournalError, RulesError
from tollsplit.gateway import delivery
from tollsplit.ledger import Ledger, Receipt, open_ledger
from tollsplit.model import Event
from tollsplit.rules import load

# --- counting ---------------------------------------------------------------------------


def test_gateway_counts_each_frame_once_and_as_account_does(home: Path) -> None:
    now_ns = time.time_ns()
    batches = [b"".join(packet(now_ns + 1000 * (10 * batch + i), 100 + i, 0x0A000000 + i % 7,
                               uplink=bool(i % 3)) for i in range(10)) for batch in range(200)]
    with running(home, booked=False, document=True, workers=3, flush_s=0.01) as run:
        for number, batch in enumerate(batches):
            run.frames.lanes[number % 3].give(batch)
            time.sleep(0.001)
    (home / "seen.pcap").write_bytes(HEADER + b"".join(batches))
    offline = tollsplit.account(home / "seen.pcap", home / "rules.toml").document()
    [report] = run.gateway.reports
    live = report.document()
    assert offline["seen"] == {"packets": 2000, "octets": 200 * sum(range(100, 110))}
    for own in ("elapsed_s", "packets_per_s", "lost"):
        del live[own], offline[own]
    assert live == offline
    assert len(run.looks) > 3  # counters were taken away meanwhile
    assert run.last.seen.packets == 2000


def test_gateway_windows_close_while_packets_arrive_and_each_record_is_one(home: Path) -> None:
    given = 0
    with running(home) as run:
        end = time.monotonic() + 3.2
        while time.monotonic() < end:
            run.frames.lanes[0].give(packet(time.time_ns()))
            given += 128
            time.sleep(0.001)
        wait(lambda: run.last.booked_records >= 2)  # windows that are over are booked
    assert booked(home) == given
    records = rows(home, "SELECT window_start_ns, window_end_ns, first_packet_ns, last_packet_ns, "
                         "uplink_octets FROM usage_records ORDER BY 1")
    assert len(records) in (4, 5)
    assert len({start for start, *_ in records}) == len(records)
    assert all(start <= first <= last < end for start, end, first, last, _ in records)
    sequences = rows(home, "SELECT first_sequence, records FROM runs ORDER BY 1")
    assert [first for first, _ in sequences] == list(range(len(records)))
    expect_sound(home)


def test_gateway_late_packet_is_a_further_delta_of_its_window(home: Path) -> None:
    with running(home) as run:
        late_ns = time.time_ns()
        run.frames.lanes[0].give(packet(late_ns))
        wait(lambda: run.last.booked_records)
        run.frames.lanes[0].give(packet(late_ns + 1))
    found = rows(home, "SELECT window_start_ns, uplink_octets FROM usage_records")
    assert found == [(late_ns // 10**9 * 10**9, 128)] * 2
    # The share is that of the window's running total: ⌊256 · 0.7⌋ = 179 = 89 + 90.
    assert rows(home, "SELECT octets FROM usage_shares ORDER BY run_id") == [(89,), (90,)]


def test_gateway_totals_go_on_over_windows_and_from_earlier_runs(home: Path) -> None:
    rules = write_rules(home, "100%", ', quota = "1000", per = "day"')
    for _ in range(2):
        with running(home, rules) as run:
            for _ in range(3):
                run.frames.lanes[0].give(packet(time.time_ns()) + packet(time.time_ns() + 1))
                time.sleep(1.0)
    assert booked(home) == 2 * 6 * 128
    assert rows(home, "SELECT sum(octets) FROM usage_shares") == [(1000,)]
    assert run.last.sponsor_octets == {"video-co": 1000 - 6 * 128}
    assert [event.kind for event in run.told if isinstance(event, Event)] == ["quota_end"]
    expect_sound(home)


def test_gateway_ledger_that_answers_late_is_heard(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows close before the run knows what earlier ones used up; then both count."""
    rules = write_rules(home, "100%", ', quota = "1200", per = "day"')
    with running(home, rules) as run:
        run.frames.lanes[0].give(packet(time.time_ns(), 600))
    ask = delivery.Delivery._ask

    def late(self: delivery.Delivery) -> None:
        time.sleep(2.5)
        ask(self)

    monkeypatch.setattr(delivery.Delivery, "_ask", late)
    with running(home, rules) as run:
        for _ in range(10):
            run.frames.lanes[0].give(packet(time.time_ns(), 100))
            time.sleep(0.4)
        wait(lambda: "quota_end" in run.kinds())
        run.frames.lanes[0].give(packet(time.time_ns(), 100))
    assert rows(home, "SELECT sum(octets) FROM usage_shares") == [(1200,)]
    assert booked(home) == 600 + 1100
    [event] = [event for event in run.told if isinstance(event, Event)]
    assert (event.octets, event.threshold_octets) == (1200, 1200)


def test_gateway_stops_within_two_seconds(home: Path) -> None:
    run = Running(home, load(home / "rules.toml"))
    run.frames.lanes[0].give(packet(time.time_ns()))
    time.sleep(0.3)
    since = time.monotonic()
    run.end(hurry=True)
    assert time.monotonic() - since < 2
    assert run.error is None
    assert booked(home) == 128


def test_gateway_worker_that_fails_ends_the_run_and_what_it_counted_is_kept(home: Path) -> None:
    run = Running(home, load(home / "rules.toml"))
    run.frames.lanes[0].give(packet(time.time_ns()))
    time.sleep(0.2)
    run.frames.lanes[0].give("no octets")  # type: ignore[arg-type]
    run.end()
    assert isinstance(run.error, TypeError)
    assert booked(home) == 128


# --- journal and ledger -----------------------------------------------------------------


def test_gateway_ledger_that_is_away_gets_everything_when_it_is_back(home: Path) -> None:
    with open_ledger(f"sqlite:///{home}/ledger.db"):
        pass
    os.rename(home / "ledger.db", home / "away.db")
    (home / "ledger.db").mkdir()
    with running(home) as run:
        wait(lambda: "booking" in run.kinds())
        run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: run.last.unbooked_batches >= 1)
        wait(lambda: run.last.booking_error)
        os.rmdir(home / "ledger.db")
        os.rename(home / "away.db", home / "ledger.db")
        wait(lambda: run.last.booked_records == 1, 40)
        wait(lambda: run.last.booking_error is None)
    assert booked(home) == 128
    assert not list((home / "journal").glob("*.segment"))


def test_gateway_that_ends_without_its_ledger_leaves_all_to_the_next(home: Path) -> None:
    (home / "ledger.db").mkdir()
    with running(home) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: run.last.seen.packets)
    assert run.last.booking_error
    os.rmdir(home / "ledger.db")
    with running(home) as run:
        wait(lambda: run.last.booked_records == 1)
    assert booked(home) == 128
    expect_sound(home)


def test_gateways_that_race_for_a_budget_spend_it_to_the_octet(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have worked out the same window's bill before either is booked."""
    path = home / "rules.toml"
    path.write_text(path.read_text().replace(
        "[sponsors.video-co]", '[sponsors.video-co]\nbudget = "1000"'))
    both, post, outcomes = threading.Barrier(2), Ledger.post, []

    def together(ledger: Ledger, *asked: Any) -> Receipt:
        if both.n_waiting + len(outcomes) < 2:
            both.wait(10)
        outcomes.append("stale")
        receipt = post(ledger, *asked)
        outcomes[outcomes.index("stale")] = "booked"
        return receipt

    monkeypatch.setattr(Ledger, "post", together)
    with running(home, load(path), journal=home / "one", source="one") as one, running(
        home, load(path), journal=home / "two", source="two"
    ) as two:
        time.sleep(1.05 - time.time() % 1)  # a window begins
        for run in (one, two):
            run.frames.lanes[0].give(b"".join(packet(time.time_ns()) for _ in range(10)))
        wait(lambda: one.last.booked_records == two.last.booked_records == 1)
        assert "booking" not in one.kinds() + two.kinds()
    assert outcomes.count("stale") == 1
    assert rows(home, "SELECT sum(octets) FROM usage_shares") == [(1000,)]
    assert rows(home, "SELECT sum(subscriber_octets) FROM usage_records") == [(1560,)]
    expect_sound(home)


def test_gateway_delivers_a_segment_twice_and_books_it_once(home: Path) -> None:
    with running(home) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: list((home / "journal").glob("*.segment")))
        time.sleep(0.2)
        [segment] = (home / "journal").glob("*.segment")
        copy = segment.read_bytes()
    assert booked(home) == 128
    segment.write_bytes(copy)  # as if the machine had died before it was taken off the disk
    with running(home) as run:
        wait(lambda: not segment.exists())
    assert booked(home) == 128
    expect_sound(home)


def test_gateway_damaged_segment_is_set_aside_and_does_not_stop_the_others(home: Path) -> None:
    (home / "journal").mkdir()
    (home / "journal" / "0000.000.segment").write_bytes(b"nonsense")
    with running(home) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
    assert booked(home) == 128
    assert [path.name for path in (home / "journal").glob("*.damaged")] == [
        "0000.000.segment.damaged"]
    assert "booking" in run.kinds()


def test_gateway_second_run_on_an_interface_is_refused(home: Path) -> None:
    with running(home), pytest.raises(JournalError, match=f"test0.*{os.getpid()}.*billed twice"):
        Running(home, load(home / "rules.toml"))


def test_gateway_full_disk_keeps_counting_and_catches_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    write = journals._write

    def refused(file: Any, octets: bytes, place: int) -> None:
        if full.is_set():
            write(file, octets[: len(octets) // 2], place)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, octets, place)

    monkeypatch.setattr(journals, "_write", refused)
    with running(home) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
        time.sleep(0.2)
        full.set()
        for _ in range(12):
            run.frames.lanes[0].give(packet(time.time_ns()))
            time.sleep(0.2)  # more than two windows
        assert run.kinds().count("journal") == 1
        assert run.last.unflushed_octets >= 11 * 128
        with pytest.raises(RulesError, match="No space left"):
            run.gateway._take_rules(load_with(home, "# other\n"))
        full.clear()
        wait(lambda: run.kinds().count("journal") == 2)
        wait(lambda: run.last.unflushed_octets == 0)
    assert booked(home) == 13 * 128
    assert run.last.seen.octets == 13 * 128
    expect_sound(home)


@pytest.mark.parametrize("delay_s", [0.3, 0.55, 0.8, 1.05, 1.3, 1.55])
def test_gateway_killed_bills_nothing_twice_and_loses_a_flush_at_most(
    home: Path, delay_s: float
) -> None:
    """kill -9, again and again on the same books; then a run that ends well."""
    command = [sys.executable, str(PROGRAM), str(home / "rules.toml"),
               f"sqlite:///{home}/ledger.db", str(home / "journal")]
    given = late = 0
    for number in range(3):
        fed = home / f"fed{number}"
        with subprocess.Popen([*command, str(fed)], stderr=subprocess.DEVNULL) as run:
            wait(lambda fed=fed: fed.exists() and fed.stat().st_size > 160, 30)
            time.sleep(delay_s)
            run.send_signal(signal.SIGKILL if number < 2 else signal.SIGTERM)
        entries = list(struct.iter_unpack("<QQ", fed.read_bytes()))
        given += entries[-1][1] * 128
        # Fed within the last flush and what it takes to be written, on a busy machine too.
        late += sum(at > entries[-1][0] - 10**9 for at, _ in entries) * 5 * 128
    with running(home):
        pass
    assert given - late <= booked(home) <= given
    expect_sound(home)
    assert not list((home / "journal").glob("*.segment"))
