"""Two subscribers, a gateway, a sponsor's server and the internet, as network namespaces.

    subscriber-1 ── sub1 ┐           ┌ sponsor ── sponsor
                         ├ gateway ──┤
    subscriber-2 ── sub2 ┘           └ internet ── internet

Every interface is made inside a namespace of ours, so nothing outside of them is touched.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
SOL_PACKET = 263
PACKET_AUXDATA = 8
SO_RCVBUFFORCE = 33
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
TIMEOUT_S = 20


@dataclass(frozen=True)
class End:
    """A host behind the gateway: its namespace, the gateway's interface to it, its addresses."""

    name: str
    interface: str
    net: str

    @property
    def ipv4(self) -> str:
        return f"{self.net.split('|')[0]}.2"

    @property
    def ipv6(self) -> str:
        return f"{self.net.split('|')[1]}::2"


ENDS = (
    End("subscriber-1", "sub1", "10.77.1|2001:db8:77:1"),
    End("subscriber-2", "sub2", "10.77.2|2001:db8:77:2"),
    End("sponsor", "sponsor", "203.0.113|2001:db8:cd:1"),
    End("internet", "internet", "198.51.100|2001:db8:ee:1"),
)
SUBSCRIBER_1, SUBSCRIBER_2, SPONSOR, INTERNET = ENDS
GATEWAY = "gateway"


def missing() -> str | None:
    """What this machine lacks to have the lab, by name; None: nothing."""
    if os.geteuid() != 0:
        return "needs root"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables"), ("ethtool", "ethtool")):
        if shutil.which(tool) is None:
            return f"needs {tool} (apt-get install {package})"
    probe = f"tollsplit-{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "kernel has no network namespaces for us"
    try:
        veth = ["ip", "-n", probe, "link", "add", "probe0", "type", "veth",
                "peer", "name", "probe1"]
        if subprocess.run(veth, capture_output=True, check=False).returncode:
            return "kernel has no veth"
        tables = ["ip", "netns", "exec", probe, "nft", "add", "table", "inet", "probe"]
        if subprocess.run(tables, capture_output=True, check=False).returncode:
            return "kernel has no nf_tables"
    finally:
        subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


class Lab:
    """The namespaces, made at once; close() removes them and all that is in them."""

    def __init__(self) -> None:
        self._prefix = f"tollsplit-{os.getpid()}-"
        self._names: list[str] = []
        self._started: list[subprocess.Popen[str]] = []
        try:
            self.add(GATEWAY)
            for end in ENDS:
                self._connect(end)
            with self.inside(GATEWAY):
                for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                    Path("/proc/sys/net", switch).write_text("1")
            self._await_routes()
            self._count()
        except BaseException:
            self.close()
            raise

    def namespace(self, name: str) -> str:
        return self._prefix + name

    def add(self, name: str) -> None:
        run("ip", "netns", "add", self.namespace(name))
        self._names.append(name)
        self.ip(name, "link", "set", "lo", "up")

    def ip(self, name: str, *arguments: str) -> str:
        return run("ip", "-n", self.namespace(name), *arguments)

    def execute(self, name: str, *command: str) -> str:
        return run("ip", "netns", "exec", self.namespace(name), *command)

    def connect(self, end: End) -> None:
        """The cable between an end and the gateway, with addresses and routes."""
        self.ip(end.name, "link", "add", "eth0", "type", "veth",
                "peer", "name", end.interface, "netns", self.namespace(GATEWAY))
        ipv4, ipv6 = end.net.split("|")
        for name, interface, host in ((end.name, "eth0", 2), (GATEWAY, end.interface, 1)):
            self.ip(name, "address", "add", f"{ipv4}.{host}/24", "dev", interface)
            self.ip(name, "address", "add", f"{ipv6}::{host}/64", "dev", interface, "nodad")
            self.ip(name, "link", "set", interface, "up")
        self.ip(end.name, "route", "add", "default", "via", f"{ipv4}.1")
        self.ip(end.name, "-6", "route", "add", "default", "via", f"{ipv6}::1")

    def disconnect(self, end: End) -> None:
        self.ip(end.name, "link", "del", "eth0")

    def _connect(self, end: End) -> None:
        self.add(end.name)
        self.connect(end)

    def _await_routes(self) -> None:
        """Until each end reaches each other one: a refused connection is an answer."""
        until = time.monotonic() + TIMEOUT_S
        for near in ENDS:
            for far in ENDS:
                for family, address in ((socket.AF_INET, far.ipv4), (socket.AF_INET6, far.ipv6)):
                    while near is not far and not self._reaches(near, family, address):
                        assert time.monotonic() < until, f"{near.name} does not reach {address}"

    def _reaches(self, near: End, family: int, address: str) -> bool:
        with self.socket(near.name, family, socket.SOCK_STREAM) as probe:
            try:
                probe.connect((address, 9))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return True

    def _count(self) -> None:
        """A counter for each pair of a subscriber and a server, address family and direction."""
        counters, rules = [], []
        for near in (SUBSCRIBER_1, SUBSCRIBER_2):
            for far in (SPONSOR, INTERNET):
                for family, one, other in (("ip", near.ipv4, far.ipv4),
                                           ("ip6", near.ipv6, far.ipv6)):
                    for way, source, destination in (("uplink", one, other),
                                                     ("downlink", other, one)):
                        name = f"{near.interface}_{far.interface}_{family}_{way}"
                        counters.append(f"counter {name} {{ }}")
                        rules.append(f"{family} saddr {source} {family} daddr {destination} "
                                     f"counter name {name}")
        chain = "type filter hook forward priority 0;\n" + "\n".join(rules)
        ruleset = "\n".join(["table inet tollsplit {", *counters, f"chain forward {{ {chain}\n}}",
                             "}"])
        command = ["ip", "netns", "exec", self.namespace(GATEWAY), "nft", "-f", "-"]
        subprocess.run(command, input=ruleset, text=True, timeout=TIMEOUT_S, check=True)

    def counters(self) -> dict[str, tuple[int, int]]:
        """What the gateway forwarded: name → packets, IP octets."""
        found = json.loads(self.execute(GATEWAY, "nft", "-j", "list", "counters"))["nftables"]
        return {
            row["counter"]["name"]: (row["counter"]["packets"], row["counter"]["bytes"])
            for row in found if "counter" in row
        }

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread is in a namespace; sockets stay in the one they were opened in."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(descriptor: int) -> None:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(f"/run/netns/{self.namespace(name)}", os.O_RDONLY)
            try:
                enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                enter(back)
        finally:
            os.close(back)

    def socket(self, name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket in a namespace, with a timeout."""
        with self.inside(name):
            opened = socket.socket(family, kind, protocol)
        opened.settimeout(TIMEOUT_S)
        return opened

    def start(self, name: str, *command: str) -> subprocess.Popen[str]:
        """A program in a namespace; it has said that it is ready when this returns."""
        started = subprocess.Popen(["ip", "netns", "exec", self.namespace(name), *command],
                                   stdout=subprocess.PIPE, text=True)
        self._started.append(started)
        assert started.stdout is not None
        assert started.stdout.readline(), f"{command[0]} ended before it was ready"
        return started

    def serve(self, name: str) -> subprocess.Popen[str]:
        """A server of HTTP and UDP echo on both address families, see servers.py."""
        return self.start(name, sys.executable, str(Path(__file__).with_name("servers.py")))

    def close(self) -> None:
        for started in self._started:
            started.kill()
            started.wait()
            assert started.stdout is not None
            started.stdout.close()
        for name in reversed(self._names):
            subprocess.run(["ip", "netns", "del", self.namespace(name)], check=False)


@dataclass(frozen=True)
class Seen:
    """A frame as a plain packet socket saw it, its VLAN tag put back; type as in packet(7)."""

    octets: bytes
    original_octets: int
    packet_type: int


class Judge:
    """A packet socket without a ring, read by recvmsg: what is on an interface, packet by packet.

    It shares no code with the ring; libpcap and tcpdump have had no part in it either.
    """

    def __init__(self, lab: Lab, name: str, interface: str) -> None:
        self._socket = lab.socket(name, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 * 1024 * 1024)
        with lab.inside(name):
            self._socket.bind((interface, 3))
        self._socket.settimeout(0.2)
        self.seen: list[Seen] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                octets, control, _, address = self._socket.recvmsg(1 << 18, 256)
            except TimeoutError:
                if self._done.is_set():
                    return
                continue
            original = len(octets)
            for _, _, auxdata in control:
                status, _, _, _, _, tci, tpid = struct.unpack("=3I4H", auxdata[:20])
                if status & TP_STATUS_VLAN_VALID:
                    tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                    octets = octets[:12] + struct.pack("!HH", tpid, tci) + octets[12:]
                    original += 4
            self.seen.append(Seen(octets, original, address[2]))

    def close(self) -> list[Seen]:
        """Everything that was there until now."""
        self._done.set()
        self._thread.join()
        self._socket.close()
        return self.seen


def wait_until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def own_frames(seen: Sequence[bytes]) -> list[bytes]:
    """Without what hosts say by themselves at any time: ARP, neighbour discovery, MLD."""
    return [octets for octets in seen if octets[12:14] != b"\x08\x06"
            and not (octets[12:14] == b"\x86\xdd" and octets[20] in (0, 58))]
