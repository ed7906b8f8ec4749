"""Frames from network interfaces, as they pass."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tollsplit.capture.packet_filter import accept, compile_filter
from tollsplit.capture.packet_socket import (
    PacketSocket,
    RingOptions,
    Statistics,
    hardware_type,
    is_up,
    link_type_of,
    open_socket,
    wake_descriptor,
)
from tollsplit.capture.recording import InterfaceCounts, Recording
from tollsplit.cext.ring import Ring
from tollsplit.errors import CaptureError, UsageError
from tollsplit.limits import RING_RETURNS_MAX, RING_WORKERS_MAX

# Of the calling thread's network namespace, whatever /sys is mounted from.
INTERFACE_COUNTERS = Path("/proc/thread-self/net/dev")
RTMGRP_LINK = 1
INTERFACE_NAME_OCTETS_MAX = 15
# How often a ring that is about to end is looked at.
ENDING_S = 0.02


@dataclass(frozen=True, slots=True)
class Lost:
    """Packets that passed and were not handed out, since the capture began.

    kernel      found no room in a ring
    interface   given up before that: rx_dropped and rx_missed_errors
    overruns    events of rx_fifo_errors; each is one packet or more, often among the above
    """

    kernel: int = 0
    interface: int = 0
    overruns: int = 0

    def __add__(self, other: Lost) -> Lost:
        return Lost(self.kernel + other.kernel, self.interface + other.interface,
                    self.overruns + other.overruns)


def interface_loss(name: str) -> Lost | None:
    """What an interface has given up since it exists; None: there is none of that name."""
    for line in INTERFACE_COUNTERS.read_text().splitlines():
        found, _, figures = line.partition(":")
        if found.strip() == name:
            # receive: bytes packets errs drop fifo frame compressed multicast
            columns = figures.split()
            return Lost(0, int(columns[3]), int(columns[4]))
    return None


class SocketPool:
    """Packet sockets for interfaces that come, or come back, when privileges are dropped."""

    def __init__(self, ahead: int) -> None:
        self._ahead: list[socket.socket] = []
        try:
            for _ in range(ahead):
                self._ahead.append(open_socket())
        except OSError as error:
            self.close()
            if isinstance(error, PermissionError):
                raise CaptureError(
                    "live capture needs the capability CAP_NET_RAW: run it as root, or with "
                    "AmbientCapabilities=CAP_NET_RAW in its systemd unit, or once and for all "
                    "setcap cap_net_raw+ep on a python3 of its own"
                ) from error
            raise CaptureError(f"packet sockets: {error.strerror}: {ahead} are opened, some of "
                               "them ahead for interfaces that come back") from error

    def take(self) -> socket.socket:
        try:
            return open_socket()
        except PermissionError as error:
            if self._ahead:
                return self._ahead.pop()
            raise CaptureError("an interface came back, but no packet socket is left: privileges "
                               f"are dropped, and it has vanished {RING_RETURNS_MAX} times; "
                               "start the capture anew") from error

    def close(self) -> None:
        while self._ahead:
            self._ahead.pop().close()


@dataclass(slots=True)
class Interface:
    """One interface by its name, through all its lives."""

    name: str
    ingress: int
    sockets: list[PacketSocket] = field(default_factory=list)
    current: list[PacketSocket] = field(default_factory=list)  # of this life
    up: bool = True
    counted: Statistics = field(default_factory=Statistics)    # by sockets that are closed
    lost_before: Lost = Lost()          # by the interface of that name, in earlier lives
    base: Lost = Lost()                 # of this life, when its capture began
    latest: Lost = Lost()               # of this life, when last seen

    def read_loss(self) -> None:
        """Takes in the interface's own counters while it is there."""
        if (found := interface_loss(self.name)) is not None:
            self.latest = found

    def end_life(self) -> None:
        self.lost_before = self.interface_lost()
        self.base = self.latest = Lost()
        self.current = []

    def interface_lost(self) -> Lost:
        lost, latest, base = self.lost_before, self.latest, self.base
        return lost + Lost(0, latest.interface - base.interface, latest.overruns - base.overruns)

    def statistics(self) -> Statistics:
        for closed in [one for one in self.sockets if one.closed]:
            self.sockets.remove(closed)
            self.counted += closed.statistics()
        return sum((one.statistics() for one in self.sockets), self.counted)


class Lane:
    """What one worker reads: a ring on every interface. One thread goes through its turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[PacketSocket] = []
        self._wake = wake_descriptor()
        self._changed = True  # there is more to see to than frames
        self._stopping = False
        self._handed_out = 0  # by rings that are closed, as are these faults
        self._faults = 0

    @property
    def handed_out(self) -> int:
        """Frames, ever."""
        with self._lock:
            return self._handed_out + sum(one.ring.handed_out for one in self._sockets)

    @property
    def faults(self) -> int:
        """Frames that a block of a ring announced and did not hold, ever."""
        with self._lock:
            return self._faults + sum(one.ring.faults for one in self._sockets)

    def add(self, added: PacketSocket) -> None:
        with self._lock:
            self._sockets.append(added)
        self.wake()

    def wake(self) -> None:
        """Ends the turn that waits, from any thread."""
        self._changed = True
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Ends the turns, once what has passed until now is handed out."""
        with self._lock:
            self._stopping = True
            for one in self._sockets:
                one.halt()
        self.wake()

    def turns(self, timeout_s: float) -> Iterator[list[Ring]]:
        """Rings with frames in them, turn after turn; none when the timeout is over or at a wake.

        Each is to be walked until its next_batch gives 0 before the next turn is asked for.
        """
        while (sockets := self._current()) is not None:
            # Between two waits this is all that Python does for a few thousand frames.
            rings = [one.ring for one in sockets]
            poll = self._poll_of(sockets)
            timeout_ms = (ENDING_S if self._changed else timeout_s) * 1000
            while True:
                ready = [ring for ring in rings if ring.ready()]
                if not ready:
                    for descriptor, events in poll.poll(timeout_ms):
                        self._heed(descriptor, events, sockets)
                    ready = [ring for ring in rings if ring.ready()]
                yield ready
                if self._changed:
                    break

    def _current(self) -> list[PacketSocket] | None:
        """The sockets to go on with; those that are done with are closed. None: that was all.

        As long as one is about to end, something has changed: it has to be looked at again.
        """
        # Before the look: what changes after it is seen at the next.
        self._changed = False
        for one in [one for one in self._sockets if one.drained and not one.ring.ready()]:
            self._retire(one)
        with self._lock:
            if any(one.ending for one in self._sockets):
                self._changed = True
            return list(self._sockets) if self._sockets or not self._stopping else None

    def _poll_of(self, sockets: Sequence[PacketSocket]) -> select.poll:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for one in sockets:
            poll.register(one.fileno(), select.POLLIN)
        return poll

    def _heed(self, descriptor: int, events: int, sockets: Sequence[PacketSocket]) -> None:
        if descriptor == self._wake:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        elif events & select.POLLERR:
            # The interface went down, or is gone.
            for one in sockets:
                if one.fileno() == descriptor:
                    one.clear_error()
            self._changed = True

    def _retire(self, ended: PacketSocket) -> None:
        with self._lock:
            self._sockets.remove(ended)
            self._handed_out += ended.ring.handed_out
            self._faults += ended.ring.faults
        ended.close()

    def close(self) -> None:
        for one in list(self._sockets):
            self._retire(one)
        os.close(self._wake)


class LiveCapture:
    """Interfaces, each shared by as many lanes as there are workers.

    interfaces   names
    workers      lanes; a flow stays on one, the two directions of it together
    options      the rings
    expression   what is captured, in libpcap's syntax; None: everything
    ingresses    interface name → ingress number, "*" for every other
    wait         an interface that is not there, or down, is waited for instead of refused
    recording    the file that frames will be recorded in; each ring then has its `interface`

    What goes out of an interface is seen as well as what comes in, each once. Interfaces that
    vanish and come back are taken up again by watch(), which one thread has to keep calling.

    Raises CaptureError without CAP_NET_RAW, and for an interface that is not to be had.
    """

    def __init__(
        self,
        interfaces: Sequence[str],
        *,
        workers: int = 1,
        options: RingOptions | None = None,
        expression: str | None = None,
        ingresses: Mapping[str, int] | None = None,
        wait: bool = False,
        recording: Recording | None = None,
    ) -> None:
        if not 1 <= workers <= RING_WORKERS_MAX:
            raise UsageError(f"workers {workers}: expected 1 to {RING_WORKERS_MAX}")
        self._options = options or RingOptions()
        self._expression = expression
        self._recording = recording
        numbers = ingresses or {}
        self.interfaces = [
            Interface(name, numbers.get(name, numbers.get("*", 0))) for name in _checked(interfaces)
        ]
        self._pool = SocketPool(RING_RETURNS_MAX * workers * len(self.interfaces))
        self.lanes = tuple(Lane() for _ in range(workers))
        self._following = threading.Lock()
        self._stopped = False
        # No interface asked for may appear between the look at it and the wait for it.
        self._links = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._links.bind((0, RTMGRP_LINK))
        try:
            for interface in self.interfaces:
                if not self._open(interface) and not wait:
                    raise CaptureError(_absent(interface.name))
        except BaseException:
            self.close()
            raise

    def _open(self, interface: Interface) -> bool:
        """Opens an interface's rings and adds them to the lanes. False: it is not there, or down.

        Down is not there, because older kernels let no socket into a group then.
        """
        name = interface.name
        if not is_up(name):
            return False
        hardware = hardware_type(name)
        if hardware is None:
            return False
        snap_octets = self._options.snap_octets
        program = accept(snap_octets)
        if self._expression is not None:
            program = compile_filter(self._expression, link_type_of(name, hardware), snap_octets)
        opened: list[PacketSocket] = []
        group = None
        base = interface_loss(name)
        try:
            for _ in self.lanes:
                opened.append(PacketSocket(
                    self._pool.take(), name, program, self._options, interface.ingress))
                if len(self.lanes) > 1:
                    group = opened[-1].join(group)
                if self._recording is not None:
                    opened[-1].ring.interface = self._recording.interface(
                        name, opened[-1].link_type)
            # Not before all have joined: outside the group a socket gets everything.
            for one in opened:
                one.start()
        except BaseException:
            for one in opened:
                one.close()
            raise
        interface.base = interface.latest = base or Lost()
        interface.sockets += opened
        interface.current = opened
        interface.up = True
        for lane, one in zip(self.lanes, opened, strict=True):
            lane.add(one)
        return True

    def watch(self, timeout_s: float) -> list[str]:
        """Waits for links to change, and follows them. Returns what happened, in words.

        Raises CaptureError where an interface is back and cannot be opened.
        """
        poll = select.poll()
        poll.register(self._links, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            # What changed is looked up by name: the messages may be too many to be kept.
            with suppress(BlockingIOError):
                while True:
                    with suppress(InterruptedError):
                        self._links.recv(65536)
        happened: list[str] = []
        with self._following:
            # A socket that stop() ended is no interface that is gone.
            for interface in self.interfaces if not self._stopped else ():
                happened += self._follow(interface)
        return happened

    def _follow(self, interface: Interface) -> Iterator[str]:
        name = interface.name
        if interface.current and interface.current[0].gone:
            interface.end_life()
            yield f"{name}: is gone; waiting for it to come back"
        if not interface.current:
            if self._open(interface):
                yield f"{name}: is captured from now on"
            return
        interface.read_loss()
        if is_up(name) != interface.up:
            interface.up = not interface.up
            yield f"{name}: is {'up again' if interface.up else 'down'}"

    def lost(self) -> Lost:
        """What passed and was not handed out, all interfaces and workers together."""
        total = Lost()
        for interface in self.interfaces:
            if interface.current:
                interface.read_loss()
            total += interface.interface_lost() + Lost(interface.statistics().drops)
        return total

    def counts(self) -> dict[str, InterfaceCounts]:
        """What passed each interface, by its name: what a recording wants to know at its end."""
        found = {}
        for interface in self.interfaces:
            if interface.current:
                interface.read_loss()
            counted = interface.statistics()
            found[interface.name] = InterfaceCounts(
                counted.packets, interface.interface_lost().interface, counted.drops)
        return found

    def statistics(self) -> Statistics:
        """What the kernel counted; packets less drops are handed out once all lanes have ended."""
        return sum((one.statistics() for one in self.interfaces), Statistics())

    def stop(self) -> None:
        """Ends the lanes' turns, once what has passed until now is handed out."""
        with self._following:
            self._stopped = True
        for lane in self.lanes:
            lane.stop()

    def close(self) -> None:
        """Closes everything; the lanes' turns must have ended."""
        for lane in self.lanes:
            lane.close()
        self._pool.close()
        self._links.close()


def _checked(interfaces: Sequence[str]) -> Sequence[str]:
    if not interfaces:
        raise UsageError("no interface: expected one name or more")
    for name in interfaces:
        if name == "any":
            raise CaptureError('"any": a packet that passes a bridge or a VLAN shows on more than '
                               "one interface and would be metered each time: name those meant")
        if not 0 < len(name.encode()) <= INTERFACE_NAME_OCTETS_MAX or "/" in name:
            raise UsageError(f'"{name}": expected the name of a network interface')
    if len(set(interfaces)) < len(interfaces):
        raise UsageError(f"{', '.join(interfaces)}: an interface is named twice")
    return interfaces


def _absent(name: str) -> str:
    if hardware_type(name) is None:
        return f"{name}: no such interface: see `ip link`, or wait for it with --wait"
    return f"{name}: is down: `ip link set {name} up`, or wait for it with --wait"
