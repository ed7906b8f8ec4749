"""Other people's tools: how each is found, what it is asked to do, and what it says it counted.

None of them splits octets between payers; each does its nearest equivalent. Its CPU time is that
of all its processes, user and system.
"""

from __future__ import annotations

import functools
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Measurement
from benchmarks.traffic import Case

ROOT = Path(__file__).resolve().parents[1]
# make bench-peers puts what comes from PyPI there.
PEERS_PYTHON = ROOT / "build" / "peers" / "bin" / "python"
LOOPS = ROOT / "benchmarks" / "loops.py"
PMACCTD = """\
daemonize: false
pcap_savefile: {capture}
plugins: print[octets]
aggregate[octets]: src_host
print_output[octets]: csv
print_output_file[octets]: {folder}/octets.csv
print_output_file_append[octets]: true
print_refresh_time[octets]: 86400
print_cache_entries[octets]: 100003
plugin_buffer_size: 1048576
plugin_pipe_size: 134217728
"""
Totals = Callable[[str], tuple[int | None, int | None]]


class PeerError(Exception):
    """A peer that fails, takes too long, or says nothing that can be read."""


@dataclass(frozen=True)
class Peer:
    """A tool and its task.

    command   for bash; {capture} is the file, {folder} an empty one, {port} a UDP port of the
              loopback interface on which nobody answers, {python} an interpreter
    layer     of the octets it reports: "ip", "wire" (frames as they were), or "" (no octets)
    totals    packets and octets out of what it prints; None where it does not say
    """

    name: str
    package: str
    job: str
    layer: str
    command: str
    totals: Totals
    programs: tuple[str, ...] = ()
    module: str = ""  # of Python, instead of programs
    flows: bool = False  # keeps five-tuples, so that their number matters

    @property
    def missing(self) -> str:
        """What it takes and is not there; empty where all is."""
        if self.module:
            return "" if interpreter(self.module) else f"Python package {self.package}"
        absent = [name for name in self.programs if not found(name)]
        return f"{', '.join(absent)} (Debian package {self.package})" if absent else ""


def found(program: str) -> str | None:
    # Debian keeps daemons out of a user's PATH.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@functools.cache
def interpreter(module: str) -> str | None:
    """A Python that has the module."""
    for python in (str(PEERS_PYTHON), sys.executable):
        try:
            done = subprocess.run([python, "-c", f"import {module}"], capture_output=True,
                                  check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            return python
    return None


# --- what they print ---------------------------------------------------------------------


def matched(packets: str, octets: str = "") -> Totals:
    """Totals out of the text around them: the sum of all matches of each pattern."""

    def total(pattern: str, text: str) -> int:
        numbers = re.findall(pattern, text, re.MULTILINE)
        if not numbers:
            raise PeerError(f"nothing like {pattern} in {text[-300:]!r}")
        return sum(int(number.replace(",", "")) for number in numbers)

    return lambda text: (total(packets, text), total(octets, text) if octets else None)


def listed(packets: int, octets: int, separator: str | None = None) -> Totals:
    """Totals of two columns, in lines that have numbers in both."""

    def totals(text: str) -> tuple[int | None, int | None]:
        sums = [0, 0]
        for line in text.splitlines():
            words = line.split(separator)
            if len(words) > max(packets, octets) and words[packets].isdigit():
                sums[0] += int(words[packets])
                sums[1] += int(words[octets])
        return sums[0], sums[1]

    return totals


def loop(name: str, job: str, module: str, flows: bool = False) -> Peer:
    return Peer(name, module, job, "ip", f"{{python}} {LOOPS} {name} {{capture}}",
                matched(r"^(\d+) \d+$", r"^\d+ (\d+)$"), module=module, flows=flows)


PEERS = (
    Peer("tcpdump", "tcpdump", "counts what a filter passes", "",
         "tcpdump -n -r {capture} --count ip", matched(r"^(\d+) packets$"), ("tcpdump",)),
    Peer("tcpdump -w", "tcpdump", "copies packets to /dev/null", "",
         "tcpdump -r {capture} -w /dev/null", lambda text: (None, None), ("tcpdump",)),
    Peer("tracestats", "libtrace-tools", "counts", "wire", "tracestats pcapfile:{capture}",
         matched(r"Total:\s+(\d+)\s+\d+", r"Total:\s+\d+\s+(\d+)"), ("tracestats",)),
    Peer("capinfos", "wireshark-common", "counts", "wire", "capinfos -M -c -d {capture}",
         matched(r"Number of packets:\s+(\d+)", r"Data size:\s+(\d+)"), ("capinfos",)),
    Peer("softflowd", "softflowd", "five-tuples, exported as NetFlow 9", "ip",
         "softflowd -r {capture} -v 9 -n 127.0.0.1:{port}",
         matched(r"^Packets processed: (\d+)", r"^\s+\w+ \(\d+\):\s+(\d+)\s+\d+"),
         ("softflowd",), flows=True),
    Peer("nfpcapd", "nfdump", "five-tuples to files, then octets per address", "ip",
         "nfpcapd -r {capture} -l {folder} && nfdump -N -R {folder} -s ip/bytes -n 1",
         matched(r"total packets: (\d+)", r"total bytes: (\d+)"), ("nfpcapd", "nfdump"),
         flows=True),
    Peer("pmacctd", "pmacct", "octets per source address", "ip",
         "pmacctd -f {folder}/pmacctd.conf && cat {folder}/octets.csv", listed(1, 2, ","),
         ("pmacctd",)),
    Peer("argus", "argus-server argus-client", "five-tuples, then octets per address", "wire",
         "argus -r {capture} -w {folder}/argus && racluster -r {folder}/argus -m saddr "
         "-s pkts bytes", listed(0, 1),
         ("argus", "racluster"), flows=True),
    Peer("ndpiReader", "libndpi-bin", "five-tuples and their applications", "ip",
         "ndpiReader -i {capture}",
         matched(r"IP packets:\s+(\d+)", r"IP bytes:\s+(\d+)"), ("ndpiReader",), flows=True),
    Peer("tshark", "tshark", "octets per address", "wire",
         "tshark -n -q -r {capture} -z io,stat,0 -z endpoints,ip",
         matched(r"<>.*\|\s+(\d+) \|\s+\d+ \|$", r"<>.*\|\s+\d+ \|\s+(\d+) \|$"), ("tshark",)),
    loop("nfstream", "five-tuples, no inspection", "nfstream", flows=True),
    loop("dpkt-slices", "octets per address, fields by place", "dpkt"),
    loop("dpkt", "octets per address, all headers parsed", "dpkt"),
    loop("pypacker", "octets per address, all headers parsed", "pypacker"),
    loop("scapy-slices", "octets per address, fields by place", "scapy"),
    loop("scapy", "octets per address, all headers parsed", "scapy"),
)


# --- running them ------------------------------------------------------------------------


def measure(peer: Peer, case: Case, limit_s: float) -> Measurement:
    """Run a peer on a capture: what it says, and the CPU time of all its processes.

    Raises PeerError where it fails or takes longer than limit_s.
    """
    with tempfile.TemporaryDirectory() as folder, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))  # never read: what does not fit its buffer is dropped
        capture = case.capture.resolve()
        (Path(folder) / "pmacctd.conf").write_text(PMACCTD.format(capture=capture, folder=folder))
        command = peer.command.format(
            capture=capture, folder=folder, port=sink.getsockname()[1],
            python=interpreter(peer.module) if peer.module else "")
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic_ns()
        text = run(command, peer.name, limit_s)
        wall = time.monotonic_ns() - wall
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    packets, octets = peer.totals(text)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"packets": packets, "octets": octets, "cpu_ns": int(cpu_s * 1e9), "wall_ns": wall,
            "checksum": f"{octets or packets or 0:016x}"}


def run(command: str, name: str, limit_s: float) -> str:
    """What a pipeline prints; its whole process group ends with it."""
    environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
                                "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command], stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise PeerError(f"{name}: not done after {limit_s:.0f} s") from None
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code:
        raise PeerError(f"{name}: exit code {code}: {text[-300:]}")
    return text
