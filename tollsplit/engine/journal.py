"""What a live run has counted, on the disk before it is in the ledger.

A segment is one generation: first what it counts by (rules and all files they name), then what
was counted since the entry before, again and again, at last a seal. It holds counters and no
bill: shares and charges are worked out when it is booked, from what was booked before. Counters
add up, so entries can be read in any number, and a segment that a crash cut off is worth all but
its torn last entry.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tollsplit.cext.layout import COUNTER, SUBSCRIBER
from tollsplit.cext.meter import Meter
from tollsplit.engine.live import Generation
from tollsplit.engine.usage import Provenance
from tollsplit.errors import JournalError, RulesError
from tollsplit.limits import JOURNAL_ENTRY_OCTETS_MAX, JOURNAL_SEGMENT_OCTETS
from tollsplit.rules import RuleSet, load
from tollsplit.tokens.gate import Gate
from tollsplit.tokens.keys import Keys

SUFFIX = ".segment"
DAMAGED = ".damaged"
UNFINISHED = ".new"  # what is to take a segment's place
FORMAT = 3
# Kind, octets of the payload, CRC-32 of kind, length and payload.
ENTRY = struct.Struct("<4sQI")
HEAD, COUNTED, SEAL = b"head", b"sums", b"seal"
Octets = bytes | memoryview
LAYOUT = repr([COUNTER.descr, SUBSCRIBER.descr])


@dataclass(frozen=True, slots=True)
class Head:
    """What a segment's counters belong to; the key of its records begins here (accounting §7)."""

    source: str
    epoch: str
    first_sequence: int
    program: str
    rules: RuleSet
    trust_ip_length: bool = False


@dataclass(slots=True)
class Contents:
    """A segment as it was read back.

    records        how many the seal says it makes; None: it was never sealed
    entries        that hold counters
    last_ns        when its last entry was written, since 1970-01-01 UTC
    torn_octets    behind the last whole entry
    """

    head: Head
    generation: Generation
    counted: Meter
    records: int | None = None
    entries: int = 0
    last_ns: int = 0
    torn_octets: int = 0


class Segment:
    """A segment that is being written. Every entry is on the disk when its method returns.

    Raises JournalError; the next entry then takes the place of the one that failed, even where
    nothing could be cut off. Should the process end before that, the one that failed may be read:
    as a whole, or not at all.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self.head = head
        self.octets = 0
        self._cells = 0  # how many of the generation's cells are in it
        self._compact_octets = 0
        self._file = _open(path)
        try:
            self._append(HEAD, [_head(head)])
            _sync_directory(path.parent)
        except BaseException:
            self.discard()
            raise
        self._head_octets = self.octets

    def add(self, generation: Generation, counted: Meter) -> None:
        """Write what was counted since the last time."""
        known = len(generation.cells.known)  # now: workers meet others at any time
        self._append(COUNTED, _counted(generation, counted, self._cells, known))
        self._cells = known

    @property
    def empty(self) -> bool:
        """Whether nothing was counted into it."""
        return self.octets == self._head_octets

    @property
    def swollen(self) -> bool:
        """Whether it would be much smaller as one entry."""
        return self.octets > JOURNAL_SEGMENT_OCTETS + 4 * self._compact_octets

    def compact(self, generation: Generation, whole: Meter) -> None:
        """Replace all entries by one.

        whole   what all of them add up to
        """
        written = self.path.with_suffix(UNFINISHED)
        before = self._file, self.octets
        self._compact_octets = self.octets  # where it fails, it is not tried again at once
        self._file, self.octets = _open(written), 0
        try:
            self._append(HEAD, [_head(self.head)])
            known = len(generation.cells.known)
            self._append(COUNTED, _counted(generation, whole, 0, known))
            with _changing(self.path.parent):
                os.replace(written, self.path)
        except (JournalError, OSError) as error:
            self._file.close()
            self._file, self.octets = before
            with suppress(OSError):
                written.unlink(missing_ok=True)
            raise _failed(self.path, error) from error
        with suppress(OSError):
            before[0].close()
        self._compact_octets = self.octets
        self._cells = known
        _sync_directory(self.path.parent)

    def seal(self, records: int) -> None:
        """Say that nothing more comes, and how many records it makes."""
        self._append(SEAL, [json.dumps({"records": records}).encode()])
        self._file.close()

    def discard(self) -> None:
        """Take it off the disk; nobody else finds it there without a writer."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise _failed(self.path, error) from error
        finally:
            self._file.close()

    def close(self) -> None:
        self._file.close()

    def _append(self, kind: bytes, parts: Sequence[Octets]) -> None:
        """Add an entry; its payload is all parts, which need not lie together."""
        octets = sum(len(part) for part in parts)
        entry = ENTRY.pack(kind, octets, _checksum(kind, *parts))
        end = self.octets
        try:
            for part in (entry, *parts):
                _write(self._file, part, end)
                end += len(part)
            os.fdatasync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # what stays there is written over
                os.ftruncate(self._file.fileno(), self.octets)
            raise _failed(self.path, error) from error
        self.octets = end


class Journal:
    """A folder of segments, in the hands of one run.

    interfaces   what the run captures: no other run may have one of them in the same journal

    Raises JournalError.
    """

    def __init__(self, folder: Path, interfaces: Sequence[str]) -> None:
        self.folder = folder
        self._locks: list[BinaryIO] = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in interfaces:
                self._lock(name)
        except OSError as error:
            self.close()
            raise _failed(folder, error) from error
        except JournalError:
            self.close()
            raise

    def _lock(self, interface: str) -> None:
        lock = open(self.folder / f"{interface}.lock", "a+b")  # noqa: SIM115
        self._locks.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            other = lock.read(32).decode(errors="replace").strip()
            raise JournalError(
                f"{self.folder}: {interface} is captured into this journal already, by process "
                f"{other or '?'}; its octets would be billed twice"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()

    def segments(self) -> list[Path]:
        """Those on the disk, oldest first."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    @property
    def octets(self) -> int:
        """Of all segments."""
        sizes = 0
        for path in self.segments():
            with suppress(FileNotFoundError):
                sizes += path.stat().st_size
        return sizes

    def create(self, head: Head) -> Segment:
        epoch = "".join(c if c.isalnum() else "-" for c in head.epoch)
        return Segment(self.folder / f"{epoch}.{head.first_sequence:015}{SUFFIX}", head)

    def leftovers(self) -> list[Path]:
        """Segments that no run is writing any more: they wait for the ledger, or their run died.

        What holds nothing because its run died over beginning it is taken off the disk.
        """
        try:
            with _changing(self.folder, fcntl.LOCK_EX):
                for path in (*self.folder.glob(f"*{UNFINISHED}"), *self.segments()):
                    if not _is_written(path) and not _is_begun(path):
                        path.unlink(missing_ok=True)
                return [path for path in self.segments() if not _is_written(path)]
        except OSError as error:
            raise _failed(self.folder, error) from error

    def close(self) -> None:
        for lock in self._locks:
            lock.close()
        self._locks.clear()


def set_aside(path: Path) -> Path:
    """Keep a segment that no trying makes readable under another name, which it returns."""
    aside = path.with_name(path.name + DAMAGED)
    with suppress(FileNotFoundError):  # another run has done so
        path.rename(aside)
    return aside


def read(path: Path) -> Contents:
    """A segment's counters, as far as they are whole. Raises JournalError, RulesError."""
    try:
        with open(path, "rb") as file:
            return _read(path, file)
    except OSError as error:
        raise _failed(path, error) from error


def read_octets(octets: bytes, title: Path) -> Contents:
    """The same of a segment that lies in memory.

    title   what it is called in messages
    """
    return _read(title, io.BytesIO(octets))


def settle(path: Path, contents: Contents) -> None:
    """Bring a segment that nobody writes any more into its last form: one entry, and its seal.

    contents   as they were read; afterwards they are what it holds

    Its octets never change afterwards, and nobody sees it half written: runs that share a journal
    have the same leftovers. Raises JournalError; the segment is then what it was.
    """
    if contents.records is not None and contents.entries == 1 and not contents.torn_octets:
        return
    try:
        with _alone(path) as file:
            if [kind for kind, _ in _entries(file)] == [HEAD, COUNTED, SEAL]:  # another run has
                contents.records = read(path).records
            else:
                _settle(path, contents)
    except OSError as error:
        raise _failed(path, error) from error
    contents.entries, contents.torn_octets = 1, 0


def _settle(path: Path, contents: Contents) -> None:
    """The same where nobody else does so."""
    head = contents.head
    if contents.records is None:  # to work it out takes the counters
        other = read(path)
        contents.records = len(other.generation.tally(other.counted, {}, {}, Provenance(
            head.source, head.epoch, head.rules.meter.layer, head.first_sequence)).usage)
    (settled := path.with_suffix(UNFINISHED)).unlink(missing_ok=True)  # of one who died
    segment = Segment(settled, head)
    try:
        segment.add(contents.generation, contents.counted)
        segment.seal(contents.records)
        with _changing(path.parent):
            os.replace(settled, path)
    except BaseException:
        segment.discard()
        raise
    _sync_directory(path.parent)


def _read(path: Path, file: BinaryIO) -> Contents:
    entries = _entries(file)
    kind, payload = next(entries, (b"", b""))
    if kind != HEAD:
        raise JournalError(f"{path}: no segment of a journal, or cut off in its head; remove it")
    head = _parsed_head(path, payload)
    # What is read back was judged when it was counted: no keys of tokens are asked for.
    generation = Generation(
        head.rules, trust_ip_length=head.trust_ip_length, gate=Gate(Keys()))
    contents = Contents(head, generation, generation.meter())
    end = file.tell()
    for kind, payload in entries:
        if kind == COUNTED:
            _load(path, contents, payload)
            contents.entries += 1
        elif kind == SEAL:
            contents.records = int(json.loads(payload)["records"])
        end = file.tell()
    contents.torn_octets = file.seek(0, os.SEEK_END) - end
    return contents


def _entries(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Whole entries; what follows the first that is not is left alone."""
    while len(start := file.read(ENTRY.size)) == ENTRY.size:
        kind, octets, checksum = ENTRY.unpack(start)
        if octets > JOURNAL_ENTRY_OCTETS_MAX:
            return
        payload = file.read(octets)
        if len(payload) < octets or _checksum(kind, payload) != checksum:
            return
        yield kind, payload


def _head(head: Head) -> bytes:
    content = {name: base64.b64encode(octets).decode()
               for name, octets in head.rules.content.items()}
    return json.dumps({
        "format": FORMAT, "layout": LAYOUT, "program": head.program, "source": head.source,
        "epoch": head.epoch, "first_sequence": head.first_sequence,
        "trust_ip_length": head.trust_ip_length,
        "rules": {"path": head.rules.path, "version": head.rules.version, "content": content},
    }).encode()


def _parsed_head(path: Path, payload: bytes) -> Head:
    found: dict[str, Any] = json.loads(payload)
    if (found["format"], found["layout"]) != (FORMAT, LAYOUT):
        raise JournalError(
            f"{path}: written by {found['program']}, whose counters are laid out otherwise; "
            "let that version book it")
    content = {name: base64.b64decode(text) for name, text in found["rules"]["content"].items()}
    rules = load(found["rules"]["path"], content)
    if rules.version != found["rules"]["version"]:
        raise RulesError(f"{path}: its rules are {rules.version}, expected "
                         f"{found['rules']['version']}")
    return Head(found["source"], found["epoch"], found["first_sequence"], found["program"],
                rules, found["trust_ip_length"])


def _counted(generation: Generation, counted: Meter, since: int, until: int) -> list[Octets]:
    """One entry: the generation's time cells from number `since` up to `until`, three arrays."""
    arrays = counted.export()
    about = json.dumps({
        "at_ns": time.time_ns(),
        "cells": [cell.start_ns for cell in generation.cells.known[since:until]],
        "octets": [array.nbytes for array in arrays],
    }).encode()
    # As they lie: once a second, a copy is as much fresh memory as all that was counted.
    return [struct.pack("<I", len(about)), about, *(array.view(np.uint8).data for array in arrays)]


def _load(path: Path, contents: Contents, payload: bytes) -> None:
    (length,) = struct.unpack_from("<I", payload)
    about = json.loads(payload[4 : 4 + length])
    contents.last_ns = int(about["at_ns"])
    cells = contents.generation.cells
    for start_ns in about["cells"]:
        cells.at(start_ns)
    at = 4 + length
    arrays: list[np.ndarray] = []
    kinds = (COUNTER, SUBSCRIBER, np.dtype(np.uint64))
    for octets, dtype in zip(about["octets"], kinds, strict=True):
        arrays.append(np.frombuffer(payload, np.uint8, octets, at).copy().view(dtype))
        at += octets
    counted, subscribers, totals = arrays
    try:
        contents.counted.load(counted, subscribers, totals, len(cells.known))
    except ValueError as error:
        raise JournalError(f"{path}: {error}") from error


def _checksum(kind: bytes, *parts: Octets) -> int:
    octets = sum(len(part) for part in parts)
    checksum = zlib.crc32(kind + octets.to_bytes(8, "little"))
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


@contextmanager
def _changing(folder: Path, how: int = fcntl.LOCK_SH) -> Iterator[None]:
    """While segments come to be written, or cease to be; LOCK_EX: while none does.

    Runs share folders: between its making and its lock, one's segment would be another's leftover.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """A segment, open, while nobody else settles it."""
    while True:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                yield file
                return


def _open(path: Path) -> BinaryIO:
    try:
        with _changing(path.parent):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise _failed(path, error) from error
    return open(descriptor, "r+b", buffering=0)


def _is_begun(path: Path) -> bool:
    """Whether something may be in it: entries follow a head that is on the disk as a whole."""
    if path.suffix == UNFINISHED:
        return False
    with suppress(FileNotFoundError), open(path, "rb") as file:
        start = file.read(ENTRY.size)
        if not start.startswith(HEAD[: len(start)]):
            return True  # no segment at all
        return len(start) == ENTRY.size and (
            os.fstat(file.fileno()).st_size >= ENTRY.size + ENTRY.unpack(start)[1])
    return False


def _is_written(path: Path) -> bool:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _write(file: BinaryIO, octets: Octets, place: int) -> None:
    left = memoryview(octets)
    while left:
        written = os.pwrite(file.fileno(), left, place)
        left, place = left[written:], place + written


def _sync_directory(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failed(folder, error) from error


def _failed(path: Path, error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    cause = (isinstance(error, OSError) and error.strerror) or str(error)
    return JournalError(f"{path}: cannot be written or read: {cause}")
