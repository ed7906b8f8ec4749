"""The view: every figure is in its picture, the picture fits, the terminal comes back."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.text import Text
from snapshots import START_NS, snapshot

from tollsplit.cli.table import print_snapshot
from tollsplit.cli.view import HEADING, WARNING, Rates, View, picture
from tollsplit.model import Volume
from tollsplit.report import buckets_of
from tollsplit.snapshot import Snapshot

ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


def grown(before: Snapshot, seconds: float) -> Snapshot:
    """Some seconds later: a million packets, a gigaoctet, a fifth of it the sponsors'."""
    return replace(
        before,
        running_s=before.running_s + seconds,
        seen=before.seen + Volume(1_000_000, 1_000_000_000),
        metered=before.metered + Volume(1_000_000, 1_000_000_000),
        subscriber_octets=before.subscriber_octets + 800_000_000,
        sponsor_octets={**before.sponsor_octets,
                        "sponsor-1": before.sponsor_octets["sponsor-1"] + 150_000_000,
                        "sponsor-2": before.sponsor_octets["sponsor-2"] + 50_000_000},
    )


def drawn(now: Snapshot, rates: Rates | None = None, width: int = 80, height: int = 24) -> str:
    """What a terminal of this size shows."""
    out = Console(file=io.StringIO(), width=width, height=height, highlight=False, markup=False,
                  emoji=False)
    out.print(Group(*picture(now, rates or Rates.between(None, now), width, height)))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def rows(text: str, first: str, columns: int) -> dict[str, list[str]]:
    """The rows of a table below the heading that begins with `first`, up to one that is none."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first)) + 1
    found = {}
    for line in lines[start:]:
        name, *cells = line[: 80 - 17 * columns].strip(), *line[80 - 17 * columns:].split("  ")
        cells = [cell.strip() for cell in cells if cell.strip()]
        if len(cells) != columns or name.startswith("payer"):
            break
        found[name] = cells
    return found


def number(text: str) -> int:
    return int(text.replace(",", "").replace("−", "-"))


def test_end_of_a_run_has_no_line_for_what_did_not_occur() -> None:
    """A live run knows each reason for which a token may be refused, whether one was or not."""
    shown = io.StringIO()
    print_snapshot(replace(snapshot(), refused_tokens={"used": Volume(), "expired": Volume(3, 9)}),
                   shown)
    lines = [line for line in shown.getvalue().splitlines() if line.startswith("refused token")]
    assert lines == ["refused token: 3 packets carry one that opens nothing: expired"]


def test_view_snapshot_of_these_tests_adds_up() -> None:
    now = snapshot()
    for unit in ("packets", "octets"):
        parts = [bucket.sign * getattr(bucket.volume, unit) for bucket in buckets_of(now)]
        assert sum(parts) == getattr(now.seen, unit)
    assert now.subscriber_octets + sum(now.sponsor_octets.values()) == now.metered.octets


@pytest.mark.parametrize("height", [24, 40])
def test_view_shown_buckets_add_up_to_what_was_seen(height: int) -> None:
    shown = rows(drawn(snapshot(), height=height), "bucket", 2)
    seen = shown.pop("seen")
    for column in (0, 1):
        assert sum(number(cells[column]) for cells in shown.values()) == number(seen[column])
    assert {"metered", "metered twice", "unattributed", "non-IP", "control", "duplicate"} < set(
        shown)
    assert ("fault: truncated" in shown) == (height > 24)
    assert ("faults of 2 kinds" in shown) == (height == 24)


@pytest.mark.parametrize("sponsors", [0, 1, 2, 9, 200])
def test_view_shown_payers_add_up_to_what_was_metered(sponsors: int) -> None:
    now = snapshot(sponsors)
    shown = rows(drawn(now), "payer", 3)
    assert sum(number(cells[0]) for cells in shown.values()) == now.metered.octets
    assert shown["subscribers"][:2] == [
        "700,000,000", f"{100 * 7e8 / now.metered.octets:.1f} %"]
    if sponsors >= 1:
        assert f"sponsor sponsor-{sponsors}" in shown or sponsors > 2
    hidden = [name for name in shown if name.startswith("…")]
    assert bool(hidden) == (sponsors > 2)
    if sponsors == 200:
        assert hidden == ["… and 199 more sponsors"]


def test_view_faults_and_sponsors_that_are_none() -> None:
    text = drawn(replace(snapshot(0), faults={}))
    assert rows(text, "bucket", 2)["faults"] == ["0", "0"]
    assert list(rows(text, "payer", 3)) == ["subscribers"]


def test_view_first_picture_has_the_rates_since_the_run_began() -> None:
    now = replace(snapshot(), running_s=10.0)
    assert f"{now.seen.packets / 10:,.0f} packets/s" in drawn(now)


def test_view_rates_are_those_since_the_last_picture() -> None:
    before = snapshot()
    now = replace(grown(before, 10.0), unattributed=before.unattributed + Volume(500, 250_000_000))
    now = replace(now, seen=now.seen + Volume(500, 250_000_000))
    text = drawn(now, Rates.between(before, now))
    assert "100,050 packets/s  1.00 Gbit/s  metered 800.00 Mbit/s" in text
    shown = rows(text, "payer", 3)
    assert shown["subscribers"][2] == "640.00 Mbit/s"
    assert shown["sponsor sponsor-1"][2] == "120.00 Mbit/s"
    assert shown["… and 2 more sponsors"][2] == "40.00 Mbit/s"


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_view_where_no_time_passed_there_is_no_rate(seconds: float) -> None:
    now = grown(snapshot(), seconds)
    text = drawn(now, Rates.between(snapshot(), now))
    assert "- packets/s  - bit/s  metered - bit/s" in text
    assert rows(text, "payer", 3)["subscribers"][2] == "- bit/s"
    assert "- packets/s" in drawn(replace(now, running_s=0.0))


def test_view_nothing_seen_divides_by_nothing() -> None:
    none = Volume()
    now = replace(snapshot(0, 0), seen=none, metered=none, metered_twice=none, unattributed=none,
                  non_ip=none, control=none, duplicate=none, faults={}, subscriber_octets=0)
    assert rows(drawn(now), "payer", 3)["subscribers"] == ["0", "-", "0 bit/s"]


def test_view_says_who_runs_since_when_under_which_rules() -> None:
    lines = drawn(snapshot()).splitlines()
    assert lines[0].split("  ") == ["tollsplit", "eth0, eth1", "running 1:02:03", "rules 3f2a9c1b"]
    assert "window 2026-11-01 04:00–05:00 UTC: 3 heaviest, and 12,342 more" in lines
    shown = rows("\n".join(lines), "subscriber   ", 3)
    assert shown["10.20.0.0 (account-0)"] == ["50,000,000", "40,000,000", "10,000,000"]


@pytest.mark.parametrize(("window", "text"), [
    (None, "window of all time: "),
    ((START_NS, START_NS + 86_400 * 10**9), "window 2026-11-01 04:00–11-02 04:00 UTC: "),
    ((START_NS + 10**9, START_NS + 2 * 10**9), "window 2026-11-01 04:00:01–04:00:02 UTC: "),
])  # fmt: skip
def test_view_names_the_open_window(window: tuple[int, int] | None, text: str) -> None:
    assert text in drawn(replace(snapshot(), window=window))


def test_view_no_more_subscribers_than_shown() -> None:
    assert "UTC: 2 heaviest\n" in drawn(snapshot(subscribers=2))


def test_view_shows_the_books_and_what_is_seldom() -> None:
    text = drawn(snapshot())
    for part in ("booked 98,765 records", "not yet: 2 batches, 1.2 MiB on disk",
                 "a power cut would lose 2.0 KiB", "tunnel overhead 4.0 KiB",
                 "coalesced 12 packets", "mismatch 6 packets", "untracked 4 packets",
                 "events: clock_step 1, rules_changed 2"):
        assert part in text
    resent = {"suspicious": Volume(8, 900), "unsolicited": Volume(7, 800),
              "retransmitted": Volume(9, 900),
              "refused_tokens": {"used": Volume(2, 80), "wrong_mac": Volume(3, 120)}}
    more = drawn(replace(snapshot(), **resent), height=40)
    assert "suspicious 8 packets" in more
    assert "unsolicited 7 packets" in more
    assert "refused tokens 5" in more
    assert rows(more, "bucket", 2)["retransmitted"] == ["9", "900"]
    plain = drawn(replace(snapshot(), tunnel_overhead_octets=0, coalesced=Volume(),
                          mismatch=Volume(), untracked=Volume(), events={"clock_step": 0}))
    for word in ("tunnel", "coalesced", "mismatch", "untracked", "suspicious", "unsolicited",
                 "retransmitted", "refused", "events"):
        assert word not in plain


def warned(lines: list[Text]) -> str:
    """What of a picture has the colour of warnings."""
    assert not [line for line in lines if line.style == WARNING]
    return "\n".join(line.plain[span.start : span.end]
                     for line in lines for span in line.spans if span.style == WARNING)


@pytest.mark.parametrize(("change", "text"), [
    ({"lost_kernel": 1_234}, "lost: kernel 1,234, interface 0"),
    ({"lost_interface": 7}, "lost: kernel 0, interface 7"),
    ({"identity_holds": False}, "identity: THE BUCKETS DO NOT ADD UP TO WHAT WAS SEEN"),
    ({"booking_error": "database\nis locked"}, "nothing is booked: database is locked"),
])  # fmt: skip
def test_view_warns(change: dict[str, object], text: str) -> None:
    assert warned(picture(snapshot(), Rates(), 80, 24)) == ""
    now = replace(snapshot(), **change)  # type: ignore[arg-type]
    assert warned(picture(now, Rates(), 80, 24)) == text
    assert text in drawn(now)


def crowded() -> Snapshot:
    """As much of everything as there can be."""
    huge = Volume(2**50, 2**53)
    now = snapshot(300)
    heaviest = tuple(replace(heavy, subscriber="2001:db8:1234:5678::/64", account="用户" * 30)
                     for heavy in now.heaviest)
    return replace(
        now, seen=huge, metered=huge, heaviest=heaviest, running_s=1e8, identity_holds=False,
        interfaces=tuple(f"interface-{i}" for i in range(64)), lost_kernel=2**40,
        faults={f"kind_{i}": Volume(i + 1, 9) for i in range(30)}, booking_error="locked " * 50,
        events={f"kind_{i}": 10**9 for i in range(30)}, subscribers=10**9)


@pytest.mark.parametrize("width", [1, 20, 79, 80, 100, 139, 140, 200])
@pytest.mark.parametrize("height", [1, 8, 24, 31, 32, 50, 100])
def test_view_fits(width: int, height: int) -> None:
    for now in (snapshot(), snapshot(0, 0), snapshot(300), crowded()):
        lines = picture(now, Rates.between(None, now), width, height)
        assert len(lines) <= height
        assert max(line.cell_len for line in lines) <= width
        assert not any("\n" in line.plain for line in lines)
        if width >= 80 and height >= 24:
            text = "\n".join(line.plain for line in lines)
            for part in ("identity: ", "lost: ", "booked ", "seen", "subscribers", "packets/s"):
                assert part in text


def test_view_wide_terminals_have_two_panes_with_the_same_figures() -> None:
    now = snapshot()
    lines = drawn(now, width=160, height=40).splitlines()
    [first] = [i for i, line in enumerate(lines) if line.startswith("bucket")]
    left = "\n".join(line[:58] for line in lines)
    right = "\n".join(line[62:] for line in lines)
    assert right.splitlines()[first].startswith("payer")
    narrow = drawn(now, height=40).splitlines()
    for heading, pane in (("bucket", left), ("payer", right)):
        [start] = [i for i, line in enumerate(narrow) if line.startswith(heading)]
        for line in narrow[start : narrow.index("", start)]:
            assert line.split() in [shown.split() for shown in pane.splitlines()]


def test_view_one_pane_lends_the_other_no_style() -> None:
    """Beside "seen", which is bold, stands a payer, which is not."""
    [line] = [line for line in picture(snapshot(9), Rates(), 160, 40)
              if line.plain.startswith("seen")]
    assert "sponsor" in line.plain
    assert {str(span.style) for span in line.spans if span.start < 58} == {HEADING}
    assert {str(span.style) for span in line.spans if span.end > 58} <= {""}
    assert line.style == ""


def test_view_foreign_text_commands_no_terminal() -> None:
    now = snapshot()
    evil = "a\x1b[2Jb\nc\x07\x9b"
    now = replace(now, sponsor_octets={evil: 6_000_000}, interfaces=(evil,), booking_error=evil,
                  events={evil: 1}, rules_version=evil,
                  heaviest=(replace(now.heaviest[0], account=evil),))
    text = "".join(line.plain for line in picture(now, Rates(), 80, 24))
    assert text.isprintable()
    assert text.count("a�[2Jb c") == 6


# --- on a terminal -------------------------------------------------------------------------


@contextmanager
def terminal() -> Iterator[int]:
    """Standard error is a terminal, whose other end this is."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", stream)
        yield master
    with suppress(OSError):
        os.close(master)


def heard(master: int, until: str, patience_s: float = 10.0) -> str:
    """What a terminal was told, up to some text."""
    said = b""
    end = time.monotonic() + patience_s
    while until.encode() not in said:
        assert select.select([master], [], [], max(0.0, end - time.monotonic()))[0], said
        said += os.read(master, 65_536)
    return said.decode()


def test_view_prints_nothing_where_there_is_no_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    with View() as view:
        view.show(snapshot())
    assert capfd.readouterr() == ("", "")


def test_view_prints_nothing_on_a_terminal_that_only_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal() as master:
        monkeypatch.setenv("TERM", "dumb")
        with View() as view:
            view.show(snapshot())
        assert not select.select([master], [], [], 0.1)[0]


def test_view_draws_and_gives_the_terminal_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = snapshot()
    with terminal() as master:
        with View() as view:
            view.show(before)
            said = heard(master, "events: ")
            assert said.startswith(ENTER)
            assert LEAVE not in said
            assert "identity: the buckets add up to what was seen" in said
            view.show(grown(before, 10.0))
            again = heard(master, "events: ")
            assert "100,000 packets/s  800.00 Mbit/s" in again
            assert "\x1b[2J" not in again  # never wiped: it is written over
        ended = heard(master, LEAVE)
    assert SHOW_CURSOR in ended
    assert capfd.readouterr().out == ""  # the place of results


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_view_gives_the_terminal_back_after_an_error(error: type[BaseException]) -> None:
    with terminal() as master:
        with pytest.raises(error), View() as view:
            view.show(snapshot())
            heard(master, "events: ")
            raise error
        assert SHOW_CURSOR in heard(master, LEAVE)


def test_view_does_not_wait_for_a_terminal_that_does_not_read() -> None:
    with terminal() as master:
        termios.tcflow(sys.stderr.fileno(), termios.TCOOFF)  # Ctrl-S
        started = time.monotonic()
        try:
            with View() as view:
                for second in range(100):
                    view.show(snapshot(running_s=second))
                shown = time.monotonic()
            ended = time.monotonic()
        finally:
            termios.tcflow(sys.stderr.fileno(), termios.TCOON)
        assert shown - started < 0.5
        assert ended - started < 3
        heard(master, LEAVE)


class Gone(io.StringIO):
    """A terminal that goes away between the question whether it is there and the answer."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("while_writing", [False, True])
def test_view_survives_a_terminal_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, while_writing: bool
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    with terminal() as master:
        if while_writing:
            monkeypatch.setattr(sys, "stderr", Gone())
        with View() as view:
            view.show(snapshot())
            if not while_writing:
                heard(master, "events: ")
                os.close(master)
            for second in range(3):
                view.show(snapshot(running_s=second))
                time.sleep(0.05)
    assert not raised
    assert not [thread for thread in threading.enumerate() if thread.name == "view"]


PROGRAM = """
import sys
from snapshots import snapshot
from tollsplit.cli.view import View
with View() as view:
    view.show(snapshot())
    sys.stdin.readline()
    print("the result")
"""


def test_view_fits_a_terminal_that_changes_size() -> None:
    """In a process of its own, whose size is that of its terminal; nothing new is shown to it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    tests = str(Path(__file__).parent)
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), tests])
    # Who runs the tests may have said how wide they are to think their own terminal is.
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=slave, env={**environment, "TERM": "xterm", "PYTHONPATH": path},
    ) as process:
        os.close(slave)
        try:
            small = heard(master, "events: ", 30)
            assert "payer" in small
            assert not [line for line in small.splitlines() if "bucket" in line and "payer" in line]
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
            large = heard(master, "events: ")
            assert [line for line in large.splitlines() if "bucket" in line and "payer" in line]
            out, _ = process.communicate(b"\n", timeout=30)
            assert out == b"the result\n"  # and nothing of the view, nor the result on the terminal
            assert "the result" not in heard(master, LEAVE)
        finally:
            process.kill()
            os.close(master)
