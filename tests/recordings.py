"""Frames, recordings of them, and what is read back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tollsplit.capture.file import open_capture
from tollsplit.capture.recording import Recording

ETHERNET, RAW = 1, 101
UNKNOWN = 0xFFFFFFFF
NS = 1_700_000_000_123_456_789
INGRESSES = {"eth0": 3, "eth1": 4, "*": 9}
Frame = tuple[bytes, int, int, int, int, int]  # as Ring.frames gives it
APPLICATION = "tollsplit 1.2.3"


def recording(path: Path, snap_octets: int = 2048) -> Recording:
    return Recording(str(path), snap_octets, APPLICATION)


def frame(octets: bytes, ns: int = NS, original: int | None = None, segments: int = 0) -> Frame:
    return octets, ns, len(octets) if original is None else original, ETHERNET, 0, segments


def read(path: Path) -> list[tuple[bytes, int, int, int, int, int]]:
    """The file's frames; it ends with a whole block."""
    capture = open_capture(path, ingresses=INGRESSES)
    found = [frame for reader in capture.chunks(False) for frame in reader.frames(1 << 30)]
    assert capture.truncated is None
    return found


def as_read(frames: list[Frame], link: int = ETHERNET, ingress: int = 3) -> list[
        tuple[bytes, int, int, int, int, int]]:
    return [(*one[:3], link, ingress, one[5]) for one in frames]


def record(path: Path, frames: list[Frame], snap_octets: int = 2048) -> None:
    kept = recording(path, snap_octets)
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    assert recorder.record(frames) == len(frames)
    kept.close({})
    assert (kept.failure, kept.frames, kept.octets) == (None, len(frames), path.stat().st_size)


def wait_until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
