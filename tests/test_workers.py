"""Workers on one file: where they begin is guessed, and a wrong guess changes nothing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

import tollsplit
from tollsplit.capture import file
from tollsplit.cext.reader import Astray, Reader
from tollsplit.engine import pipeline

RULES = """
[meter]
window = "all"
[[pools]]
prefixes = ["0.0.0.0/0"]
"""
START_S = 1_793_505_600
HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
MIB = 1 << 20


def packet(number: int, payload: bytes) -> bytes:
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + min(len(payload), 1400), 0, 0, 64, 17, 0,
                     0x0A000000 | number % 251, 0xCB007101)
    return bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHH", 1000, 80, 0, 0) + payload


def record(number: int, payload: bytes, seconds: int = START_S) -> bytes:
    frame = packet(number, payload)
    return struct.pack("<IIII", seconds + number // 1000, number % 1000, len(frame),
                       len(frame)) + frame


def ordinary(octets: int) -> bytes:
    """Records of many sizes, their payload full of zeros or of ones."""
    out, number = bytearray(HEADER), 0
    while len(out) < octets:
        out += record(number, (b"\0", b"\xff")[number % 2] * (number * 7919 % 1400))
        number += 1
    return bytes(out)


def nested(octets: int) -> bytes:
    """Records whose payload is a capture itself: wherever one looks, records begin."""
    inside = b"".join(record(n, bytes(30)) for n in range(2_500)) + b"\xff" * 7
    out, number = bytearray(HEADER), 0
    while len(out) < octets:
        out += record(number, inside)
        number += 1
    return bytes(out)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "WORKER_WINDOW_OCTETS", MIB)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each pass over the sources whether it went astray."""
    found: list[bool] = []
    count = pipeline._count

    def counted(*arguments: Any) -> Any:
        try:
            result = count(*arguments)
        except Astray:
            found.append(True)
            raise
        found.append(False)
        return result

    monkeypatch.setattr(pipeline, "_count", counted)
    return found


def account(folder: Path, octets: bytes, workers: int) -> dict[str, Any]:
    (folder / "rules.toml").write_text(RULES)
    (folder / "capture.pcap").write_bytes(octets)
    report = tollsplit.account(
        folder / "capture.pcap", folder / "rules.toml", workers=workers)
    assert report.identity_holds
    document = report.document()
    for name in ("elapsed_s", "packets_per_s"):
        document.pop(name, None)
    return document | {"truncated": report.truncated}


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("make", "astray"), [(ordinary, [False]), (nested, [True, False])], ids=["ordinary", "nested"])
def test_workers_on_one_file_give_the_bill_of_one(
    tmp_path: Path, passes: list[bool], make: Any, astray: list[bool]
) -> None:
    octets = make(6 * MIB)
    once = account(tmp_path, octets, 1)
    passes.clear()
    assert account(tmp_path, octets, 3) == once
    assert passes == astray


@pytest.mark.usefixtures("small_windows")
def test_workers_tell_of_a_cut_file_what_one_tells(tmp_path: Path, passes: list[bool]) -> None:
    octets = ordinary(4 * MIB)[:-5]
    once = account(tmp_path, octets, 1)
    passes.clear()
    assert account(tmp_path, octets, 3) == once
    assert "after" in once["truncated"][0]
    assert passes == [True, False]


@pytest.mark.usefixtures("small_windows")
def test_workers_tell_of_a_broken_record_what_one_tells(tmp_path: Path) -> None:
    octets = ordinary(4 * MIB)
    broken = octets[: len(octets)] + struct.pack("<IIII", START_S, 0, 400_000, 400_000) + bytes(16)
    broken += ordinary(2 * MIB)[24:]
    told = []
    for workers in (1, 3):
        with pytest.raises(tollsplit.CaptureError) as caught:
            account(tmp_path, broken, workers)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert "exceeds snap length" in told[0]


def test_leap_ends_where_a_record_does() -> None:
    octets = ordinary(MIB)
    ends, at = set(), 24
    while at < len(octets):
        at += 16 + struct.unpack_from("<I", octets, at + 8)[0]
        ends.add(at)
    for cut in range(len(octets) - 3000, len(octets), 37):
        reader = Reader()
        reader.feed(octets[:cut], False)
        assert reader.leap()
        assert reader.consumed in ends
        assert reader.consumed == max(end for end in ends if end <= cut)


@pytest.mark.parametrize("octets", [HEADER + bytes(MIB), HEADER + b"\xff" * MIB,
                                    HEADER + bytes(range(256)) * 4096], ids=["0", "255", "all"])
def test_leap_finds_no_records_where_none_are(octets: bytes) -> None:
    reader = Reader()
    reader.feed(octets, False)
    assert not reader.leap()
    assert reader.consumed == 24


def test_leap_is_found_out_by_whoever_reads_the_region() -> None:
    octets = ordinary(MIB)
    reader, part = Reader(), Reader()
    reader.feed(octets, False)
    assert reader.leap()
    for end, astray in ((reader.consumed, False), (reader.consumed - 1, True)):
        part = Reader()
        part.expect_whole()
        part.feed(octets[:end], False)
        part.skip()
        if astray:
            with pytest.raises(Astray):
                part.check()
        else:
            part.check()
