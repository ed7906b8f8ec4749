"""Datasets: each run once, whole or not complete, the same by whichever way it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bookings import DAY3, HOUR, charge, record, run_of
from gateways import packet, running, wait

import tollsplit
from tollsplit.cli import main
from tollsplit.cli.demo.example import CAPTURE, RULES
from tollsplit.errors import ConflictError, TollsplitError
from tollsplit.export import Dataset, Written, add_ledger, add_report, dataset
from tollsplit.ledger import Ledger, open_ledger
from tollsplit.model import TaxPart

pytest.importorskip("pyarrow", reason="no pyarrow: install tollsplit[parquet]")

LAKE = Path("lake")
HEAD = LAKE / "dataset.json"
ADDED, KNOWN = Written(1, 0, 0), Written(0, 1, 0)


def export(zone: str | None = None, folder: Path = LAKE, ledger: str = "books") -> Written:
    with open_ledger(f"sqlite:///{ledger}.db") as book, book.journal() as journal:
        return add_ledger(journal, folder, zone)


def files(folder: Path = LAKE) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def rows(table: str, folder: Path = LAKE) -> list[dict[str, Any]]:
    """Instants are numbers: Python's have no nanoseconds."""
    import pyarrow
    from pyarrow.parquet import read_table

    found: list[dict[str, Any]] = []
    for path in sorted((folder / table).rglob("*.parquet")):
        read = read_table(path, partitioning=None)
        numbers = [field.with_type(pyarrow.int64()) if pyarrow.types.is_timestamp(field.type)
                   else field for field in read.schema]  # fmt: skip
        found += read.cast(pyarrow.schema(numbers)).to_pylist()
    return found


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger in the current folder."""
    monkeypatch.chdir(tmp_path)
    with open_ledger("sqlite:///books.db") as ledger:
        yield ledger


def test_dataset_run_from_columns_is_the_run_from_the_ledger(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Octet for octet, in batches of any size; and each door finds what the other has written."""
    report = tollsplit.account(CAPTURE, RULES, ledger="sqlite:///books.db")
    add_report(report, Path("whole"))
    monkeypatch.setattr(dataset, "LEDGER_BATCH_RECORDS", 7)
    export("Asia/Shanghai")
    for table in ("usage", "charges"):
        assert rows(table) == rows(table, Path("whole")) != []
    assert export("Asia/Shanghai", Path("whole")) == KNOWN
    [line], [known] = rows("runs"), rows("runs", Path("whole"))
    assert line["buckets"] is None and len(known["buckets"]) > 6
    assert add_report(report, LAKE) == KNOWN
    assert rows("runs") == [known]


def test_dataset_account_adds_a_run_once(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["account", CAPTURE, "--rules", RULES, "--format", "dataset", "--output", "lake"]
    assert main(command) == 0
    assert capsys.readouterr().out == "lake: 1 runs added, 0 were there\n"
    before = files()
    days = {Path(name).parts[1] for name in before if name.startswith("usage")}
    assert days == {"day=2026-10-31", "day=2026-11-01", "day=2026-11-02"}  # Shanghai's
    os.rename(CAPTURE, "renamed.pcap")
    assert main(["account", "renamed.pcap", *command[2:]]) == 0
    assert capsys.readouterr().out == "lake: 0 runs added, 1 were there\n"
    assert files() == before
    assert main([*command[:1], "renamed.pcap", *command[2:-2]]) == 2
    assert "name it with --output PATH" in capsys.readouterr().err


def test_dataset_refuses_a_name_that_is_no_text(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename(CAPTURE, b"\xff.pcap")
    command = ["account", os.fsdecode(b"\xff.pcap"), "--rules", RULES, "--format", "dataset"]
    assert main([*command, "--output", "lake"]) == 1
    assert "'\\udcff.pcap' is not valid Unicode; rename it" in capsys.readouterr().err
    assert rows("usage") == []


def test_dataset_refuses_other_figures_for_a_run(example: Path) -> None:
    add_report(tollsplit.account(CAPTURE, RULES, identified=True), LAKE)
    before = files()
    other = Path("other.toml")
    other.write_text(Path(RULES).read_text("utf-8").replace('"70%"', '"60%"'), "utf-8")
    with pytest.raises(TollsplitError, match=r"lake: holds run 0 .* name another folder"):
        add_report(tollsplit.account(CAPTURE, other, identified=True), LAKE)
    assert files() == before


def test_dataset_run_that_is_refused_stops_no_other(books: Ledger) -> None:
    """Another ledger, under other rules, with the same runs in the same order, and one more."""
    for epoch in ("e1", "e2", "e3"):
        books.post(run_of(epoch), [record(epoch=epoch)], [])
    export()
    before = files()
    with open_ledger("sqlite:///other.db") as other:
        for epoch, octets in (("e1", 600), ("e2", 600), ("e3", 700), ("e4", 600)):
            other.post(run_of(epoch), [record(epoch=epoch, sponsor_octets={"video-co": octets},
                                              subscriber_octets=1000 - octets)], [])  # fmt: skip
    for _ in range(2):
        with pytest.raises(ConflictError, match=r"holds run 0 of epoch e1 .*\(1 more runs likewis"):
            export(ledger="other")
        assert before.items() <= files().items()
        assert [row["epoch"] for row in rows("usage")] == ["e1", "e2", "e3", "e4"]


def test_dataset_adds_nothing_of_a_capture_that_is_cut(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cut.pcap").write_bytes(Path(CAPTURE).read_bytes()[:-5])
    command = ["account", "cut.pcap", "--rules", RULES, "--format", "dataset", "--output", "lake"]
    assert main(command) == 3
    assert "nothing was written" in capsys.readouterr().err
    assert not LAKE.exists()


def test_dataset_follows_the_ledger(books: Ledger) -> None:
    """What is booked since is added, what was reversed taken out, all else left as it is."""
    first = books.post(run_of("e1"), [record(i, DAY3 + 20 * HOUR * i) for i in range(3)],
                       [charge(7, remainder=(1, 3))])  # fmt: skip
    assert export("Europe/Berlin") == ADDED
    before = files()
    books.post(run_of("e2"), [record(0, epoch="e2", sponsor_octets={}, subscriber_octets=1000)], [])
    books.post(run_of("empty"), [], [])
    assert export() == Written(2, 1, 0)
    after = files()
    assert before.items() <= after.items()
    assert [row["records"] for row in rows("runs")] == [3, 1, 0]
    assert export() == Written(0, 3, 0) and files() == after
    books.reverse(first.transaction, "a mistake")
    assert export() == Written(0, 2, 1)
    assert files().keys() == {name for name in after if "e1_0" not in name}
    assert export() == Written(0, 2, 0)


def test_dataset_days_are_the_zones(books: Ledger) -> None:
    """Windows that begin at 23:30 and 22:30 UTC are of two days in Berlin's winter."""
    at = datetime(2026, 11, 3, 22, 30, tzinfo=UTC)
    books.post(run_of(), [record(i, at + i * HOUR) for i in range(2)]
               + [record(2, None, first_packet_ns=int(at.timestamp()) * 10**9)],
               [charge(period_start=at + HOUR), charge(period_start=None)])  # fmt: skip
    export("Europe/Berlin")
    assert [(name.split("/")[:2]) for name in files() if "day" in name] == [
        ["charges", "day=2026-11-03"], ["charges", "day=2026-11-04"],
        ["usage", "day=2026-11-03"], ["usage", "day=2026-11-04"]]  # fmt: skip
    assert [row["sequence"] for row in rows("usage")] == [0, 2, 1]
    with pytest.raises(TollsplitError, match="days are those of Europe/Berlin, not of UTC"):
        export("UTC")
    with pytest.raises(TollsplitError, match="expected an IANA name"):
        export("Nowhere", Path("new"))
    assert files(Path("new")) == {}


def test_dataset_numbers_are_exact(books: Ledger) -> None:
    """Beyond what a double holds: 2^53 + 1 octets, 10^12 units and a millionth."""
    many, micros = 2**62 + 1, 10**18 + 1
    books.post(
        run_of(),
        [record(uplink_octets=many, downlink_octets=0, subscriber_octets=many - 2**53 - 1,
                sponsor_octets={"video-co": 2**53, "shop-co": 1})],
        [charge(micros, taxes=(TaxPart("vat", "tax:vat", 19, (1, 2)),)), charge(-5)],
    )  # fmt: skip
    export()
    [row] = rows("usage")
    assert row["uplink_octets"] == many == row["subscriber_octets"] + 2**53 + 1
    assert row["shares"] == [{"sponsor": "shop-co", "octets": 1},
                             {"sponsor": "video-co", "octets": 2**53}]  # fmt: skip
    one, two = rows("charges")
    assert (one["amount"], two["amount"]) == (Decimal("1000000000000.000001"), Decimal("-0.000005"))
    assert one["taxes"] == [
        {"tax": "vat", "account": "tax:vat", "amount": Decimal("0.000019")}]  # fmt: skip


HOSTILE = ("../../up", "a/b", "day=1", "张三", "%3A", "x" * 80, "two  blanks", ".", "a\\b", "*?[")


@pytest.mark.parametrize("source", HOSTILE)
def test_dataset_any_source_is_one_folder(books: Ledger, source: str) -> None:
    """It goes nowhere else, and readers take the name back out of the folder's."""
    books.post(run_of("é/:", source=source), [record(source=source, epoch="é/:")], [])
    export()
    assert {path.name.split("-")[0] for path in Path().iterdir()} == {"books.db", "lake"}
    [usage] = [name for name in files() if name.startswith("usage")]
    assert len(Path(usage).parts) == 4
    duckdb = pytest.importorskip("duckdb", reason="no duckdb: pip install duckdb")
    found = duckdb.sql("SELECT gateway, source FROM "
                       "read_parquet('lake/usage/**/*.parquet', hive_partitioning = true)")
    assert found.fetchall() == [(source, source)]


CUT = """
import os, sys
from pathlib import Path
from tollsplit.export import Dataset, add_ledger
from tollsplit.ledger import open_ledger
publish, left = Dataset._publish, int(sys.argv[1])
def counted(self, written, place):
    global left
    if not left:
        os.kill(os.getpid(), 9)
    left -= 1
    publish(self, written, place)
Dataset._publish = counted
with open_ledger("sqlite:///books.db") as book, book.journal() as journal:
    add_ledger(journal, Path("lake"), None)
"""


def test_dataset_killed_writer_leaves_what_the_next_one_completes(books: Ledger) -> None:
    """Before the dataset's head, before a run's first file of five, within them, and before its
    line."""
    books.post(run_of(), [record(i, DAY3 + timedelta(days=i)) for i in range(3)],
               [charge(period_start=DAY3 + timedelta(days=i)) for i in range(2)])  # fmt: skip
    export(folder=Path("whole"))
    whole = files(Path("whole"))
    for left, there in ((0, 0), (1, 0), (3, 3), (5, 5)):
        killed = subprocess.run([sys.executable, "-c", CUT, str(left)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not any(name.startswith("runs") for name in files())
        assert len([name for name in files() if name.endswith(".parquet")]) == there
    # Meanwhile the run had another file, which is not its any more.
    stale = LAKE / "usage/day=2020-01-01/gateway=campus.pcap/e1_0.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    assert export() == ADDED
    assert files() == whole


def test_dataset_writers_wait_for_each_other(books: Ledger) -> None:
    books.post(run_of(), [record(i, DAY3 + HOUR * i) for i in range(30)], [])
    writers = [subprocess.Popen([sys.executable, "-c", CUT, "-1"]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert export() == KNOWN
    assert len(rows("usage")) == 30


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda: LAKE.joinpath("mine.txt").write_text("x"), "is no dataset"),
    (lambda: HEAD.write_text("{}"), "expected a dataset's schema and zone"),
    (lambda: HEAD.write_text('{"schema": "tollsplit.dataset/9", "zone": "UTC"}'),
     "expected the schema tollsplit.dataset/1, got"),
    (lambda: (LAKE.rmdir(), LAKE.write_text("x")), "cannot be written"),
])  # fmt: skip
def test_dataset_refuses_a_folder_that_is_none(
    books: Ledger, spoil: Callable[[], object], message: str
) -> None:
    LAKE.mkdir()
    spoil()
    with pytest.raises(TollsplitError, match=message):
        export()
    with pytest.raises(TollsplitError, match="cannot be written: No such file"):
        Dataset(Path("no/such/folder"), None)


def test_dataset_has_a_live_runs_windows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are booked: the first while the second is open."""
    monkeypatch.chdir(home)
    url = "sqlite:///ledger.db"
    command = ["ledger", "export", "--ledger", url, "--format", "dataset", "--output", "lake"]
    with running(home, source="berlin-1") as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: run.last.booked_records == 1)
        assert main(command) == 0
        assert [row["uplink_octets"] for row in rows("usage")] == [128]
        run.frames.lanes[0].give(packet(time.time_ns(), 256))
    assert main(command) == 0
    found = rows("usage")
    assert sorted(row["uplink_octets"] for row in found) == [128, 256]
    assert {row["source"] for row in found} == {"berlin-1"}
    assert len({(row["epoch"], row["sequence"]) for row in found}) == 2
    [folder] = {path.parent.name for path in (LAKE / "usage").rglob("*.parquet")}
    assert folder == "gateway=berlin-1"
