"""A live run from frames to books, without an interface: see gateways.py."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from gateways import (
    HEADER,
    RULES,
    Running,
    booked,
    expect_sound,
    packet,
    rows,
    running,
    wait,
    write_rules,
)

import tollsplit
from tollsplit.cext.reader import Reader
from tollsplit.engine import journal as journals
from tollsplit.engine.journal import Journal, read
from tollsplit.engine.live import Generation
from tollsplit.errors import JournalError, RulesError, UsageError
from tollsplit.gateway import delivery, push_rules, session
from tollsplit.ledger import Ledger, Receipt, open_ledger
from tollsplit.model import Event
from tollsplit.rules import RuleSet, load
from tollsplit.snapshot import Notice

PROGRAM = Path(__file__).with_name("gateways.py")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with rules, and a short name: a socket's path has 107 octets."""
    write_rules(tmp_path)
    return tmp_path


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


# --- rules ------------------------------------------------------------------------------


def test_gateway_rules_change_at_an_instant(home: Path) -> None:
    """Every packet is metered once, by the rules of its timestamp; records mix none."""
    with running(home, write_rules(home, window="1h"), document=True) as run:
        stop = threading.Event()
        given = []

        def feed() -> None:
            while not stop.is_set():
                given.append(time.time_ns())
                run.frames.lanes[0].give(packet(given[-1]))
                time.sleep(0.0005)

        feeding = threading.Thread(target=feed)
        feeding.start()
        time.sleep(0.3)
        after = write_rules(home, "50%", window="1h")
        (home / "control").mkdir()
        instants = [run.gateway._take_rules(after)]  # the door's way
        time.sleep(0.3)
        write_rules(home, "30%", window="1h")
        run.gateway.reload(home / "rules.toml")  # the signal's way
        wait(lambda: run.kinds().count("rules") == 2)
        time.sleep(0.2)
        stop.set()
        feeding.join()
    reports = run.gateway.reports
    assert [len(report.usage) for report in reports] == [1, 1, 1]
    assert sum(report.seen.packets for report in reports) == len(given)
    assert [report.sponsor_octets["video-co"] for report in reports] == [
        _share(reports, 0, 70), _share(reports, 1, 50), _share(reports, 2, 30)]
    first, second, third = (report.usage.record(0) for report in reports)
    [instant] = instants
    assert first.last_packet_ns < instant <= second.first_packet_ns
    assert second.last_packet_ns < third.first_packet_ns
    before = sum(at < instant for at in given)
    assert first.uplink_packets == before
    assert booked(home) == len(given) * 128
    expect_sound(home)


def _share(reports: list[tollsplit.Report], number: int, percent: int) -> int:
    """The running total of the window goes on, whatever the rules' version."""
    before = sum(report.tally.metered.octets for report in reports[:number])
    return ((before + reports[number].tally.metered.octets) * percent // 100
            - before * percent // 100)


def test_gateway_broken_rules_leave_those_in_force(home: Path) -> None:
    with running(home, booked=False) as run:
        (home / "rules.toml").write_text("[[rules]]\nid = 7")
        run.gateway.reload(home / "rules.toml")
        wait(lambda: "rules_refused" in run.kinds())
        run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: run.last.seen.packets)
    [notice] = run.told
    assert isinstance(notice, Notice)
    assert "rules.toml:2" in notice.text and "rules in force stay" in notice.text
    assert run.last.sponsor_octets == {"video-co": 89}


def test_gateway_takes_rules_through_its_door(home: Path) -> None:
    with running(home, booked=False, control=home / "control") as run:
        (home / "servers.txt").write_text("198.51.100.0/24\n")
        rules = write_rules(home, "10%")
        text = (home / "rules.toml").read_text()
        (home / "rules.toml").write_text(text.replace('["203.0.113.0/24"]', '"servers.txt"'))
        rules = load(home / "rules.toml")
        (home / "servers.txt").unlink()  # what counts is what was pushed
        version, since_ns = push_rules(rules, home / "control")
        assert version == rules.version
        assert abs(since_ns - time.time_ns()) < 5 * 10**9
        run.frames.lanes[0].give(packet(time.time_ns(), server=0xC6336401))
        wait(lambda: run.last.seen.packets)
        assert push_rules(rules, home)[0] == version  # again: nothing changes
        assert (home / "control").stat().st_mode & 0o777 == 0o600
        trusted = load_with(home, '[ingress.a]\ninterface = "test0"\n')
        with pytest.raises(RulesError, match="start the capture anew"):
            push_rules(trusted, home / "control")
    assert run.last.sponsor_octets == {"video-co": 12}
    with pytest.raises(UsageError, match="no gateway answers"):
        push_rules(rules, home / "control")


def load_with(home: Path, more: str) -> RuleSet:
    path = home / "more.toml"
    path.write_text(RULES.format(share="70%", more="") + more)
    return load(path)


@pytest.mark.parametrize("request_", [
    b"", b"\x05", struct.pack("<Q", 2**60), struct.pack("<Q", 4) + b"null",
    struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 30) + b'{"path":1,"content":{"":"x"}}   ',
])
def test_gateway_door_survives_nonsense(home: Path, request_: bytes) -> None:
    with running(home, booked=False, control=home / "door"):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(os.fspath(home / "door"))
            caller.settimeout(5)
            with suppress(ConnectionError):  # hung up before all was sent
                caller.sendall(request_)
                caller.shutdown(socket.SHUT_WR)
                while caller.recv(4096):
                    pass
        push_rules(load(home / "rules.toml"), home / "door")


# --- events -----------------------------------------------------------------------------


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

    def refused(file: Any, octets: bytes) -> None:
        if full.is_set():
            write(file, octets[: len(octets) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, octets)

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


def test_journal_segment_is_read_as_far_as_it_is_whole(home: Path) -> None:
    """Cut anywhere: what is read is what whole entries hold, and nothing raises but at the head."""
    with running(home, write_rules(home, window="1h")) as run:
        for number in range(3):
            run.frames.lanes[0].give(packet(time.time_ns()))
            wait(lambda number=number: run.last.seen.packets > number)  # type: ignore[misc]
        [segment] = (home / "journal").glob("*.segment")
        octets = segment.read_bytes()
    cut = home / "cut.segment"
    found = []
    for length in (*range(0, len(octets), 7), len(octets)):
        cut.write_bytes(octets[:length])
        try:
            contents = read(cut)
        except JournalError:
            found.append(-1)
            continue
        assert contents.records is None
        found.append(contents.counted.seen[0])
    assert found == sorted(found)
    assert set(found) == {-1, 0, 1, 2, 3}
    for place in range(len(octets) - 400, len(octets), 3):  # a bit that fell over
        cut.write_bytes(octets[:place] + bytes([octets[place] ^ 4]) + octets[place + 1 :])
        assert read(cut).counted.seen[0] <= 3


def test_journal_swollen_segment_is_written_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "JOURNAL_SEGMENT_OCTETS", 2000)
    sizes = set()
    with running(home, write_rules(home, window="1h"), flush_s=0.02) as run:
        for _ in range(60):
            run.frames.lanes[0].give(packet(time.time_ns()))
            time.sleep(0.02)
            sizes |= {path.stat().st_size for path in (home / "journal").glob("*.segment")}
        [segment] = (home / "journal").glob("*.segment")
        wait(lambda: run.last.seen.packets == 60)
        assert read(segment).counted.seen == (60, 60 * 128)
    assert max(sizes) < 60 * 300
    assert booked(home) == 60 * 128


def test_journal_has_every_cell_that_is_met_while_it_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker meets a new cell while an entry goes to the disk: the next entry must have it."""
    rules = write_rules(home)
    generation = Generation(rules)
    first, second = generation.meter(), generation.meter()
    now_ns = time.time_ns()
    feed(first, packet(now_ns))
    sync = os.fdatasync

    def slow(descriptor: int) -> None:
        sync(descriptor)
        if not second.seen[0]:
            feed(second, packet(now_ns + 3 * 10**9))

    with closing(Journal(home / "journal", ("test0",))) as journal:
        segment = journal.create(journals.Head("s", "e", 0, "tollsplit", rules))
        monkeypatch.setattr(journals.os, "fdatasync", slow)
        segment.add(generation, first)
        segment.add(generation, second)
        segment.seal(2)
    assert read(segment.path).counted.seen == (2, 256)


def feed(meter: Any, records: bytes) -> None:
    reader = Reader()
    reader.feed(HEADER + records, True)
    meter.run(reader)


def test_journal_of_other_rules_files_needs_none_of_them(home: Path) -> None:
    rules = write_rules(home)
    with closing(Journal(home / "journal", ("test0",))) as journal:
        segment = journal.create(journals.Head("s", "e", 0, "tollsplit", rules))
        segment.close()
        (home / "rules.toml").unlink()
        assert read(segment.path).head.rules == rules
        assert journal.leftovers() == [segment.path]


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
