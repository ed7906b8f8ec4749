"""Usage and charges as a folder of Parquet files, by day and gateway, that grows run by run.

Each run has a file of its own for each day, named by the run's key: what is written again finds
itself there. A run's line in the table `runs` is written last; so what is there is whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ..errors import ConflictError, TollsplitError, UsageError
from ..ledger import BookedRun, Journal, Run
from ..ledger.calendar import Calendar
from ..ledger.store import instant_ns
from ..limits import LEDGER_BATCH_RECORDS
from ..report import Report, pyarrow_modules
from .columns import (
    SCHEMA,
    by_day,
    charge_instants,
    charge_table,
    record_table,
    run_schema,
    usage_instants,
    usage_table,
)

HEAD = "dataset.json"
RUNS, USAGE, CHARGES = "runs", "usage", "charges"
_SCRATCH = ".writing"  # files lie here until all of a run's are whole

Part = tuple[str, str, Any]  # table, day, rows


class Key(NamedTuple):
    """What makes a run this one and no other."""

    source: str
    epoch: str
    first_sequence: int

    @property
    def gateway(self) -> str:
        """The partition's folder; readers take the name's %3A for ":"."""
        return f"gateway={quote(self.source, safe='')}"

    @property
    def file(self) -> str:
        return f"{quote(self.epoch, safe='')}_{self.first_sequence}.parquet"


class Written(NamedTuple):
    """What became of runs."""

    added: int = 0
    known: int = 0  # they were there, and are as they were
    removed: int = 0  # they were reversed in the ledger


class Dataset:
    """A folder of runs. Writers wait for each other; readers see whole files.

    zone  whose days partition it; None: its own, UTC where it is new

    Raises TollsplitError where the folder is no dataset, or one by another zone's days.
    """

    def __init__(self, folder: Path, zone: str | None) -> None:
        self.folder = folder
        _, self._parquet = pyarrow_modules()
        with self._writing():
            self.zone = self._head(zone)
        self._calendar = Calendar(self.zone, None)

    def has(self, booked: BookedRun) -> bool:
        """Whether a run is there as it was booked: another ledger's has to be looked at."""
        marker = self._marker(Key(*booked.run.key))
        if not marker.exists():
            return False
        expected = {"transaction": booked.transaction, "booked_at": booked.booked_at}
        with self._parquet.ParquetFile(marker) as file:  # of all ways the fastest
            return bool(file.read(list(expected)).to_pylist() == [expected])

    def add(self, run: Mapping[str, Any], parts: Iterable[Part]) -> bool:
        """Add a run; False: it was there. What a later writer knows more of it (that it was
        booked, its buckets) is added to its line.

        run  its line in the table `runs`

        Raises ConflictError where the run is there with other figures; they stay.
        """
        key = Key(run["source"], run["epoch"], run["first_sequence"])
        marker = self._marker(key)
        with self._writing():
            whole = self._write(key, parts)
            known = marker.exists()
            if known:
                self._expect_same(key, whole)
                row = self._row(marker)
                more = {name: value for name, value in run.items() if row[name] is None}
                if any(value is not None for value in more.values()):
                    self._write_row({**row, **more}, marker)
            else:
                self._unlink(key)
                for place, written in whole.items():
                    self._publish(written, place)
                self._write_row(run, marker)
        return not known

    def remove(self, key: Key) -> bool:
        """Take a run out of the dataset; False: it is not there."""
        with self._writing():
            if not self._marker(key).exists():
                return False
            self._marker(key).unlink()
            self._unlink(key)
        return True

    # --- files -------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """While others wait. OSErrors are explained."""
        try:
            self.folder.mkdir(exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)  # of one that was killed
                yield
            finally:
                shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
                os.close(descriptor)
        except OSError as error:
            raise TollsplitError(
                f"{error.filename or self.folder}: cannot be written: {error.strerror or error}"
            ) from error

    def _head(self, zone: str | None) -> str:
        """The dataset's zone, noted in it when it is new."""
        path = self.folder / HEAD
        if not path.exists():
            if any(self.folder.iterdir()):
                raise TollsplitError(
                    f"{self.folder}: is no dataset of tollsplit's: name it, or a new folder")
            Calendar(zone or "UTC", None)  # known, before anything is written
            scratch = self._scratch("head")
            scratch.write_text(json.dumps({"schema": SCHEMA, "zone": zone or "UTC"}) + "\n")
            self._publish(scratch, path)
        try:
            head = json.loads(path.read_text("utf-8"))
            schema, own = head["schema"], head["zone"]
        except (ValueError, KeyError, TypeError) as error:
            raise TollsplitError(f"{path}: expected a dataset's schema and zone") from error
        if schema != SCHEMA:
            raise TollsplitError(f"{path}: expected the schema {SCHEMA}, got {schema}")
        if zone not in (None, own):
            raise TollsplitError(
                f"{self.folder}: its days are those of {own}, not of {zone}: name another folder")
        return str(own)

    def _marker(self, key: Key) -> Path:
        return self.folder / RUNS / key.gateway / key.file

    def _files(self, key: Key) -> list[Path]:
        """What is there of a run's rows."""
        return [
            path for table in (USAGE, CHARGES) for day in (self.folder / table).glob("day=*")
            if (path := day / key.gateway / key.file).exists()
        ]  # fmt: skip

    def _unlink(self, key: Key) -> None:
        for path in self._files(key):
            path.unlink()

    def _scratch(self, name: str) -> Path:
        folder = self.folder / _SCRATCH
        folder.mkdir(exist_ok=True)
        return folder / name

    def _publish(self, written: Path, place: Path) -> None:
        """Give a file its place, once it is on the disk."""
        place.parent.mkdir(parents=True, exist_ok=True)
        for path in (written, place.parent):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                if path is written:
                    os.replace(written, place)
            finally:
                os.close(descriptor)

    def _write(self, key: Key, parts: Iterable[Part]) -> dict[Path, Path]:
        """A run's rows as files: where each goes, and where it lies."""
        whole: dict[Path, Path] = {}
        writers: dict[Path, Any] = {}
        try:
            for table, day, rows in parts:
                place = self.folder / table / f"day={day}" / key.gateway / key.file
                if place not in writers:
                    whole[place] = self._scratch(str(len(whole)))
                    writers[place] = self._parquet.ParquetWriter(
                        whole[place], rows.schema, compression="zstd")
                writers[place].write_table(rows)
        finally:
            for writer in writers.values():
                writer.close()
        return whole

    def _expect_same(self, key: Key, whole: Mapping[Path, Path]) -> None:
        there = self._files(key)
        same = set(there) == whole.keys() and all(
            self._read(place).equals(self._read(written)) for place, written in whole.items())
        if not same:
            raise ConflictError(
                f"{self.folder}: holds run {key.first_sequence} of epoch {key.epoch} of "
                f"{key.source} already, with other figures: under other rules, or with other runs "
                "before it. What is there stays; name another folder")

    def _read(self, path: Path) -> Any:
        return self._parquet.read_table(path, partitioning=None)

    def _row(self, marker: Path) -> dict[str, Any]:
        [row] = self._read(marker).cast(run_schema()).to_pylist()
        return dict(row)

    def _write_row(self, run: Mapping[str, Any], marker: Path) -> None:
        pyarrow, _ = pyarrow_modules()
        scratch = self._scratch("run")
        self._parquet.write_table(pyarrow.Table.from_pylist([run], run_schema()), scratch)
        self._publish(scratch, marker)


# --- what is written into it ------------------------------------------------------------


def add_report(report: Report, folder: Path) -> Written:
    """Add a run over captures. Raises UsageError where it has no name (`identified`)."""
    run = report.run
    if run is None:
        raise UsageError(f"{folder}: the run has no key: account it with identified=True")
    dataset = Dataset(folder, report.usage.rules.meter.zone)
    receipt = report.receipt
    table = usage_table(report)
    row = {
        **_run_row(run), "records": len(report.usage), "charges": len(report.charges),
        "transaction": receipt and receipt.transaction,
        "booked_at": receipt and receipt.booked_at,
        "seen_packets": report.seen.packets, "seen_octets": report.seen.octets,
        "buckets": [{"bucket": bucket.name, "sign": bucket.sign, **asdict(bucket.volume)}
                    for bucket in report.buckets],
    }  # fmt: skip
    added = dataset.add(row, _report_parts(report, run, table, Calendar(dataset.zone, None)))
    return Written(added=added, known=not added)


def _report_parts(report: Report, run: Run, table: Any, calendar: Calendar) -> Iterator[Part]:
    if table.num_rows:
        for day, rows in by_day(table, usage_instants(table), calendar):
            yield USAGE, day, rows
    if report.charges:
        first_ns = int(report.usage.records["first_ns"].min())
        charges = charge_table(report.charges, 0, run.source, run.epoch, run.first_sequence)
        for day, rows in by_day(charges, charge_instants(report.charges, first_ns), calendar):
            yield CHARGES, day, rows


def add_ledger(journal: Journal, folder: Path, zone: str | None) -> Written:
    """Add every run that a ledger has and the dataset has not; take out what was reversed.

    Raises ConflictError where the dataset has other figures for some, after the others.
    """
    dataset = Dataset(folder, zone)
    calendar = Calendar(dataset.zone, None)
    added = known = removed = 0
    refused: list[ConflictError] = []
    for booked in list(journal.runs()):
        if booked.reversed:
            removed += dataset.remove(Key(*booked.run.key))
        elif dataset.has(booked):
            known += 1
        else:
            try:
                fresh = dataset.add(
                    {**_run_row(booked.run), "records": booked.records, "charges": booked.charges,
                     "transaction": booked.transaction, "booked_at": booked.booked_at},
                    _booked_parts(journal, booked, calendar))  # fmt: skip
            except ConflictError as error:
                refused.append(error)
            else:
                added, known = added + fresh, known + (not fresh)
    if refused:
        more = f" ({len(refused) - 1:,} more runs likewise)" if len(refused) > 1 else ""
        raise ConflictError(f"{refused[0]}{more}") from refused[0]
    return Written(added, known, removed)


def _booked_parts(journal: Journal, booked: BookedRun, calendar: Calendar) -> Iterator[Part]:
    records = journal.usage(transaction=booked.transaction)
    while batch := list(islice(records, LEDGER_BATCH_RECORDS)):
        table = record_table(batch)
        for day, rows in by_day(table, usage_instants(table), calendar):
            yield USAGE, day, rows
    charges = (found.charge for found in journal.charges(transaction=booked.transaction))
    ordinal, run = 0, booked.run
    first_ns = booked.first_packet_ns
    if first_ns is None:  # whoever booked it charged for something else
        first_ns = instant_ns(booked.booked_at)
    while some := list(islice(charges, LEDGER_BATCH_RECORDS)):
        table = charge_table(some, ordinal, run.source, run.epoch, run.first_sequence)
        for day, rows in by_day(table, charge_instants(some, first_ns), calendar):
            yield CHARGES, day, rows
        ordinal += len(some)


def _run_row(run: Run) -> dict[str, Any]:
    """Raises TollsplitError where a file's name is no text."""
    for name, _ in run.captures:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TollsplitError(f"{name!r} is not valid Unicode; rename it") from error
    return {
        "source": run.source, "epoch": run.epoch, "first_sequence": run.first_sequence,
        "rules_version": run.rules_version, "layer": run.layer, "at": run.at,
        "program": run.program,
        "captures": [{"name": name, "digest": digest} for name, digest in run.captures],
    }  # fmt: skip
