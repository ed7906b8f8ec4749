"""A packet socket without a ring: what is on an interface, seen by nobody else's code."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass

from .namespaces import Namespaces

ALL_PROTOCOLS = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6


@dataclass(frozen=True)
class Seen:
    """A frame as a plain packet socket saw it, its VLAN tag put back; type as in packet(7)."""

    octets: bytes
    original_octets: int
    packet_type: int
    timestamp_ns: int


class Judge:
    """Reads an interface packet by packet, by recvmsg.

    It shares no code with the ring; libpcap and tcpdump have had no part in it either.
    """

    def __init__(self, namespaces: Namespaces, name: str, interface: str) -> None:
        self._socket = namespaces.socket(name, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 * 1024 * 1024)
        with namespaces.inside(name):
            self._socket.bind((interface, ALL_PROTOCOLS))
        self._socket.settimeout(0.2)
        self.seen: list[Seen] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                octets, control, _, address = self._socket.recvmsg(1 << 18, 256)
            except TimeoutError:
                if self._done.is_set():
                    return
                continue
            original, timestamp_ns = len(octets), 0
            for level, kind, about in control:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds, nanoseconds = struct.unpack("=qq", about[:16])
                    timestamp_ns = seconds * 1_000_000_000 + nanoseconds
                    continue
                status, _, _, _, _, tci, tpid = struct.unpack("=3I4H", about[:20])
                if status & TP_STATUS_VLAN_VALID:
                    tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                    octets = octets[:12] + struct.pack("!HH", tpid, tci) + octets[12:]
                    original += 4
            self.seen.append(Seen(octets, original, address[2], timestamp_ns))

    def close(self) -> list[Seen]:
        """Everything that was there until now. May be called again."""
        self._done.set()
        self._thread.join()
        self._socket.close()
        return self.seen
