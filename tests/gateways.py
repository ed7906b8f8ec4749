"""Lanes that no interface is needed for; as a program they meter until they are killed.

    python gateways.py RULES LEDGER JOURNAL FED [FLUSH]

meters packets of 128 octets, five at a time, and appends to FED when, and how many so far.
"""

from __future__ import annotations

import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tollsplit.cext.reader import Reader
from tollsplit.gateway import Gateway, Options
from tollsplit.rules import load

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
    uplink: bool = True,
) -> bytes:
    """A record of a UDP packet."""
    ends = (subscriber, server) if uplink else (server, subscriber)
    frame = struct.pack(">BBHHHBBHII", 0x45, 0, octets, 0, 0, 64, 17, 0, *ends)
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


def main(rules: str, ledger: str, journal: str, fed: str, flush: str = "0.05") -> None:
    frames = Frames()
    gateway = Gateway(
        frames, load(rules),
        Options(("test0",), float(flush), ledger, Path(journal), source="test"),
        told=lambda happened: print(happened, file=sys.stderr, flush=True))
    signal.signal(signal.SIGTERM, lambda *_: gateway.stop(hurry=True))

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
