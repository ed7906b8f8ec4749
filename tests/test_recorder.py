"""What is recorded is a pcapng file that says the same as the frames did."""

from __future__ import annotations

import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import captures
import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import (
    APPLICATION,
    ETHERNET,
    NS,
    RAW,
    UNKNOWN,
    Frame,
    as_read,
    frame,
    read,
    record,
    recording,
    wait_until,
)
from test_ring import Packet, block, ring

import tollsplit
from tollsplit import limits
from tollsplit.capture.file import open_capture
from tollsplit.capture.recording import InterfaceCounts
from tollsplit.cext.recorder import BOUNDS, Recorder

ORDER = "<" if sys.byteorder == "little" else ">"


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
    ("segments of the most", frame(b"\xff" * 6, segments=65_535), "segments of 65535 octets"),
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
    assert read(path) == expected
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
        (one.octets, 1_000_000_000 + one.nanoseconds, 64, ETHERNET, 3, 1448) for one in packets]


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


RULES = """
meter.window = "1h"
meter.zone = "UTC"
pools = [{ prefixes = ["0.0.0.0/1", "2000::/3", "fe80::/10"] }]
sponsors.s = {}
[[rules]]
id = "half"
precedence = 10
match = { server = ["128.0.0.0/1"] }
split = { sponsor = "s", share = "70%" }
"""


def test_recording_of_a_real_capture_has_an_equal_document(corpus: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    usage = 0
    for number, capture in enumerate(sorted(corpus.glob("*.pcap*"))):
        path = tmp_path / f"{number}.pcapng"
        kept = recording(path, limits.CAPTURED_OCTETS_MAX)
        recorder = kept.recorder()
        for reader in open_capture(capture).chunks(False):
            for one in reader.frames(1 << 30):
                recorder.interface = kept.interface(f"link{one[3]}", one[3])
                recorder.record([one])
        kept.close({})
        documents = [tollsplit.account([source], rules).document() for source in (capture, path)]
        for document in documents:
            # A file's name, whether it was cut, and how fast it was read are the file's own.
            for name in ("captures", "warnings", "truncated", "elapsed_s", "packets_per_s"):
                document.pop(name, None)
        assert documents[0] == documents[1], capture.name
        usage += len(documents[0]["usage"])
    assert usage > 100


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
    assert [one[3:5] for one in read(tmp_path / "kept.pcapng")] == [
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
