"""Disks that fill, processes that are killed: what was recorded before can be read."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from recordings import (
    APPLICATION,
    ETHERNET,
    INGRESSES,
    as_read,
    frame,
    read,
    recording,
    wait_until,
)
from test_ring import GOOD, block, ring

from tollsplit.capture.file import open_capture
from tollsplit.capture.recording import Recording
from tollsplit.errors import CaptureError


def test_recording_does_not_write_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    path.write_bytes(b"x")
    with pytest.raises(CaptureError, match=r"kept\.pcapng: is there already, and not empty: name"):
        recording(path)
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(("path", "finding"), [
    ("/dev/full", "No space left on device"),
    ("no/such/folder", "No such file or directory: expected a file to write to"),
    (".", "Is a directory: expected a file"),
])
def test_recording_that_cannot_begin_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, finding: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CaptureError, match=f"^{path}: {finding}"):
        Recording(path, 2048, APPLICATION)
    assert len(os.listdir("/proc/self/fd")) == before


def in_process(program: str, *arguments: str, unshare: bool = False) -> list[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    if unshare:
        command = ["unshare", "--mount", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                          cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


FULL_DISK = """
    import os, resource, subprocess, sys, time
    from pathlib import Path
    sys.path.insert(0, ".")
    from recordings import ETHERNET, as_read, frame, read, recording
    how, room, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if how == "limit":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", folder], check=True)
    kept = recording(folder / "kept.pcapng")
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    frames = [frame(number.to_bytes(4, "big") * (number % 400 + 1), segments=number % 5)
              for number in range(20_000)]
    other = kept.recorder()
    other.record(frames[:10])
    added = recorder.record(frames)
    recorder.flush()
    until = time.monotonic() + 20
    while kept.failure is None and time.monotonic() < until:
        time.sleep(0.01)
    print(kept.failure)
    # Room that comes later does not go on a file whose end is missing; metering goes on without.
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    else:
        subprocess.run(["mount", "-o", "remount,size=10m", folder], check=True)
    other.flush()
    print(recorder.record(frames), kept.recorder().record(frames), kept.interface("eth1", ETHERNET))
    kept.close({})
    found = read(folder / "kept.pcapng")
    size = (folder / "kept.pcapng").stat().st_size
    print(added < len(frames), found == as_read(frames[:len(found)]), kept.frames == len(found),
          kept.octets == size, size)
    print(kept.failure)
"""
MOUNTS = os.geteuid() == 0 and shutil.which("unshare") is not None


@pytest.mark.parametrize(("how", "room", "error"), [
    ("limit", 700_001, errno.EFBIG),         # inside the second buffer
    ("limit", 700_040, errno.EFBIG),
    ("limit", 1_048_576, errno.EFBIG),
    ("limit", 300, errno.EFBIG),             # behind the interface
    ("limit", 200, errno.EFBIG),             # inside it: there is not one frame
    pytest.param("tmpfs", 1_015_808, errno.ENOSPC, marks=pytest.mark.skipif(
        not MOUNTS, reason="needs root and unshare, for a small disk of its own")),
])
def test_recording_on_a_full_disk_ends_with_a_whole_block(
    tmp_path: Path, how: str, room: int, error: int
) -> None:
    failure, later, result, at_the_end = in_process(
        FULL_DISK, how, str(room), str(tmp_path), unshare=how == "tmpfs")
    assert failure.startswith(f"{tmp_path}/kept.pcapng: {os.strerror(error)}: recording has "
                              "stopped; the file holds what was before, ")
    assert failure == at_the_end
    assert later == "0 0 1"
    *truths, size = result.split()
    assert truths == ["True"] * 4
    # No more than the largest block is missing to what the disk takes.
    assert room - 1700 <= int(size) <= room


def test_recording_whose_file_is_lost_at_its_end_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    kept = recording(tmp_path / "kept.pcapng")
    monkeypatch.setattr(os, "fsync", full)
    kept.close({})
    assert kept.failure == (f"{tmp_path}/kept.pcapng: Input/output error: what was recorded may "
                            "be lost")


KILLED = """
    import sys
    from pathlib import Path
    sys.path.insert(0, ".")
    from recordings import ETHERNET, frame, recording
    kept = recording(Path(sys.argv[1]))
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    number = 0
    while True:
        recorder.record([frame(n.to_bytes(4, "big") * (n % 500 + 1))
                         for n in range(number, number + 1000)])
        number += 1000
"""


def test_recording_of_a_process_that_is_killed_is_read_to_its_last_whole_block(
    tmp_path: Path,
) -> None:
    for turn in range(5):
        path = tmp_path / f"kept-{turn}.pcapng"
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path)]
        with subprocess.Popen(command, cwd=Path(__file__).parent) as started:
            wait_until(lambda: path.exists() and path.stat().st_size > 3_000_000)  # noqa: B023
            time.sleep(turn / 1000)
            started.kill()
        assert started.returncode == -signal.SIGKILL
        capture = open_capture(path, ingresses=INGRESSES)
        found = [one for reader in capture.chunks(False) for one in reader.frames(1 << 30)]
        assert len(found) > 1000
        assert found == as_read([
            frame(number.to_bytes(4, "big") * (number % 500 + 1)) for number in range(len(found))])
        # All of it but what lies behind the last whole block.
        if capture.truncated is not None:
            assert f"after {len(found):,} whole records" in capture.truncated


def test_recorder_of_a_recording_that_is_closed_adds_nothing(tmp_path: Path) -> None:
    kept = recording(tmp_path / "kept.pcapng")
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    recorder.record([frame(b"a")])
    kept.close({})
    assert recorder.record([frame(b"b")]) == 0
    found, _ = ring(block([GOOD]))
    assert recorder.walk(found) == (1, 60)
    assert [one[0] for one in read(tmp_path / "kept.pcapng")] == [b"a"]


def test_recording_that_is_closed_gives_everything_back(tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = held()
    for number in range(3):
        kept = recording(tmp_path / f"kept-{number}.pcapng")
        kept.recorder()
        assert held() == (before[0] + 1, before[1] + 1)
        kept.close({})
    assert held() == before
