"""Lanes that no interface is needed for; as a program they meter until they are killed.

    python gateways.py RULES LEDGER JOURNAL FED [FLUSH]

meters packets of 128 octets, five at a time, and appends to FED when, and how many so far. SIGTERM
ends it, SIGHUP has it read the rules again.
"""

from __future__ import annotations

import queue
import signal
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tollsplit.cext.reader import Reader
from tollsplit.gateway import Gateway, Options
from tollsplit.ledger import open_ledger
from tollsplit.model import Event
from tollsplit.rules import RuleSet, load
from tollsplit.snapshot import Notice, Snapshot

PROGRAM = Path(__file__)
HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101)  # nanoseconds, raw IP
RULES = """
[meter]
window = "1s"
[[pools]]
prefixes = ["10.0.0.0/8"]
[sponsors.video-co]
[[rules]]
id = "paid"
precedence = 1
match = {{ server = ["203.0.113.0/24"] }}
split = {{ sponsor = "video-co", share = "{share}"{more} }}
[tariffs.standard]
currency = "CNY"
price = "1 CNY / MiB"
"""


def packet(
    at_ns: int, octets: int = 128, subscriber: int = 0x0A000007, server: int = 0xCB007101,
    uplink: bool = True, dscp: int = 0,
) -> bytes:
    """A record of a UDP packet."""
    ends = (subscriber, server) if uplink else (server, subscriber)
    frame = struct.pack(">BBHHHBBHII", 0x45, dscp << 2, octets, 0, 0, 64, 17, 0, *ends)
    frame += struct.pack(">HHHH", 1000, 443, octets - 20, 0)
    return struct.pack("<IIII", *divmod(at_ns, 10**9), len(frame), octets) + frame


class Lane:
    """Hands out what it is given, as a ring would."""

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def give(self, records: bytes | None) -> None:
        self._given.put(records)

    def wake(self) -> None:
        self._given.put(b"")

    def turns(self, timeout_s: float) -> Iterator[list[Reader]]:
        while True:
            try:
                records = self._given.get(timeout=timeout_s)
            except queue.Empty:
                records = b""
            if records is None:
                return
            reader = Reader()
            reader.feed(HEADER + records, True)
            yield [reader]


class Frames:
    """Interfaces that are fed by hand."""

    def __init__(self, workers: int = 1) -> None:
        self.lanes = [Lane() for _ in range(workers)]
        self._stopped = threading.Event()

    def watch(self, timeout_s: float) -> list[str]:
        self._stopped.wait(timeout_s)
        return []

    def stop(self) -> None:
        self._stopped.set()
        for lane in self.lanes:
            lane.give(None)


def write_rules(home: Path, share: str = "70%", more: str = "", window: str = "1s") -> RuleSet:
    path = home / "rules.toml"
    path.write_text(RULES.format(share=share, more=more).replace('"1s"', f'"{window}"'))
    return load(path)


def load_with(home: Path, more: str) -> RuleSet:
    path = home / "more.toml"
    path.write_text(RULES.format(share="70%", more="") + more)
    return load(path)


def load_other(home: Path, window: str = "1h") -> RuleSet:
    place = home / "other"
    place.mkdir()
    return write_rules(place, "50%", window=window)


class Running:
    """A gateway in a thread, and what it told."""

    def __init__(self, home: Path, rules: RuleSet, workers: int = 1, **options: Any) -> None:
        self.frames = Frames(workers)
        self.told: list[Event | Notice] = []
        self.looks: list[Snapshot] = []
        self.error: BaseException | None = None
        options = {"flush_s": 0.05, "source": "test"} | options
        if options.pop("booked", True):
            options = {"ledger": f"sqlite:///{home}/ledger.db",
                       "journal": home / "journal"} | options
        lost = options.pop("lost", lambda: (0, 0))
        interface = options.pop("interface", "test0")
        final = options.pop("final", lambda usage, at: None)
        self._look = options.pop("look", lambda snapshot: None)
        self.gateway = Gateway(self.frames, rules, Options((interface,), **options), lost=lost,
                               told=self.told.append, look=self._looked, final=final)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _looked(self, snapshot: Snapshot) -> None:
        self.looks.append(snapshot)
        self._look(snapshot)

    def _run(self) -> None:
        try:
            self.gateway.run()
        except BaseException as error:
            self.error = error

    def end(self, hurry: bool = False) -> None:
        self.gateway.stop(hurry)
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def last(self) -> Snapshot:
        """The latest picture; the first one comes soon."""
        wait(lambda: self.looks)
        return self.looks[-1]

    def kinds(self) -> list[str]:
        return [happened.kind for happened in self.told]


@contextmanager
def running(home: Path, rules: RuleSet | None = None, **options: Any) -> Iterator[Running]:
    run = Running(home, rules or load(home / "rules.toml"), **options)
    try:
        yield run
    finally:
        run.end()
    if run.error is not None:
        raise run.error


def wait(condition: Callable[[], object], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        return database.execute(sql).fetchall()


def booked(home: Path) -> int:
    [(octets,)] = rows(home, "SELECT coalesce(sum(uplink_octets + downlink_octets), 0) "
                             "FROM usage_records")
    return int(octets)


def expect_sound(home: Path) -> None:
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        found = ledger.verify()
    assert not [check for check in found.checks if check.findings], found


def main(rules: str, ledger: str, journal: str, fed: str, flush: str = "0.05") -> None:
    frames = Frames()
    path = Path(rules)
    gateway = Gateway(
        frames, load(path),
        Options(("test0",), float(flush), ledger, Path(journal), source="test"),
        told=lambda happened: print(happened, file=sys.stderr, flush=True))
    signal.signal(signal.SIGTERM, lambda *_: gateway.stop(hurry=True))
    signal.signal(signal.SIGHUP, lambda *_: gateway.reload(path))

    def feed() -> None:
        given = 0
        with open(fed, "ab", buffering=0) as count:
            while True:
                now_ns = time.time_ns()
                frames.lanes[0].give(b"".join(packet(now_ns + i) for i in range(5)))
                given += 5
                count.write(struct.pack("<QQ", time.monotonic_ns(), given))
                time.sleep(0.002)

    threading.Thread(target=feed, daemon=True).start()
    gateway.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
