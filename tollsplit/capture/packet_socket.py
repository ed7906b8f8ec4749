"""A packet socket with a receive ring: AF_PACKET, TPACKET_V3 (packet(7), packet_mmap)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass

from tollsplit.capture.packet_filter import (
    DROP_ALL,
    INSTRUCTION,
    LINKTYPE_ETHERNET,
    LINKTYPE_RAW,
    without_outgoing,
)
from tollsplit.cext.ring import Ring
from tollsplit.errors import CaptureError, UsageError
from tollsplit.limits import (
    CAPTURED_OCTETS_MAX,
    RING_BLOCK_OCTETS,
    RING_BLOCK_OCTETS_MAX,
    RING_BLOCKS,
    RING_BLOCKS_MIN,
    RING_OCTETS_MAX,
    RING_RETIRE_MS,
    RING_RETIRE_MS_MAX,
    RING_RETIRE_MS_MIN,
    RING_SNAP_OCTETS,
    RING_SNAP_OCTETS_MIN,
)

# linux/if_packet.h, asm-generic/socket.h, linux/sockios.h; the socket module has no names for them.
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_RESERVE = 12
PACKET_VNET_HDR = 15
PACKET_FANOUT = 18
PACKET_MR_PROMISC = 1
PACKET_FANOUT_HASH = 0
PACKET_FANOUT_FLAG_UNIQUEID = 0x2000
TPACKET_V3 = 2
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SIOCGIFFLAGS = 0x8913
SIOCGIFHWADDR = 0x8927
IFF_UP = 1
IFREQ = struct.Struct("=16sH22x")
# tpacket_req3; the kernel cuts frames to what they need, so one may be as large as the block.
RING_REQUEST = struct.Struct("=7I")
STATISTICS = struct.Struct("=3I")
# What a block holds beside the octets of one frame: its header, the frame's, addresses, reserve.
BLOCK_OVERHEAD_OCTETS = 256
# Room for a VLAN tag in front of each frame.
RESERVE_OCTETS = 4

ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772
# Devices without a link header: their frames are IP packets.
ARPHRD_RAW = {512: "ppp", 519: "rawip", 768: "ipip", 769: "ip6tnl", 776: "sit", 0xFFFE: "tun"}


@dataclass(frozen=True, slots=True)
class RingOptions:
    """How large a ring is, and what is copied into it.

    block_octets, blocks   each block is handed over as a whole
    retire_ms              how long a block that is not full may wait
    snap_octets            what is copied of each packet
    promiscuous            see what is addressed to others
    segments               ask how large the segments of coalesced packets are; the kernel then
                           drops, and counts as dropped, what it cannot say that of (SCTP)
    """

    block_octets: int = RING_BLOCK_OCTETS
    blocks: int = RING_BLOCKS
    retire_ms: int = RING_RETIRE_MS
    snap_octets: int = RING_SNAP_OCTETS
    promiscuous: bool = True
    segments: bool = True

    def __post_init__(self) -> None:
        _expect("snap length", self.snap_octets, RING_SNAP_OCTETS_MIN, CAPTURED_OCTETS_MAX)
        _expect("retire timeout in ms", self.retire_ms, RING_RETIRE_MS_MIN, RING_RETIRE_MS_MAX)
        _expect("block size", self.block_octets,
                self.snap_octets + BLOCK_OVERHEAD_OCTETS, RING_BLOCK_OCTETS_MAX)
        if self.block_octets % mmap.PAGESIZE:
            raise UsageError(f"ring: block size {self.block_octets}: expected a multiple of "
                             f"{mmap.PAGESIZE}")
        _expect("number of blocks", self.blocks,
                RING_BLOCKS_MIN, RING_OCTETS_MAX // self.block_octets)

    @property
    def octets(self) -> int:
        return self.block_octets * self.blocks


def _expect(what: str, found: int, least: int, most: int) -> None:
    if not least <= found <= most:
        raise UsageError(f"ring: {what} {found}: expected {least} to {most}")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the kernel counted for a socket; packets include those dropped."""

    packets: int = 0
    drops: int = 0
    freezes: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.packets + other.packets, self.drops + other.drops,
                          self.freezes + other.freezes)


def hardware_type(name: str) -> int | None:
    """The ARPHRD_* of an interface; None: there is none of that name."""
    return _ask(name, SIOCGIFHWADDR)


def is_up(name: str) -> bool:
    return bool((_ask(name, SIOCGIFFLAGS) or 0) & IFF_UP)


def _ask(name: str, request: int) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, request, IFREQ.pack(name.encode(), 0))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
    return int(IFREQ.unpack(answer)[1])


def link_type_of(name: str, hardware: int) -> int:
    """The LINKTYPE_ of an interface's frames. Raises CaptureError where they are not dissected."""
    if hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        return LINKTYPE_ETHERNET
    if hardware in ARPHRD_RAW:
        return LINKTYPE_RAW
    raise CaptureError(f"{name}: hardware type {hardware} is not dissected: expected Ethernet or "
                       "plain IP; capture on the interface that carries it")


def open_socket() -> socket.socket:
    """A packet socket that receives nothing yet. Raises PermissionError without CAP_NET_RAW."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


class PacketSocket:
    """One socket's ring on one interface; it lets nothing through until start().

    opened    from open_socket(); closed with this
    program   what is let through, see packet_filter

    Raises CaptureError where the interface, or memory for the ring, is not to be had.
    """

    def __init__(
        self,
        opened: socket.socket,
        name: str,
        program: bytes,
        options: RingOptions,
        ingress: int = 0,
    ) -> None:
        self.name = name
        self._socket = opened
        self._lock = threading.Lock()
        self._counted = Statistics()
        self._ends_s: float | None = None
        self._options = options
        try:
            hardware = hardware_type(name)
            if hardware is None:
                raise CaptureError(f"{name}: no such interface")
            self.link_type = link_type_of(name, hardware)
            # The loopback interface shows every packet on its way out and on its way in. The
            # latter is kept: the filter sees to it, so that what the kernel counts is right too.
            self._program = without_outgoing(program) if hardware == ARPHRD_LOOPBACK else program
            self._memory = self._prepare()
            self.ring = Ring(self._memory, options.block_octets, self.link_type, ingress,
                             options.segments)
        except OSError as error:
            self._socket.close()
            raise CaptureError(f"{name}: a receive ring of {options.octets:,} octets: "
                               f"{error.strerror}: a smaller one may do") from error
        except CaptureError:
            self._socket.close()
            raise
        try:
            self._bind()
        except OSError as error:
            self.close()
            raise CaptureError(f"{name}: {error.strerror}") from error

    def _prepare(self) -> mmap.mmap:
        """The ring; the socket is not bound yet, so nothing is received before all is set."""
        options = self._options
        self._set(PACKET_VERSION, TPACKET_V3)
        self._set(PACKET_RESERVE, RESERVE_OCTETS)
        if options.segments:
            self._set(PACKET_VNET_HDR, 1)
        self._attach(DROP_ALL)
        self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, RING_REQUEST.pack(
            options.block_octets, options.blocks, options.block_octets, options.blocks,
            options.retire_ms, 0, 0))
        return mmap.mmap(self._socket.fileno(), options.octets)

    def _bind(self) -> None:
        if self._options.promiscuous:
            self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack(
                "=IHH8x", socket.if_nametoindex(self.name), PACKET_MR_PROMISC, 0))
        self._socket.bind((self.name, ETH_P_ALL))

    def _set(self, option: int, value: int) -> None:
        self._socket.setsockopt(SOL_PACKET, option, value)

    def _attach(self, program: bytes) -> None:
        octets = ctypes.create_string_buffer(program, len(program))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack(
            "@HP", len(program) // INSTRUCTION.size, ctypes.addressof(octets)))

    def join(self, group: int | None) -> int:
        """Shares the interface's packets with the other members. Returns the group's number.

        None makes a group. Packets go by a hash of their flow, the same in both directions.
        Not PACKET_FANOUT_FLAG_DEFRAG: it would hand over whole datagrams for their fragments,
        and each fragment's own IP length is charged. A full ring does not roll over to the
        next: a flow stays with its worker.
        """
        mode = PACKET_FANOUT_HASH | (PACKET_FANOUT_FLAG_UNIQUEID if group is None else 0)
        try:
            self._set(PACKET_FANOUT, mode << 16 | (group or 0))
            return self._socket.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        except OSError as error:
            raise CaptureError(f"{self.name}: cannot be shared by several workers: "
                               f"{error.strerror}") from error

    def start(self) -> None:
        """Lets packets through, from now on."""
        try:
            self._attach(self._program)
        except OSError as error:
            raise CaptureError(f"{self.name}: the kernel takes no filter of "
                               f"{len(self._program) // INSTRUCTION.size} instructions: "
                               f"{error.strerror}; net.core.optmem_max bounds it") from error

    def halt(self) -> None:
        """Lets nothing more through; what has been is still to be handed out."""
        if self._ends_s is None:
            self._attach(DROP_ALL)
            self._end()

    def _end(self) -> None:
        # The kernel's timer has the last block handed over by then, on a busy machine too.
        self._ends_s = time.monotonic() + max(0.1, 4 * self._options.retire_ms / 1000)

    def fileno(self) -> int:
        return self._socket.fileno()

    def clear_error(self) -> None:
        """Takes ENETDOWN off the socket, which would wake every poll. It resumes by itself."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    @property
    def gone(self) -> bool:
        """The interface does not exist any more; one of the same name is another."""
        with self._lock:
            return self.closed or not self._socket.getsockname()[0]

    @property
    def drained(self) -> bool:
        """Nothing more will come: halted or gone, and the last block was handed over."""
        if self._ends_s is None and self.gone:
            self._end()
        return self._ends_s is not None and time.monotonic() >= self._ends_s

    @property
    def ending(self) -> bool:
        return self._ends_s is not None

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def statistics(self) -> Statistics:
        """What the kernel counted since start(); reading sets its own counters to 0."""
        with self._lock:
            if not self.closed:
                found = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, STATISTICS.size)
                self._counted += Statistics(*STATISTICS.unpack(found))
            return self._counted

    def close(self) -> None:
        """Gives the ring's memory back; what lies in it is lost."""
        self.statistics()
        self.ring.close()
        self._memory.close()
        with self._lock:
            self._socket.close()


def wake_descriptor() -> int:
    """An eventfd, to end a poll from another thread."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
