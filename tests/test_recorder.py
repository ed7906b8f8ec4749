"""What is recorded is a pcapng file that says the same, whatever happens to it on its way."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import captures
import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ring import GOOD, Packet, block, ring

from tollsplit import limits
from tollsplit.capture.file import open_capture
from tollsplit.capture.recording import InterfaceCounts, Recording
from tollsplit.cext.recorder import BOUNDS, Recorder
from tollsplit.errors import CaptureError

ORDER = "<" if sys.byteorder == "little" else ">"
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


def read(path: Path) -> list[tuple[bytes, int, int, int, int]]:
    """The file's frames; it ends with a whole block."""
    capture = open_capture(path, ingresses=INGRESSES)
    found = [frame for reader in capture.chunks(False) for frame in reader.frames(1 << 30)]
    assert capture.truncated is None
    return found


def as_read(frames: list[Frame], link: int = ETHERNET, ingress: int = 3) -> list[
        tuple[bytes, int, int, int, int]]:
    return [(*one[:3], link, ingress) for one in frames]


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


def test_recorder_bounds_are_those_of_limits() -> None:
    assert {name: getattr(limits, name) for name in BOUNDS} == BOUNDS


# --- the format ------------------------------------------------------------------------


FRAMES = [
    ("plain", frame(bytes(range(60))), None),
    ("cut by the snap length", frame(bytes(range(61)), original=1500), None),
    ("one octet", frame(b"\xff"), None),
    ("two octets", frame(b"\xff\xfe"), None),
    ("three octets", frame(b"\xff\xfe\xfd"), None),
    ("nothing of it captured", frame(b"", original=0xFFFFFFFF), None),
    ("at the epoch", frame(b"\xffodd", 0), None),
    ("late", frame(b"\xffodd", 0xFFFFFFFF_999_999_999 & (2**62 - 1)), None),
    ("segments", frame(b"\xffodd", original=65_000, segments=1448), "segments of 1448 octets"),
    ("segments of one octet", frame(b"\xff" * 5, segments=1), "segments of 1 octets"),
    ("segments of the most", frame(b"\xff" * 6, segments=UNKNOWN - 1),
     "segments of 4294967294 octets"),
    ("segments unknown", frame(b"", segments=UNKNOWN), "segments of unknown size"),
]


def expected_block(one: Frame, comment: str | None, number: int = 0) -> bytes:
    """By the words of the draft, with the blocks that captures.py builds for the reader."""
    options = b""
    if comment is not None:
        options = captures.option(ORDER, 1, comment.encode()) + captures.option(ORDER, 0, b"")
    return captures.enhanced(
        ORDER, number, one[1], one[0], original=one[2], options=options).octets


def test_recording_is_what_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    kept = recording(path)
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    recorder.record([one for _, one, _ in FRAMES])
    recorder.flush()
    wait_until(lambda: kept.frames == len(FRAMES))
    recorder.interface = kept.interface("tun0", RAW)
    recorder.record([FRAMES[0][1]])
    kept.close({"tun0": InterfaceCounts(2**40, 5, 7)})
    octets = path.read_bytes()
    system = os.uname()
    option, end = captures.option, captures.option(ORDER, 0, b"")
    names = [
        captures.interface(ORDER, link, 2052, option(ORDER, 2, name) + option(
            ORDER, 9, b"\x09") + end).octets
        for name, link in ((b"eth0", ETHERNET), (b"tun0", RAW))]
    expected = captures.section(ORDER, b"".join((
        option(ORDER, 2, system.machine.encode()),
        option(ORDER, 3, f"{system.sysname} {system.release}".encode()),
        option(ORDER, 4, APPLICATION.encode()), end))).octets
    expected += names[0] + b"".join(expected_block(one, comment) for _, one, comment in FRAMES)
    expected += names[1] + expected_block(FRAMES[0][1], None, 1)
    assert octets[: len(expected)] == expected
    # Interface statistics: when, and what was counted.
    kind, length, number, high, low = struct.unpack_from(ORDER + "5I", octets, len(expected))
    assert (kind, length, number) == (5, len(octets) - len(expected), 1)
    assert abs((high << 32 | low) - time.time_ns()) < 60_000_000_000
    assert octets[len(expected) + 20 : -4] == b"".join(
        option(ORDER, code, struct.pack(ORDER + "Q", value))
        for code, value in ((4, 2**40), (5, 5), (7, 7))) + end
    assert octets[-4:] == struct.pack(ORDER + "I", length)


def test_recording_read_back_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    frames = [one for _, one, _ in FRAMES]
    kept = recording(path)
    recorder = kept.recorder()
    for name, link in (("eth0", ETHERNET), ("eth1", ETHERNET), ("tun0", RAW)):
        recorder.interface = kept.interface(name, link)
        recorder.record(frames)
    kept.close({})
    expected = (as_read(frames) + as_read(frames, ingress=4)
                + as_read(frames, link=RAW, ingress=9))
    assert read(path) == [
        (octets, ns, original, *rest) for octets, ns, original, *rest in expected]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(
    st.binary(max_size=80), st.integers(0, limits.TIMESTAMP_NS_MAX), st.integers(0, 2**32 - 1),
    st.just(ETHERNET), st.just(0), st.sampled_from([0, 1, 1448, UNKNOWN])), max_size=30))
def test_recording_of_any_frames_read_back_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, frames: list[Frame]
) -> None:
    path = tmp_path_factory.mktemp("any") / "kept.pcapng"
    # What was on the wire is no less than what was captured.
    frames = [(one[0], one[1], max(one[2], len(one[0])), *one[3:]) for one in frames]
    record(path, frames)
    assert read(path) == as_read(frames)


def test_recording_of_a_ring_is_of_its_frames(tmp_path: Path) -> None:
    kept = recording(tmp_path / "kept.pcapng")
    kept.interface("lo", ETHERNET)
    recorder = kept.recorder()
    packets = [Packet(bytes([number]) * 60, 64, seconds=1, nanoseconds=number, gso_type=1,
                      gso_size=1448) for number in range(20)]
    found, _ = ring(block(packets[:10]), block(packets[10:]), segments=True)
    found.interface = kept.interface("eth0", ETHERNET)
    assert recorder.walk(found) == (20, 20 * 64)
    assert recorder.walk(found) == (0, 0)
    kept.close({})
    assert read(tmp_path / "kept.pcapng") == [
        (one.octets, 1_000_000_000 + one.nanoseconds, 64, ETHERNET, 3) for one in packets]


def test_recorder_pads_with_zeros_whatever_the_buffer_held(tmp_path: Path) -> None:
    kept = recording(tmp_path / "kept.pcapng")
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    recorder.record([frame(b"\xff" * 1000)])
    recorder.flush()
    wait_until(lambda: kept.frames == 1)
    odd = [frame(b"\xff" * octets, segments=segments)
           for octets in range(1, 5) for segments in (0, 1, 1448, UNKNOWN)]
    recorder.record(odd)                     # into the buffer that was given back
    kept.close({})
    expected = b"".join(
        expected_block(one, {0: None, 1: "segments of 1 octets", 1448: "segments of 1448 octets",
                             UNKNOWN: "segments of unknown size"}[one[5]]) for one in odd)
    assert (tmp_path / "kept.pcapng").read_bytes().endswith(expected)


# --- other people's readers ------------------------------------------------------------


def said_by(*command: str) -> str:
    """A tool's output; the sanitizer, loaded into every process, is not for it."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment).stdout


def odd_frames() -> list[Frame]:
    return [frame(bytes([number] * number), NS + number, 1000 + number,
                  1448 if number % 3 == 0 else 0) for number in range(1, 100)]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark (apt-get install tshark)")
def test_recording_is_read_by_tshark(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    record(path, odd_frames())
    fields = ("frame.interface_name", "frame.time_epoch", "frame.cap_len", "frame.len",
              "frame.comment")
    said = said_by("tshark", "-r", str(path), "-T", "fields", *(f"-e{field}" for field in fields))
    assert said.splitlines() == [
        f"eth0\t{one[1] // 10**9}.{one[1] % 10**9:09}\t{len(one[0])}\t{one[2]}\t"
        + ("segments of 1448 octets" if one[5] else "") for one in odd_frames()]


@pytest.mark.skipif(
    shutil.which("capinfos") is None, reason="needs capinfos (apt-get install wireshark-common)")
def test_recording_is_read_by_capinfos(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    record(path, odd_frames(), snap_octets=500)
    said = said_by("capinfos", "-M", str(path))
    for line in ("Number of packets:   99", "Name = eth0", "Capture length = 504",
                 "Time precision = nanoseconds (9)", f"Capture application: {APPLICATION}"):
        assert line in said


def test_recording_is_read_by_dpkt(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    record(path, odd_frames())
    with path.open("rb") as file:
        found = list(dpkt.pcapng.Reader(file))
    # dpkt tells the time as a float.
    assert [octets for _, octets in found] == [one[0] for one in odd_frames()]
    assert [when for when, _ in found] == pytest.approx([one[1] / 1e9 for one in odd_frames()])


def test_recording_is_read_by_scapy(tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    path = tmp_path / "kept.pcapng"
    record(path, odd_frames())
    with RawPcapNgReader(str(path)) as reader:
        found = list(reader)
    assert [(octets, told.tshigh << 32 | told.tslow, told.wirelen, told.tsresol)
            for octets, told in found] == [(*one[:3], 10**9) for one in odd_frames()]


# --- buffers ---------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [0, 1448])
def test_recorder_hands_over_where_the_next_frame_does_not_fit(
    tmp_path: Path, segments: int
) -> None:
    """The room left goes from more than the frame needs to less, octet by octet."""
    path = tmp_path / "kept.pcapng"
    frames: list[Frame] = []
    for left in range(60, 160, 4):
        # Three blocks that leave so much of a buffer, one that may fit, and two that fill the next.
        rest = limits.RECORDING_BUFFER_OCTETS - 3 * 32 - 400_000 - left
        frames += [frame(b"\xaa" * octets) for octets in (200_000, 200_000, rest)]
        frames.append(frame(b"\xcc" * 41, segments=segments))
        frames += [frame(b"\xdd" * 262_000)] * 2
    record(path, frames, limits.CAPTURED_OCTETS_MAX)
    assert read(path) == as_read(frames)


def test_recorder_takes_the_largest_frames(tmp_path: Path) -> None:
    """One octet more is cut: a file's record may not be longer, whatever a ring hands out."""
    path = tmp_path / "kept.pcapng"
    most = limits.CAPTURED_OCTETS_MAX
    frames = [frame(random.Random(size).randbytes(size), segments=UNKNOWN)
              for size in (most, most, most - 1, most + 1, most + 4, most)]
    record(path, frames, most)
    assert read(path) == as_read([(one[0][:most], *one[1:]) for one in frames])


def test_recorder_cuts_at_what_the_interface_says(tmp_path: Path) -> None:
    """A ring's frame may have a tag more than the snap length."""
    path = tmp_path / "kept.pcapng"
    record(path, [frame(b"\xaa" * 132, original=2000), frame(b"\xbb" * 133, original=2000)], 128)
    assert read(path) == as_read(
        [frame(b"\xaa" * 132, original=2000), frame(b"\xbb" * 132, original=2000)])


def test_recorder_hands_over_when_told_and_when_a_second_has_passed(tmp_path: Path) -> None:
    kept = recording(tmp_path / "kept.pcapng")
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    recorder.record([frame(b"a", NS), frame(b"b", NS + 1_000_000_000)])
    time.sleep(0.2)
    assert kept.frames == 0
    recorder.record([frame(b"c", NS + 1_000_000_001)])
    wait_until(lambda: kept.frames == 3)
    recorder.record([frame(b"d", NS)])
    recorder.flush()
    recorder.flush()
    wait_until(lambda: kept.frames == 4)
    recorder.record([frame(b"e", NS), frame(b"f", NS - 3_600_000_000_000)])
    wait_until(lambda: kept.frames == 6)
    assert b"".join(one[0] for one in read(tmp_path / "kept.pcapng")) == b"abcdef"
    kept.close({})


@pytest.mark.parametrize("workers", [2, 8])
def test_recording_is_shared_by_workers(tmp_path: Path, workers: int) -> None:
    """Every frame once, those of one worker in its order; interfaces come while others go on."""
    path = tmp_path / "kept.pcapng"
    kept = recording(path, 4096)

    def frames_of(worker: int, interface: int) -> list[Frame]:
        chance = random.Random(worker * 10 + interface)
        return [
            frame(struct.pack("=III", worker, interface, number).ljust(
                chance.randrange(12, 4000), b"\xaa"), NS + number,
                segments=chance.choice([0, 0, 999]))
            for number in range(500)]

    def work(worker: int, recorder: Recorder) -> None:
        for interface in range(3):
            frames = frames_of(worker, interface)
            for at in range(0, len(frames), 50):
                recorder.interface = kept.interface(f"eth{interface}", ETHERNET)
                assert recorder.record(frames[at : at + 50]) == 50

    threads = [threading.Thread(target=work, args=(worker, kept.recorder()))
               for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept.close({})
    assert kept.frames == workers * 1500
    lanes = defaultdict(list)
    for one in read(path):
        worker, interface, _ = struct.unpack_from("=III", one[0])
        assert one[4] == (3, 4, 9)[interface]
        lanes[worker, interface].append(one)
    assert len(lanes) == 3 * workers
    for (worker, interface), found in lanes.items():
        assert found == as_read(frames_of(worker, interface), ingress=(3, 4, 9)[interface])


def test_recording_describes_an_interface_anew_when_its_link_type_changes(tmp_path: Path) -> None:
    kept = recording(tmp_path / "kept.pcapng")
    assert [kept.interface(*asked) for asked in (
        ("ppp0", RAW), ("eth0", ETHERNET), ("ppp0", RAW), ("ppp0", ETHERNET), ("ppp0", RAW),
    )] == [0, 1, 0, 2, 0]
    recorder = kept.recorder()
    for recorder.interface in range(3):
        recorder.record([frame(b"x")])
    kept.close({})
    assert [one[3:] for one in read(tmp_path / "kept.pcapng")] == [
        (RAW, 9), (ETHERNET, 3), (ETHERNET, 9)]


def test_recorders_wait_for_a_disk_that_is_slow(tmp_path: Path) -> None:
    """A pipe that nobody reads takes 64 KiB; memory for more is bounded, and nothing is lost."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    kept = recording(path)
    recorder = kept.recorder()
    recorder.interface = kept.interface("eth0", ETHERNET)
    frames = [frame(number.to_bytes(4, "big") * 500) for number in range(8_000)]
    done = threading.Event()

    def work() -> None:
        for at in range(0, len(frames), 100):
            recorder.record(frames[at : at + 100])
        kept.close({})
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.5)
    os.set_blocking(reading, True)
    copy = tmp_path / "kept.pcapng"
    with copy.open("wb") as file, open(reading, "rb") as pipe:
        shutil.copyfileobj(pipe, file)
    thread.join()
    assert len(frames) * 2000 > 3 * limits.RECORDING_BUFFERS * limits.RECORDING_BUFFER_OCTETS
    assert read(copy) == as_read(frames)
    assert kept.failure is None


# --- what goes wrong -------------------------------------------------------------------


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
    from test_recorder import ETHERNET, as_read, frame, read, recording
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
    from test_recorder import ETHERNET, frame, recording
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
