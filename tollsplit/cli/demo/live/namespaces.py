"""Hosts around a gateway, as network namespaces that are gone when their program is.

Every interface is made inside a namespace of ours, so nothing outside of them is touched.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO

from ....errors import TollsplitError

CLONE_NEWNET = 0x40000000
TIMEOUT_S = 20
GATEWAY = "gateway"
RUN = Path("/run")  # what does not outlive the machine, and is root's
_SWITCHES = ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/all/keep_addr_on_down")
# Leads a command line: the program ends when the thread that began it does.
BOUND = ("setpriv", "--pdeathsig", "KILL")
# `ip netns exec` gives its program a view of the mounts of its own: a name is known inside alone.
_WITH_HOSTS = ("sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')


@dataclass(frozen=True)
class End:
    """A host behind the gateway: its namespace, the gateway's interface to it, its addresses.

    net   the first three octets of IPv4; behind a "|" the first four groups of IPv6, if it has one
    """

    name: str
    interface: str
    net: str

    @property
    def ipv4(self) -> str:
        return f"{self.net.split('|')[0]}.2"

    @property
    def ipv6(self) -> str:
        return f"{self.net.split('|')[1]}::2"


def missing() -> str | None:
    """What this machine lacks to have namespaces with traffic in them; None: nothing."""
    if os.geteuid() != 0:
        return "needs root"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables"), ("ethtool", "ethtool"),
                          ("setpriv", "util-linux")):
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
    """What a command says. Raises TollsplitError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise TollsplitError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def remove_orphans() -> None:
    """Namespaces and folders whose program was killed before it could remove them.

    A program in one that had not yet bound itself to its parent runs on; it is killed.
    """
    for name in run("ip", "netns", "list").split():
        if _is_orphan(name):
            for pid in run("ip", "netns", "pids", name).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    for folder in RUN.glob("tollsplit-*"):
        if _is_orphan(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_orphan(name: str) -> bool:
    owner = re.match(r"tollsplit-(\d+)-", name)
    return owner is not None and not Path("/proc", owner[1]).exists()


_NUMBERS = count()


class Namespaces:
    """A gateway with nobody behind it yet; close() removes everything, and all programs in it."""

    def __init__(self) -> None:
        # A process may have several gateways; of a process that is gone, all are orphans.
        self._prefix = f"tollsplit-{os.getpid()}-{next(_NUMBERS)}-"
        self._names: list[str] = []
        self._started: list[subprocess.Popen[str]] = []
        remove_orphans()
        try:
            self.add(GATEWAY)
            self.forward(GATEWAY)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- hosts and cables ---------------------------------------------------------------

    def namespace(self, name: str) -> str:
        return self._prefix + name

    def add(self, name: str) -> None:
        self._names.append(name)
        run("ip", "netns", "add", self.namespace(name))
        self.ip(name, "link", "set", "lo", "up")

    def ip(self, name: str, *arguments: str) -> str:
        return run("ip", "-n", self.namespace(name), *arguments)

    def execute(self, name: str, *command: str) -> str:
        return run("ip", "netns", "exec", self.namespace(name), *command)

    def connect(self, end: End) -> None:
        """The cable between an end and the gateway, with addresses and routes."""
        self.ip(end.name, "link", "add", "eth0", "type", "veth",
                "peer", "name", end.interface, "netns", self.namespace(GATEWAY))
        ipv4, _, ipv6 = end.net.partition("|")
        for name, interface, host in ((end.name, "eth0", 2), (GATEWAY, end.interface, 1)):
            self.ip(name, "address", "add", f"{ipv4}.{host}/24", "dev", interface)
            if ipv6:
                self.ip(name, "address", "add", f"{ipv6}::{host}/64", "dev", interface, "nodad")
            self.ip(name, "link", "set", interface, "up")
        self.ip(end.name, "route", "add", "default", "via", f"{ipv4}.1")
        if ipv6:
            self.ip(end.name, "-6", "route", "add", "default", "via", f"{ipv6}::1")

    def forward(self, name: str) -> None:
        """From now on a host passes packets on that are for others."""
        with self.inside(name):
            for switch in _SWITCHES:
                Path("/proc/sys/net", switch).write_text("1")

    def cable(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        """A cable between two hosts beside the gateway: host, interface and IPv4 address of each.
        """
        self.ip(one[0], "link", "add", one[1], "type", "veth",
                "peer", "name", other[1], "netns", self.namespace(other[0]))
        for name, interface, address in (one, other):
            self.ip(name, "address", "add", f"{address}/24", "dev", interface)
            self.ip(name, "link", "set", interface, "up")

    def disconnect(self, end: End) -> None:
        self.ip(end.name, "link", "del", "eth0")

    def merge(self, end: End, way: str) -> None:
        """Whether the kernel may send ("on") what is larger than the wire's packets, to be cut
        later, or not ("off"): then whoever looks sees packets as the wire has them.
        """
        for name, interface in ((end.name, "eth0"), (GATEWAY, end.interface)):
            self.execute(name, "ethtool", "-K", interface, "tso", way, "gso", way)

    # --- programs and sockets -----------------------------------------------------------

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

    def command(self, name: str, *command: str, hosts: Path | None = None) -> list[str]:
        """A command line that runs a program in a namespace, and not longer than this program.

        hosts   what names lead to inside, in the form of /etc/hosts
        """
        known = (*_WITH_HOSTS, str(hosts)) if hosts else ()
        return [*BOUND, "ip", "netns", "exec", self.namespace(name), *known, *command]

    def begin(
        self, name: str, *command: str, hosts: Path | None = None,
        stdin: IO[str] | int | None = None, stdout: IO[str] | int | None = None,
        stderr: IO[str] | int | None = None, pass_fds: Sequence[int] = (),
        more: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """A program in a namespace, without a terminal; close() kills it. Call it from the main
        thread alone: the program ends with the thread that began it.

        more   environment
        """
        started = subprocess.Popen(
            self.command(name, *command, hosts=hosts), stdin=stdin, stdout=stdout, stderr=stderr,
            text=True, pass_fds=pass_fds, start_new_session=True,
            env={**os.environ, **(more or {})})  # fmt: skip
        self._started.append(started)
        return started

    def close(self) -> None:
        """Kill what was begun, remove the namespaces. May be called again."""
        while self._started:
            started = self._started.pop()
            started.kill()
            started.wait()
            for stream in (started.stdin, started.stdout, started.stderr):
                if stream is not None:
                    stream.close()
        while self._names:
            name = self.namespace(self._names.pop())
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
