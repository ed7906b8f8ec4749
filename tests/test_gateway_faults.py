"""What a live run's books are worth when it dies, or something fails, at the worst of times."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gateways import (
    Frames,
    Running,
    booked,
    expect_sound,
    packet,
    rows,
    running,
    wait,
    write_rules,
)

from tollsplit.engine import journal as journals
from tollsplit.engine.journal import Journal, Segment, read
from tollsplit.errors import JournalError, TollsplitError
from tollsplit.gateway import Gateway, Options
from tollsplit.ledger import Ledger
from tollsplit.rules import load

AT_ONCE = 12
DIED, FAILED = 70, 71


pytestmark = pytest.mark.window("1h")


# --- death at each step -----------------------------------------------------------------


class Fault:
    """Counts what touches the disk or the ledger; at one of these steps something happens."""

    def __init__(self, step: int, happens: Callable[[], None] | None) -> None:
        self.passed = 0
        self._step = step
        self._happens = happens or (lambda: os._exit(DIED))
        self._dies = happens is None
        self._lock = threading.Lock()

    def pass_(self) -> None:
        with self._lock:
            self.passed += 1
            if self.passed == self._step:
                self._happens()

    def wrap(self, owner: Any, name: str) -> None:
        """Steps are before a call, and after it too where one dies: what is done has not failed."""
        call = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.pass_()
            result = call(*arguments, **named)
            if self._dies:
                self.pass_()
            return result

        setattr(owner, name, wrapped)


def scenario(home: Path, step: int, happens: Callable[[], None] | None) -> None:
    """In a process of its own: two rotations, compactions, deliveries; what was given and what was
    flushed is noted in octets.

    happens   None: it dies
    """
    journals.JOURNAL_SEGMENT_OCTETS = 1  # type: ignore[misc]
    fault = Fault(step, happens)
    given = os.open(home / "given", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    flushed = os.open(home / "flushed", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    add = Segment.add

    def noted(self: Segment, generation: Any, counted: Any) -> None:
        octets = counted.seen[1]
        add(self, generation, counted)
        os.write(flushed, b"." * octets)

    Segment.add = noted  # type: ignore[method-assign]
    for owner, name in ((os, "replace"), (os, "fdatasync"), (os, "fsync"), (Path, "unlink"),
                        (Ledger, "post")):
        fault.wrap(owner, name)
    for owner, name in ((Segment, "seal"), (Segment, "discard"), (Journal, "create")):
        if happens is None:  # else they fail by what they call
            fault.wrap(owner, name)
    frames = Frames()
    gateway = Gateway(
        frames, load(home / "rules.toml"),
        Options(("test0",), 0.02, f"sqlite:///{home}/ledger.db", home / "journal", source="test"))
    other = load(home / "other.toml")

    def feed() -> None:
        for number in range(9):
            os.write(given, b"." * 128)
            frames.lanes[0].give(packet(time.time_ns(), subscriber=0x0A000000 + number % 4))
            time.sleep(0.03)
            if number in (2, 5):
                with suppress(TollsplitError):
                    gateway._take_rules((other, load(home / "rules.toml"))[number // 5])
        gateway.stop()

    threading.Thread(target=feed, daemon=True).start()
    gateway.run()
    (home / "steps").write_text(str(fault.passed))


def fork(home: Path, step: int, happens: Callable[[], None] | None) -> int:
    child = os.fork()
    if child == 0:
        try:
            scenario(home, step, happens)
        except BaseException:
            os._exit(FAILED)
        os._exit(0)
    return child


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def place_of(home: Path, step: int) -> Path:
    place = home / str(step)
    place.mkdir()
    write_rules(place, "50%", window="1h")
    (place / "rules.toml").rename(place / "other.toml")
    write_rules(place, window="1h")
    return place


def each_step(
    home: Path, happens: Callable[[], None] | None
) -> Iterator[tuple[int, Path, int]]:
    """(step, folder, exit status), some of them run at once; step 0: nothing happens."""
    steps = [0]
    while steps:
        now, steps = steps[:AT_ONCE], steps[AT_ONCE:]
        runs = [(step, place, fork(place, step, happens))
                for step in now for place in [place_of(home, step)]]
        for step, place, child in runs:
            yield step, place, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if not step:
                steps = list(range(1, int((place / "steps").read_text()) + 1))


def kept(home: Path) -> int:
    """Octets that are in the ledger, or in the journal and not in the ledger."""
    octets, known = 0, set()
    with suppress(Exception):
        octets, known = booked(home), set(rows(home, "SELECT epoch, first_sequence FROM runs"))
    for path in (home / "journal").glob("*.segment"):
        with suppress(JournalError):
            contents = read(path)
            if (contents.head.epoch, contents.head.first_sequence) not in known:
                octets += contents.counted.seen[1]
    return octets


def expect_all_is_booked(step: int, home: Path, octets: int) -> None:
    with running(home) as run:
        pass
    assert booked(home) == octets, f"step {step}"
    expect_sound(home)
    left = {path.name for path in (home / "journal").iterdir()} - {"test0.lock"}
    assert not left, f"step {step}: {left}, {run.told}"


def test_gateway_that_dies_at_any_step_has_booked_what_it_flushed_once(home: Path) -> None:
    statuses = []
    for step, place, status in each_step(home, None):
        statuses.append(status)
        assert status in (0, DIED), step
        octets = kept(place)
        least, most = (place / "flushed").stat().st_size, (place / "given").stat().st_size
        assert least <= octets <= most, step
        expect_all_is_booked(step, place, octets)
    assert statuses[0] == 0 and statuses.count(DIED) > 50


def test_gateway_whose_disk_or_ledger_fails_once_at_any_step_books_all_once(home: Path) -> None:
    for step, place, status in each_step(home, fail):
        given = (place / "given").stat().st_size
        assert status == (0 if given else FAILED), step  # only what cannot begin ends
        expect_all_is_booked(step, place, given)


# --- the end ----------------------------------------------------------------------------


def test_gateways_that_end_together_book_all_that_they_counted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have worked out their last bill, from the same budget, before either is booked."""
    path = home / "rules.toml"
    path.write_text(path.read_text().replace(
        "[sponsors.video-co]", '[sponsors.video-co]\nbudget = "1000"'))
    both, post = threading.Barrier(2), Ledger.post
    waited: set[str] = set()

    def together(ledger: Ledger, run: Any, *asked: Any) -> Any:
        if run.source not in waited:
            waited.add(run.source)
            both.wait(10)
        return post(ledger, run, *asked)

    monkeypatch.setattr(Ledger, "post", together)
    runs = [Running(home, load(path), interface=name, source=name) for name in ("one", "two")]
    for run in runs:
        run.frames.lanes[0].give(b"".join(packet(time.time_ns()) for _ in range(10)))
        wait(lambda run=run: run.last.seen.packets == 10)
    for run in runs:
        run.gateway.stop()
    for run in runs:
        run.end()
        assert run.error is None
        assert run.last.booking_error is None and "booking" not in run.kinds()
    assert waited == {"one", "two"}
    assert booked(home) == 2 * 1280
    assert rows(home, "SELECT sum(octets) FROM usage_shares") == [(1000,)]
    assert not list((home / "journal").glob("*.segment"))
    expect_sound(home)
