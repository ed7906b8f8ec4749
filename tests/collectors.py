"""Collectors of IPFIX: Debian's nfcapd, nfacctd and libfixbuf, and sockets that keep what comes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tollsplit.ipfix import Batch
from tollsplit.model import UsageRecord, Volume

START = datetime(2026, 11, 3, tzinfo=UTC)
RULES_VERSION = "sha256:" + "5" * 64


class Found(NamedTuple):
    """What a collector has added up, over all flows."""

    octets: int
    packets: int


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this system (Debian's package {package})")
    return found


def wait(condition: Callable[[], Any], what: str, timeout_s: float = 20) -> None:
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, what
        time.sleep(0.02)


def free_port(kind: int) -> int:
    with closing(socket.socket(socket.AF_INET, kind)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def waiting_octets(port: int) -> int | None:
    """What a UDP socket of this machine has not been asked for yet; None: nobody listens."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port:
            return int(fields[4].split(":")[1], 16)
    return None


def is_done(process: int, port: int) -> bool:
    """Whether a process has read everything from its UDP socket, and waits for more."""
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return not waiting_octets(port) and state == "S"


@contextmanager
def process(*arguments: object, ends_with: signal.Signals, log: Path) -> Iterator[int]:
    """A process while the context is open; gives its number."""
    with open(log, "wb") as stream:
        running = subprocess.Popen([*map(str, arguments)], stdout=stream,
                                   stderr=subprocess.STDOUT)
        try:
            yield running.pid
            running.send_signal(ends_with)
            running.wait(20)
        finally:
            running.kill()
            running.wait()


class Nfcapd:
    """nfdump's collector, over UDP."""

    def __init__(self, folder: Path) -> None:
        self._programs = tool("nfcapd", "nfdump"), tool("nfdump", "nfdump")
        self._folder = folder / "flows"
        self._folder.mkdir(parents=True)
        self.log = folder / "nfcapd.log"
        self.port = free_port(socket.SOCK_DGRAM)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Listens at the URL that it gives; what came is on the disk when it has ended."""
        with process(self._programs[0], "-b", "127.0.0.1", "-p", self.port, "-w", self._folder,
                     "-t", 3600, ends_with=signal.SIGTERM, log=self.log) as number:
            wait(lambda: waiting_octets(self.port) is not None, "nfcapd does not listen")
            yield f"udp://127.0.0.1:{self.port}"
            wait(lambda: is_done(number, self.port), "nfcapd does not read")

    def flows(self) -> list[tuple[str, str, int, int]]:
        """(source, destination, octets, packets) of each flow."""
        shown = subprocess.run(
            [self._programs[1], "-q", "-N", "-6", "-R", str(self._folder), "-o",
             "fmt:%sa,%da,%byt,%pkt"], capture_output=True, text=True, timeout=60, check=True)
        rows = (line.replace(" ", "").split(",") for line in shown.stdout.splitlines() if line)
        return [(row[0], row[1], int(row[2]), int(row[3])) for row in rows if len(row) == 4]

    def found(self) -> Found:
        flows = self.flows()
        return Found(sum(flow[2] for flow in flows), sum(flow[3] for flow in flows))


class Nfacctd:
    """pmacct's collector, over UDP; it keeps sponsor, rule and account by our own elements."""

    CONFIGURATION = """
daemonize: false
nfacctd_ip: 127.0.0.1
nfacctd_port: {port}
nfacctd_time_new: true
plugins: print[usage]
aggregate[usage]: src_host, dst_host, usageAccount, usageRule, usageSponsorIdentity
aggregate_primitives: {folder}/primitives
print_output[usage]: json
print_output_file[usage]: {folder}/usage.json
print_output_file_append[usage]: true
print_refresh_time[usage]: 1
"""
    PRIMITIVES = """
name=usageAccount field_type=32473:3 len=vlen semantics=str
name=usageRule field_type=32473:4 len=vlen semantics=str
name=usageSponsorIdentity field_type=32473:6 len=vlen semantics=str
"""

    def __init__(self, folder: Path) -> None:
        self._program = tool("nfacctd", "pmacct")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = free_port(socket.SOCK_DGRAM)
        (folder / "primitives").write_text(self.PRIMITIVES)
        (folder / "conf").write_text(self.CONFIGURATION.format(port=self.port, folder=folder))

    @contextmanager
    def running(self) -> Iterator[str]:
        """Listens at the URL that it gives; much of what came is only written at its end."""
        with process(self._program, "-f", self._folder / "conf", ends_with=signal.SIGINT,
                     log=self._folder / "nfacctd.log") as number:
            log = self._folder / "nfacctd.log"
            wait(lambda: "Purging cache - END" in log.read_text(), "nfacctd does not begin")
            yield f"udp://127.0.0.1:{self.port}"
            wait(lambda: is_done(number, self.port), "nfacctd does not read")

    def entries(self) -> list[dict[str, Any]]:
        path = self._folder / "usage.json"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def found(self) -> Found:
        entries = self.entries()
        return Found(sum(e["bytes"] for e in entries), sum(e["packets"] for e in entries))


# --- files ---------------------------------------------------------------------------------

_FIELD = re.compile(r"\((\d+(?:/\d+)?)\)\s+(?:\(S\)\s+)?(\w+) : (?:\(len: \d+\) ?)?(.*)")


def dumped(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(template, values by name) of each data record of a file, as libfixbuf reads it.

    What our own elements are it learns from the file (RFC 5610).
    """
    program = tool("ipfixDump", "libfixbuf-tools")
    shown = subprocess.run([program, "--rfc5610", "--data", "--in", str(path)],
                           capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0 and not shown.stderr, shown.stderr
    records = []
    for block in shown.stdout.split("--- data record ")[1:]:
        number = re.search(r"tid:\s+(\d+)", block)
        assert number is not None
        fields = {match[2]: match[3].rstrip() for match in _FIELD.finditer(block)}
        records.append((int(number[1]), fields))
    return records


# --- sockets -------------------------------------------------------------------------------


class Message(NamedTuple):
    """A message's header, and which sets follow: (number, octets) of each."""

    sequence: int
    domain: int
    sets: tuple[tuple[int, bytes], ...]
    octets: bytes

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.sets]


def messages(octets: bytes) -> list[Message]:
    """The whole messages of a stream; of one that ends inside a message what is before it."""
    found = []
    while len(octets) >= 16:
        version, length, _, sequence, domain = struct.unpack_from(">HHIII", octets)
        assert version == 10
        if length > len(octets):
            break
        sets, at = [], 16
        while at < length:
            number, size = struct.unpack_from(">HH", octets, at)
            sets.append((number, octets[at + 4 : at + size]))
            at += size
        assert at == length
        found.append(Message(sequence, domain, tuple(sets), octets[:length]))
        octets = octets[length:]
    return found


class TcpCollector:
    """Keeps what each connection brings.

    octets   so many are read of a connection; then it is reset
    """

    def __init__(self, port: int = 0, octets: int | None = None) -> None:
        self.sessions: list[bytearray] = []
        self.ended = 0
        self._connection: socket.socket | None = None
        self._octets = octets
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"tcp://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._connection = connection
                kept = bytearray()
                self.sessions.append(kept)
                while self._octets is None or len(kept) < self._octets:
                    received = connection.recv(65_536)
                    if not received:
                        break
                    kept += received
            self.ended += 1

    def hang_up(self) -> None:
        """End the connection; others may follow."""
        assert self._connection is not None
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def __enter__(self) -> TcpCollector:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


# --- what is sent --------------------------------------------------------------------------


def usage_record(sequence: int = 0, subscriber: str = "10.0.0.7", **more: Any) -> UsageRecord:
    octets = more.pop("octets", (10**10, 500))
    sponsored = more.pop("sponsored", {"video-co": 700})
    first_ns = int(START.timestamp()) * 10**9
    values: dict[str, Any] = {
        "source": "gw", "epoch": "e1", "sequence": sequence, "window_start": START,
        "window_end": START + timedelta(hours=1), "subscriber": subscriber, "account": "alice",
        "rule": "pay", "rules_version": RULES_VERSION, "rating_group": 100,
        "sponsor_identity": "video-co", "asp_identity": "video.example", "layer": "ip",
        "uplink_packets": 3, "uplink_octets": octets[0], "downlink_packets": 2,
        "downlink_octets": octets[1],
        "subscriber_octets": sum(octets) - sum(sponsored.values()), "sponsor_octets": sponsored,
        "first_packet_ns": first_ns, "last_packet_ns": first_ns + 10_500_000_000,
    }  # fmt: skip
    return UsageRecord(**(values | more))


def batch(*records: UsageRecord, source: str = "gw") -> Batch:
    volume = Volume(sum(r.uplink_packets + r.downlink_packets for r in records),
                    sum(r.octets for r in records))
    layer = records[0].layer if records else "ip"
    return Batch(records, volume, source, "e1", RULES_VERSION, layer, "inner")
