"""The journal: what is read back is what was counted, once."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from batches import SUBSCRIBERS, segments
from gateways import (
    HEADER,
    booked,
    expect_sound,
    packet,
    running,
    wait,
    write_rules,
)

from tollsplit.cext.reader import Reader
from tollsplit.engine import journal as journals
from tollsplit.engine.journal import Journal, read
from tollsplit.engine.live import Generation
from tollsplit.errors import JournalError
from tollsplit.rules import load

pytestmark = pytest.mark.window("1h")


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


def fail(*arguments: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


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


# --- while something fails ---------------------------------------------------------------


def test_journal_that_cannot_be_compacted_counts_nothing_twice(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for entries, and none for a second copy of all of them."""
    monkeypatch.setattr(journals, "JOURNAL_SEGMENT_OCTETS", 1)
    monkeypatch.setattr(os, "replace", fail)
    with running(home) as run:
        for _ in range(6):
            run.frames.lanes[0].give(packet(time.time_ns()))
            time.sleep(0.06)
        wait(lambda: run.last.seen.packets == 6)
    assert booked(home) == 6 * 128
    assert run.last.unflushed_octets == 0
    assert 1 <= run.kinds().count("journal") < 4
    expect_sound(home)


@pytest.mark.parametrize("many", [1, 50])
@pytest.mark.parametrize("torn", [True, False])
def test_journal_entry_that_fails_and_cannot_be_cut_off_is_written_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, many: int, torn: bool
) -> None:
    """Half of it is in the file, or all of it; what comes next is shorter, or longer."""
    rules = load(home / "rules.toml")
    generation = Generation(rules)
    write = journals._write

    def half(file: Any, octets: bytes, place: int) -> None:
        write(file, octets[: len(octets) // 2], place)
        fail()

    with closing(Journal(home / "journal", ("test0",))) as journal:
        segment = journal.create(journals.Head("s", "e", 0, "tollsplit", rules))
        segment.add(generation, counted(generation, 3))
        with monkeypatch.context() as broken:
            broken.setattr(os, "ftruncate", fail)
            if torn:
                broken.setattr(journals, "_write", half)
            else:
                broken.setattr(os, "fdatasync", fail)
            for _ in range(2):
                with pytest.raises(JournalError):
                    segment.add(generation, counted(generation, 20))
        assert read(segment.path).counted.seen[0] == (3 if torn else 23)
        segment.add(generation, counted(generation, many))
        segment.add(generation, counted(generation, 2))
        segment.seal(1)
    contents = read(segment.path)
    assert contents.counted.seen[0] == 3 + many + 2
    assert contents.records == 1


def counted(generation: Generation, packets: int) -> Any:
    """A meter that has counted packets of as many subscribers."""
    meter = generation.meter()
    feed(meter, b"".join(packet(time.time_ns(), subscriber=0x0A000000 + i)
                         for i in range(packets)))
    return meter


def test_gateway_whose_disk_neither_takes_nor_cuts_off_books_all_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: run.last.seen.packets == 1 and not run.last.unflushed_octets)
        with monkeypatch.context() as broken:
            broken.setattr(os, "ftruncate", fail)
            broken.setattr(os, "fdatasync", fail)
            for number in range(4):
                run.frames.lanes[0].give(packet(time.time_ns()))
                wait(lambda number=number: run.last.seen.packets > number + 1)  # type: ignore[misc]
        wait(lambda: run.kinds().count("journal") == 2)
    assert booked(home) == 5 * 128
    expect_sound(home)


@pytest.mark.parametrize("length", [0, 3, 15, 60])
def test_journal_segment_whose_run_died_over_its_head_is_taken_away(
    home: Path, length: int
) -> None:
    with running(home):
        [segment] = (home / "journal").glob("*.segment")
        head = segment.read_bytes()[:length]
    segment.write_bytes(head)
    with running(home) as run:
        pass
    assert [path.name for path in (home / "journal").iterdir()] == ["test0.lock"]
    assert not run.told


def test_journal_of_two_runs_leaves_each_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One looks for leftovers just when the other's segment is there and not locked yet."""
    lock = journals.fcntl.flock
    looking = threading.Thread()

    def slow(file: Any, how: int) -> None:
        nonlocal looking
        if how & journals.fcntl.LOCK_EX and isinstance(file, int) and not looking.ident and (
            os.readlink(f"/proc/self/fd/{file}").endswith(".segment")
        ):
            looking = threading.Thread(target=lambda: found.extend(other.leftovers()))
            looking.start()
            looking.join(0.3)
        lock(file, how)

    found: list[Path] = []
    with closing(Journal(home / "journal", ("a",))) as one, \
            closing(Journal(home / "journal", ("b",))) as other:
        monkeypatch.setattr(journals.fcntl, "flock", slow)
        segment = one.create(journals.Head("s", "e", 0, "tollsplit", load(home / "rules.toml")))
        looking.join(5)
        assert segment.path.exists() and not found
        segment.discard()


def test_journal_of_two_runs_settles_a_leftover_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both took it for theirs; one comes to it while the other writes its last form."""
    [path] = segments(tmp_path / "journal", write_rules(tmp_path, window="1m"), 1, seal=False)
    seal = journals.Segment.seal
    failed: list[Exception] = []

    def settle() -> None:
        try:
            journals.settle(path, read(path))
        except JournalError as error:
            failed.append(error)

    def slow(segment: journals.Segment, records: int) -> None:
        monkeypatch.setattr(journals.Segment, "seal", seal)
        other.start()
        other.join(0.3)
        assert read(path).entries == 3  # what it was, until what it is to be is whole
        seal(segment, records)

    other = threading.Thread(target=settle)
    monkeypatch.setattr(journals.Segment, "seal", slow)
    settle()
    octets = path.read_bytes()
    other.join(5)
    assert not failed
    assert path.read_bytes() == octets
    found = read(path)
    assert (found.records, found.entries, found.torn_octets) == (SUBSCRIBERS, 1, 0)
    assert not list(path.parent.glob("*.new"))
