"""Captures in files and streams: compressed or not, cut, broken, and the real ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from captures import (
    CAPTURES,
    INGRESSES,
    MICROSECONDS,
    Frame,
    Piece,
    block,
    enhanced,
    frames_of,
    interface,
    octets_of,
    pcap,
    pcap_header,
    pcapng,
    record,
    section,
)

from tollsplit.capture import file, open_capture
from tollsplit.capture.compression import Decompressed, find_compression
from tollsplit.capture.file import CaptureFile
from tollsplit.errors import CaptureError
from tollsplit.limits import TIMESTAMP_NS_MAX

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda octets: gzip.compress(octets, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "lz4": lambda octets: bytes(lz4.frame.compress(octets, content_checksum=True)),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
compressions = pytest.mark.parametrize("name", COMPRESS)
parallel_or_not = pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
# Frames that do not repeat, so that compressed forms have some length.
SOME = [pcap_header(), *(
    record("<", MICROSECONDS, n, n, bytes((n * n + k * n) & 0xFF for k in range(n % 90)))
    for n in range(400))]


def read(source: CaptureFile, parallel: bool = False) -> list[Frame]:
    if not parallel:
        frames = []
        for reader in source.chunks(False):
            frames += reader.frames(1_000_000)
            try:
                reader.check()
            except ValueError as error:
                source.fail(error)
        return frames
    readers = [*source.chunks(True)]
    with ThreadPoolExecutor(4) as pool:
        parts = [*pool.map(lambda reader: reader.frames(1_000_000), reversed(readers))]
    return [frame for part in reversed(parts) for frame in part]


def stored(tmp_path: Path, octets: bytes, name: str = "campus.pcap") -> Path:
    path = tmp_path / name
    path.write_bytes(octets)
    return path


@parallel_or_not
@pytest.mark.parametrize("window", [1, 100, 4096, 1 << 22])
@pytest.mark.parametrize("pieces", CAPTURES.values(), ids=CAPTURES.keys())
def test_capture_gives_the_same_for_any_window(
    pieces: list[Piece], window: int, parallel: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file, "WINDOW_OCTETS", window)
    monkeypatch.setattr(file, "WORKER_WINDOW_OCTETS", window)
    monkeypatch.setattr(file, "STREAM_CHUNK_OCTETS", window)
    octets = octets_of(pieces)
    for name, whole in (("plain", octets), ("packed", gzip.compress(octets))):
        source = open_capture(stored(tmp_path, whole, name), ingresses=INGRESSES)
        assert read(source, parallel) == frames_of(pieces)
        assert source.truncated is None
        assert source.done == source.size == len(whole)


@parallel_or_not
def test_capture_releases_behind_the_reader(
    parallel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "WINDOW_OCTETS", 5_000)
    monkeypatch.setattr(file, "WORKER_WINDOW_OCTETS", 5_000)
    monkeypatch.setattr(file, "WINDOWS_KEPT", 1)
    pieces = SOME[:1] + 20 * SOME[1:]
    source = open_capture(stored(tmp_path, octets_of(pieces)))
    assert read(source, parallel) == frames_of(pieces)


@parallel_or_not
def test_capture_reads_a_block_larger_than_a_chunk(
    parallel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STREAM_CHUNK_OCTETS", "WINDOW_OCTETS", "WORKER_WINDOW_OCTETS"):
        monkeypatch.setattr(file, name, 4096)
    pieces = [section("<"), interface("<"), Piece(block("<", 0xBAD, bytes(1_000_000))),
              enhanced("<", 0, 5, b"after", (b"after", 5_000, 5, 1, 0, 0))]
    for octets in (octets_of(pieces), gzip.compress(octets_of(pieces))):
        assert read(open_capture(stored(tmp_path, octets)), parallel) == frames_of(pieces)


@compressions
@parallel_or_not
def test_capture_decompresses_whatever_the_name(
    name: str, parallel: bool, tmp_path: Path
) -> None:
    packed = COMPRESS[name](octets_of(SOME))
    source = open_capture(stored(tmp_path, packed, "campus.pcap"))
    assert read(source, parallel) == frames_of(SOME)
    assert source.truncated is None
    assert source.done == source.size == len(packed)


@compressions
@pytest.mark.parametrize("padding", [b"", bytes(8)])
def test_capture_decompresses_members_one_after_the_other(
    name: str, padding: bytes, tmp_path: Path
) -> None:
    octets = octets_of(SOME)
    parts = [octets[:10], b"", octets[10:5_000], octets[5_000:]]
    packed = padding.join(map(COMPRESS[name], parts)) + padding
    source = open_capture(stored(tmp_path, packed))
    assert read(source) == frames_of(SOME)
    assert source.truncated is None


def test_capture_decompresses_zstd_behind_a_skippable_frame(tmp_path: Path) -> None:
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"hello"
    packed = skippable + COMPRESS["zstd"](octets_of(SOME))
    assert read(open_capture(stored(tmp_path, packed))) == frames_of(SOME)


@compressions
@parallel_or_not
def test_capture_hands_out_all_before_a_compressed_stream_ends(
    name: str, parallel: bool, tmp_path: Path
) -> None:
    packed = COMPRESS[name](octets_of(SOME))
    whole = frames_of(SOME)
    most = 0
    for cut in range(len(packed) // 40, len(packed), len(packed) // 40):
        path = stored(tmp_path, packed[:cut])
        source = open_capture(path)
        try:
            frames = read(source, parallel)
        except CaptureError as error:
            # Nothing came out of it yet, not even a file header.
            assert str(error).startswith(
                f"{path}: the {name} stream ends early, after {cut:,} octets; e")
            assert most == 0
            continue
        assert frames == whole[: len(frames)]
        assert most <= len(frames) <= len(whole)
        most = len(frames)
        assert source.truncated == (
            f"{path}: the {name} stream ends early, after {cut:,} octets: "
            f"{len(frames):,} whole records read")


@compressions
def test_capture_refuses_a_corrupt_compressed_stream(name: str, tmp_path: Path) -> None:
    packed = bytearray(COMPRESS[name](octets_of(SOME)))
    middle = len(packed) // 2
    packed[middle : middle + 64] = bytes(255 - octet for octet in packed[middle : middle + 64])
    path = stored(tmp_path, packed)
    with pytest.raises(CaptureError) as raised:
        read(open_capture(path))
    assert str(raised.value).startswith(f"{path}: ")
    # Where the package notices at once, it says so; else the records stop making sense.
    assert "corrupt" in str(raised.value) or "record" in str(raised.value)


@compressions
def test_capture_refuses_rubbish_behind_a_compressed_stream(name: str, tmp_path: Path) -> None:
    path = stored(tmp_path, COMPRESS[name](octets_of(SOME)) + b"rubbish, and more of it")
    with pytest.raises(CaptureError, match=f"{name} stream is corrupt"):
        read(open_capture(path))


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_compression_bounds_what_a_bomb_brings(name: str) -> None:
    """Sixty million zeros in a few thousand octets come out in pieces of a chunk's size."""
    packed = COMPRESS[name](octets_of([pcap_header()]) + bytes(60_000_000))
    compression = find_compression(packed)
    assert compression is not None
    stream = Decompressed(io.BytesIO(packed), compression)
    view = memoryview(bytearray(1 << 20))
    tracemalloc.start()
    try:
        octets = sum(iter(lambda: stream.readinto(view), 0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert octets == 60_000_024
    assert not stream.ends_early
    assert peak < (80 << 20 if name == "zstd" else 16 << 20)


@pytest.mark.parametrize("name", [None, *COMPRESS])
def test_capture_digest_is_that_of_the_capture(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "STREAM_CHUNK_OCTETS", 1000)
    octets = octets_of(SOME)
    digest = f"sha256:{hashlib.sha256(octets).hexdigest()}"
    source = open_capture(stored(tmp_path, COMPRESS[name](octets) if name else octets))
    assert source.digest() == digest
    assert read(source) == frames_of(SOME)
    source.expect_unchanged()


@compressions
def test_capture_digest_leaves_broken_streams_to_the_meter(name: str, tmp_path: Path) -> None:
    packed = COMPRESS[name](octets_of(SOME))
    for broken in (packed[:-9], packed[: len(packed) // 2], packed[:40] + b"\xff" * 40,
                   packed + b"rubbish"):
        source = open_capture(stored(tmp_path, broken))
        assert source.digest().startswith("sha256:")


@pytest.mark.parametrize("change", ["longer", "touched", "replaced", "gone"])
def test_capture_knows_that_it_has_changed(change: str, tmp_path: Path) -> None:
    path = stored(tmp_path, octets_of(SOME))
    source = open_capture(path)
    source.digest()
    status = path.stat()
    if change == "longer":
        path.write_bytes(path.read_bytes() + SOME[1].octets)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "touched":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "replaced":
        other = stored(tmp_path, octets_of(SOME), "other.pcap")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(path)
    else:
        path.unlink()
    message = "No such file" if change == "gone" else "changed while it was read"
    with pytest.raises(CaptureError, match=rf"campus\.pcap: {message}"):
        source.expect_unchanged()


@parallel_or_not
def test_capture_progress_keeps_up_with_the_reader(
    parallel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "WINDOW_OCTETS", 5_000)
    monkeypatch.setattr(file, "WORKER_WINDOW_OCTETS", 5_000)
    source = open_capture(stored(tmp_path, octets_of(SOME)))
    for reader in source.chunks(parallel):
        reader.frames(1_000_000)
        assert source.done >= reader.position
    assert source.done == source.size


def pipe(octets: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(io.BytesIO(octets)))


@pytest.mark.parametrize("name", ["plain", *COMPRESS])
@parallel_or_not
def test_capture_reads_standard_input(
    name: str, parallel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    octets = octets_of(SOME)
    monkeypatch.setattr(sys, "stdin", pipe(COMPRESS.get(name, bytes)(octets)))
    source = open_capture("-")
    assert (source.name, source.size) == ("standard input", None)
    assert read(source, parallel) == frames_of(SOME)
    assert source.done > 0


def test_capture_reads_a_named_pipe_written_in_bits(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        octets = octets_of(SOME)
        with open(path, "wb", buffering=0) as pipe:
            for at in range(0, len(octets), 777):
                pipe.write(octets[at : at + 777])

    writer = threading.Thread(target=write)
    writer.start()
    source = open_capture(path)
    assert read(source) == frames_of(SOME)
    writer.join()
    assert source.size is None
    assert source.done == len(octets_of(SOME))


def test_capture_refuses_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = pipe(b"")
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(CaptureError, match="is a terminal: expected a capture; redirect"):
        open_capture("-")


@parallel_or_not
@pytest.mark.parametrize("pieces", [pcap("<", MICROSECONDS), pcapng()], ids=["pcap", "pcapng"])
def test_capture_says_where_it_is_truncated(
    pieces: list[Piece], parallel: bool, tmp_path: Path
) -> None:
    octets = octets_of(pieces)
    path = stored(tmp_path, octets[:-1])
    source = open_capture(path, ingresses=INGRESSES)
    expected = [frame for piece in pieces[:-1] if (frame := piece.frame) is not None]
    frames = [(*frame[:4], frame[4]) for frame in read(source, parallel)]
    assert [frame[:4] for frame in frames] == [frame[:4] for frame in expected]
    assert source.truncated == (
        f"{path}: ends inside a record at offset {len(octets) - len(pieces[-1].octets):,}, "
        f"after {len(expected)} whole records")


PCAP = octets_of([pcap_header(), record("<", MICROSECONDS, 1, 2, b"good")])
NG = octets_of([section("<"), interface("<", snap=96), enhanced("<", 0, 1, b"good")])
LONG = record("<", MICROSECONDS, 1, 2, bytes(70_000)).octets

# description → octets, frames handed out before, message
BROKEN: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 0, "empty: expected a pcap or pcapng capture"),
    "one octet": (b"\xd4", 0, "ends inside its file header: 1 octets found, 24 expected"),
    "header cut": (PCAP[:20], 0, "ends inside its file header: 20 octets found, 24 expected"),
    "section cut": (NG[:11], 0, "ends inside its file header: 11 octets found, 28 expected"),
    "rules file": (
        b'[meter]\nlayer = "ip"\n', 0,
        "starts with 5b 6d 65 74: expected a pcap or pcapng capture"),
    "snoop": (
        b"snoop\0\0\0\0\0\0\2", 0, "starts with 73 6e 6f 6f (a snoop capture; convert it with "
        "editcap): expected a pcap or pcapng capture"),
    "network monitor": (
        b"GMBU\0\2\1\0", 0, "starts with 47 4d 42 55 (a Microsoft Network Monitor capture; "
        "convert it with editcap): expected a pcap or pcapng capture"),
    "zip": (
        b"PK\3\4\x14\0", 0,
        "starts with 50 4b 03 04 (a zip archive; unpack it): expected a pcap or pcapng capture"),
    "gzip of nothing": (gzip.compress(b""), 0, "empty: expected a pcap or pcapng capture"),
    "gzip of gzip": (
        gzip.compress(gzip.compress(PCAP, mtime=0)), 0,
        "starts with 1f 8b 08 00 (gzip inside another compression; decompress it once): "
        "expected a pcap or pcapng capture"),
    "gzip of text": (
        gzip.compress(b"hello, world"), 0,
        "starts with 68 65 6c 6c: expected a pcap or pcapng capture"),
    "gzip method": (
        b"\x1f\x8b\x09" + bytes(20), 0,
        "gzip stream is corrupt: Error -3 while decompressing data: unknown compression method"),
    "version": (
        pcap_header(version=(1, 2)).octets, 0, "pcap version 1.2: expected 2.3 or 2.4"),
    "snap length": (
        PCAP + LONG, 1,
        "record 2 at offset 44: captured length 70000 exceeds snap length 65535"),
    "snap length, compressed": (
        gzip.compress(PCAP + LONG), 1,
        "record 2 at offset 44: captured length 70000 exceeds snap length 65535"),
    "shifted by two octets": (
        PCAP + b"\0\0" + PCAP[24:] * 3, 1,
        "record 2 at offset 44: captured length 262144 exceeds snap length 65535"),
    "link type": (
        octets_of([pcap_header(link=105), record("<", MICROSECONDS, 1, 2, b"x")]), 0,
        "record 1 at offset 24: link type 105 (IEEE802_11) is not dissected; "
        "with --skip-links its frames are counted unread"),
    "block length": (
        NG + struct.pack("<III", 6, 30, 0) + bytes(100), 1,
        f"block at offset {len(NG)}: block length 30: expected a multiple of 4 from 12 "
        "to 16777216"),
    "block trailer": (
        NG + struct.pack("<III", 0xBAD, 12, 16) + bytes(100), 1,
        f"block at offset {len(NG)}: block length 12 at the block's start, 16 at its end"),
    "byte order": (
        NG + block("<", 0x0A0D0D0A, b"\1\2\3\4" + bytes(12)), 1,
        f"block at offset {len(NG)}: byte-order magic 0x04030201: expected 0x1a2b3c4d"),
    "interface": (
        NG + enhanced("<", 7, 1, b"x").octets, 1,
        f"record 2 at offset {len(NG)}: interface 7 is not among the 1 that the section "
        "describes"),
    "captured beyond block": (
        NG + block("<", 6, struct.pack("<IIIII", 0, 0, 0, 90, 90) + bytes(4)), 1,
        f"record 2 at offset {len(NG)}: captured length 90 exceeds the 4 octets in its block"),
    "interface snap length": (
        NG + enhanced("<", 0, 1, bytes(97)).octets, 1,
        f"record 2 at offset {len(NG)}: captured length 97 exceeds snap length 96"),
}


@parallel_or_not
@pytest.mark.parametrize("octets, before, message", BROKEN.values(), ids=BROKEN.keys())
def test_capture_names_what_is_broken(
    octets: bytes, before: int, message: str, parallel: bool, tmp_path: Path
) -> None:
    path = stored(tmp_path, octets)
    source = open_capture(path)
    frames = []
    with pytest.raises(CaptureError) as raised:
        for reader in source.chunks(parallel):
            frames += reader.frames(1_000)
    assert str(raised.value) == f"{path}: {message}"
    assert raised.value.exit_code == 3
    assert len(frames) == before


def test_capture_fail_adds_the_path(tmp_path: Path) -> None:
    path = stored(tmp_path, PCAP + LONG)
    source = open_capture(path)
    with pytest.raises(CaptureError, match=r"campus\.pcap: record 2 at offset 44: captured"):
        for reader in source.chunks(False):
            reader.frames(1_000)
            try:
                reader.check()
            except ValueError as error:
                source.fail(error)


@pytest.mark.parametrize("name, message", [
    ("missing.pcap", "No such file or directory: expected a capture file"),
    ("folder", "is a directory: expected a capture file"),
    ("loop.pcap", "Too many levels of symbolic links: expected a capture file"),
])
def test_capture_refuses_what_is_no_file(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.pcap").symlink_to(tmp_path / "loop.pcap")
    with pytest.raises(CaptureError) as raised:
        open_capture(tmp_path / name)
    assert str(raised.value) == f"{tmp_path / name}: {message}"


def test_capture_names_a_file_that_went_away(tmp_path: Path) -> None:
    path = stored(tmp_path, PCAP)
    source = open_capture(path)
    path.unlink()
    with pytest.raises(CaptureError, match=r"campus\.pcap: No such file or directory"):
        read(source)


def test_compression_is_told_by_content() -> None:
    assert find_compression(PCAP) is None
    assert find_compression(b"") is None
    for name, compress in COMPRESS.items():
        found = find_compression(compress(PCAP))
        assert found is not None and found.name == name


# What tshark and the formats see differently, and why.
#   simple packet blocks carry no time: tshark has none, we give 0
#   one packet's count of microseconds is a negative number in 64 bits: it is held at the last
#   instant that we know
UNTIMED = {"05_hadrielk__le_basic_test010.pcapng", "07_hadrielk__be_advanced_test102.pcapng"}
LAST_NS = TIMESTAMP_NS_MAX


@parallel_or_not
def test_capture_equals_tshark_on_real_captures(corpus: Path, parallel: bool) -> None:
    names = sorted(path.name.removesuffix(".json") for path in (corpus / "facts").iterdir())
    assert len(names) == 49
    for name in names:
        facts = json.loads((corpus / "facts" / f"{name}.json").read_text())
        source = open_capture(corpus / name)
        frames = read(source, parallel)
        times = [frame[1] for frame in frames if frame[1] or name not in UNTIMED]
        assert source.truncated is None, name
        assert {
            "packets": len(frames),
            "frame_bytes": sum(frame[2] for frame in frames),
            "cap_bytes": sum(len(frame[0]) for frame in frames),
            "t_min_ns": min(times, default=None),
            "t_max_ns": max(times, default=None),
        } == {
            "packets": facts["packets"],
            "frame_bytes": facts["frame_bytes"],
            "cap_bytes": facts["cap_bytes"],
            "t_min_ns": facts["t_min_ns"],
            "t_max_ns": facts["t_max_ns"] and min(facts["t_max_ns"], LAST_NS),
        }, name
