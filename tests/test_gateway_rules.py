"""Other rules for a live run: at an instant, from a signal, through the door."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from gateways import (
    booked,
    expect_sound,
    load_other,
    load_with,
    packet,
    rows,
    running,
    wait,
    write_rules,
)

import tollsplit
from tollsplit.errors import RulesError, UsageError
from tollsplit.rules import RuleSet, load
from tollsplit.rules.door import push_rules
from tollsplit.snapshot import Notice
from tollsplit.tokens.keys import add_key


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


@pytest.mark.parametrize("before_s", [0.2, 0.06, 0.02, 0.0, -0.05])
def test_gateway_rules_that_come_as_a_window_ends_mix_nothing(home: Path, before_s: float) -> None:
    """Each octet is in the record of its window and of the rules of its instant."""
    versions = [load(home / "rules.toml"), load_other(home, "1s")]
    given: list[int] = []
    stop = threading.Event()

    def feed() -> None:
        while not stop.wait(0.001):
            given.append(time.time_ns())
            run.frames.lanes[0].give(packet(given[-1]))

    changes = [(0, versions[0].version)]
    with running(home) as run:
        feeding = threading.Thread(target=feed)
        feeding.start()
        for number in (1, 2, 3):
            time.sleep(1 - (time.time() + before_s) % 1)
            rules = versions[number % 2]
            changes.append((run.gateway._take_rules(rules), rules.version))
        time.sleep(0.3)
        stop.set()
        feeding.join()
    expected: dict[tuple[int, str], int] = {}
    for at_ns in given:
        version = [version for since, version in changes if since <= at_ns][-1]
        key = at_ns // 10**9 * 10**9, version
        expected[key] = expected.get(key, 0) + 128
    found = rows(home, "SELECT window_start_ns, rules_version, sum(uplink_octets) "
                       "FROM usage_records JOIN runs ON runs.id = run_id GROUP BY 1, 2")
    assert {(start, version): octets for start, version, octets in found} == expected
    assert booked(home) == len(given) * 128
    expect_sound(home)


def test_gateway_rules_that_come_together_are_in_force_one_after_the_other(home: Path) -> None:
    """And none waits for the next flush."""
    others = [load_other(home, "1h"), load_with(home, "# more\n"), load_with(home, "# most\n")]
    instants: dict[str, int] = {}

    def push(rules: RuleSet) -> None:
        instants[rules.version] = run.gateway._take_rules(rules)

    with running(home, write_rules(home, window="1h"), flush_s=30.0, watched=False) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
        pushing = [threading.Thread(target=push, args=(rules,)) for rules in others]
        for thread in pushing:
            thread.start()
        wait(lambda: len(instants) == 3, 5)
        run.frames.lanes[0].give(packet(time.time_ns()))
    assert booked(home) == 2 * 128
    last = max(instants, key=lambda version: instants[version])
    assert len(set(instants.values())) == 3
    assert run.gateway._counting.generation.rules.version == last
    expect_sound(home)


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


def test_gateway_that_ends_refuses_rules_that_wait(home: Path) -> None:
    """They came while it counted what was left: who pushed them is told, and does not wait."""
    other = load_other(home)
    answers: list[object] = []

    def push() -> None:
        try:
            answers.append(run.gateway._take_rules(other))
        except RulesError as error:
            answers.append(error)

    with running(home) as run:
        run.gateway.stop()
        wait(lambda: not run.gateway._counting.running)
        for _ in range(2):
            threading.Thread(target=push, daemon=True).start()
    push_late = threading.Thread(target=push, daemon=True)
    push_late.start()
    wait(lambda: len(answers) == 3, 3)
    assert all(isinstance(answer, RulesError) and "ends" in str(answer) for answer in answers)


def test_gateway_reads_keys_again_with_rules_that_stay(home: Path) -> None:
    """A new key needs no new rules; a file that others may read leaves the keys in force."""
    keys = home / "video.keys"
    add_key(keys, "video-co")
    text = (home / "rules.toml").read_text().replace(
        'server = ["203.0.113.0/24"]', 'token = "video-co"')
    (home / "rules.toml").write_text(f'{text}\n[tokens]\nkeys = "video.keys"\n')
    with running(home, load(home / "rules.toml"), booked=False) as run:
        gate = run.gateway._gate
        assert [key.id for key in gate.keys] == [1]
        keys.chmod(0o644)
        run.gateway.reload(home / "rules.toml")
        wait(lambda: "rules_refused" in run.kinds())
        assert "chmod 600" in next(each.text for each in run.told if isinstance(each, Notice))
        assert [key.id for key in gate.keys] == [1]
        keys.chmod(0o600)
        add_key(keys, "video-co")
        run.gateway.reload(home / "rules.toml")
        wait(lambda: [key.id for key in gate.keys] == [1, 2])
        assert run.kinds().count("rules") == 0  # no generation ends for that
