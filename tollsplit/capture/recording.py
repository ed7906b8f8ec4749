"""A live capture's frames, kept in a pcapng file (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import os
import stat
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tollsplit.cext.recorder import Recorder, Spool
from tollsplit.errors import CaptureError
from tollsplit.limits import CAPTURED_OCTETS_MAX

BLOCK_SECTION = 0x0A0D0D0A
BLOCK_INTERFACE = 1
BLOCK_STATISTICS = 5
BYTE_ORDER_MAGIC = 0x1A2B3C4D
OPTION_END = 0
SHB_HARDWARE, SHB_OS, SHB_USERAPPL = 2, 3, 4
IF_NAME, IF_TSRESOL = 2, 9
ISB_IFRECV, ISB_IFDROP, ISB_OSDROP = 4, 5, 7
NANOSECONDS = b"\x09"
# A ring puts a tag back that the kernel took off, behind what the snap length has left.
VLAN_TAG_OCTETS = 4
# Other people's packets are nobody else's business.
MODE = 0o600


@dataclass(frozen=True, slots=True)
class InterfaceCounts:
    """What passed an interface in packets, for its statistics block.

    received             by the capture's filter, those that found no room among them
    interface_dropped    given up by the interface before that
    kernel_dropped       found no room in a ring
    """

    received: int
    interface_dropped: int
    kernel_dropped: int


class Recording:
    """A pcapng file that grows as frames are recorded; several recorders share it.

    path          a file that is not there yet, or is empty
    snap_octets   what the rings copy of each packet
    application   what writes it, name and version

    Each worker adds its frames to a recorder of its own; a thread writes what they hand over,
    whole blocks at a time. Where the disk is slower than the traffic the recorders wait, and the
    metering with them, so that nothing is missing in the file that was metered: the rings then
    overflow and count what is lost. After a write error `failure` says so, the file is cut back
    to its last whole block, and metering goes on without it.

    The file can be read while it grows. A process that is killed leaves it cut inside a block at
    worst, and without what was in its buffers: a second of traffic, or what has been since the
    last flush().

    Raises CaptureError where the file is not to be had.
    """

    def __init__(self, path: str, snap_octets: int, application: str) -> None:
        self.path = path
        self._snap_octets = min(snap_octets + VLAN_TAG_OCTETS, CAPTURED_OCTETS_MAX)
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, int], int] = {}
        self._closing: str | None = None
        head = _section_header(application)
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror}: expected a file to write to") from error
        try:
            if os.fstat(self._descriptor).st_size:
                raise CaptureError(f"{path}: is there already, and not empty: name another file")
            if os.write(self._descriptor, head) != len(head):
                raise CaptureError(f"{path}: has no room for {len(head)} octets")
        except OSError as error:
            os.close(self._descriptor)
            raise CaptureError(f"{path}: {error.strerror}") from error
        except CaptureError:
            os.close(self._descriptor)
            raise
        self._spool = Spool(self._descriptor, len(head), self._snap_octets)
        self._recorders = [Recorder(self._spool)]  # the first one is for blocks of our own
        self._thread = threading.Thread(
            target=self._spool.write_out, name="recording", daemon=True)

    def interface(self, name: str, link_type: int) -> int:
        """The number of an interface in the file; it is described there at the first time.

        link_type   LINKTYPE_* of its frames; one that comes back with another is another
        """
        with self._lock:
            number = self._numbers.get((name, link_type))
            if number is None:
                number = self._numbers[name, link_type] = len(self._numbers)
                self._recorders[0].append(_interface(name, link_type, self._snap_octets))
            return number

    def recorder(self) -> Recorder:
        """A recorder for one more worker. The first one starts the thread that writes, so that
        privileges can be dropped before: capabilities are each thread's own.
        """
        recorder = Recorder(self._spool)
        with self._lock:
            self._start()
            self._recorders.append(recorder)
        return recorder

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    @property
    def octets(self) -> int:
        """How long the file is; what recorders still hold is not in it."""
        return self._spool.written[0]

    @property
    def frames(self) -> int:
        """How many frames the file holds; what recorders still hold is not among them."""
        return self._spool.written[1]

    @property
    def failure(self) -> str | None:
        """Why nothing more is recorded, for a person; None: all is well."""
        octets, frames, error = self._spool.written
        if error:
            return (f"{self.path}: {os.strerror(error)}: recording has stopped; the file holds "
                    f"what was before, {frames:,} frames in {octets:,} octets")
        return self._closing

    def close(self, counts: Mapping[str, InterfaceCounts]) -> None:
        """Writes out what recorders hold, and statistics by interface name; then closes the file.

        The workers must have ended. What goes wrong is told by `failure`.
        """
        self._start()
        for recorder in self._recorders:
            recorder.flush()
        now_ns = time.time_ns()
        # An interface that came back with another link type has its counts at the last number.
        latest = {name: number for (name, _), number in self._numbers.items()}
        for name, counted in counts.items():
            if name in latest:
                self._recorders[0].append(_statistics(latest[name], now_ns, counted))
        self._spool.end()
        self._thread.join()
        try:
            # Disks that are written to later tell only now that they were full.
            if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                os.fsync(self._descriptor)
        except OSError as error:
            self._closing = f"{self.path}: {error.strerror}: what was recorded may be lost"
        finally:
            os.close(self._descriptor)


def _section_header(application: str) -> bytes:
    system = os.uname()
    return _block(BLOCK_SECTION, struct.pack("=IHHq", BYTE_ORDER_MAGIC, 1, 0, -1), [
        (SHB_HARDWARE, system.machine.encode()),
        (SHB_OS, f"{system.sysname} {system.release}".encode()),
        (SHB_USERAPPL, application.encode()),
    ])


def _interface(name: str, link_type: int, snap_octets: int) -> bytes:
    return _block(BLOCK_INTERFACE, struct.pack("=HHI", link_type, 0, snap_octets),
                  [(IF_NAME, name.encode()), (IF_TSRESOL, NANOSECONDS)])


def _statistics(number: int, now_ns: int, counted: InterfaceCounts) -> bytes:
    head = struct.pack("=III", number, now_ns >> 32, now_ns & 0xFFFFFFFF)
    return _block(BLOCK_STATISTICS, head, [
        (ISB_IFRECV, struct.pack("=Q", counted.received)),
        (ISB_IFDROP, struct.pack("=Q", counted.interface_dropped)),
        (ISB_OSDROP, struct.pack("=Q", counted.kernel_dropped)),
    ])


def _block(kind: int, body: bytes, options: Iterable[tuple[int, bytes]]) -> bytes:
    for code, value in (*options, (OPTION_END, b"")):
        body += struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)
    length = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + length + body + length
