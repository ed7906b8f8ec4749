"""Pieces of a capture: a cut is where a record begins, or it is found out."""

from __future__ import annotations

import gzip
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from captures import octets_of, pcapng
from test_workers import MIB, nested, ordinary

from tollsplit.capture import open_capture
from tollsplit.capture.piece import Piece, cuts
from tollsplit.cext.reader import Astray
from tollsplit.errors import CaptureError


def write(folder: Path, octets: bytes) -> Path:
    path = folder / "capture"
    path.write_bytes(octets)
    return path


def records(source: Piece) -> int:
    count = 0
    for reader in source.chunks(parallel=False):
        while reader.frames(64):
            pass
        count = reader.records
    return count


def begins(octets: bytes) -> list[int]:
    """Where the records of a capture begin."""
    found, at = [], 24
    while at < len(octets):
        found.append(at)
        at += 16 + struct.unpack_from("<I", octets, at + 8)[0]
    return found


def test_cuts_are_where_records_begin_about_so_far_apart(tmp_path: Path) -> None:
    octets = ordinary(6 * MIB)
    path = write(tmp_path, octets)
    places = cuts(path, MIB)
    assert set(places) <= set(begins(octets))
    assert len(places) == 6
    assert all(MIB - 4096 < later - before < MIB + 4096
               for before, later in pairwise([0, *places]))


def test_pieces_have_every_record_once(tmp_path: Path) -> None:
    octets = ordinary(6 * MIB)
    path = write(tmp_path, octets)
    ends = [0, *cuts(path, MIB), len(octets)]
    found = [records(Piece(open_capture(path), *ends)) for ends in pairwise(ends)]
    assert sum(found) == len(begins(octets))
    assert all(found)


def test_piece_is_astray_where_a_cut_is_none(tmp_path: Path) -> None:
    octets = ordinary(3 * MIB)
    path = write(tmp_path, octets)
    size, middle = len(octets), begins(octets)[700]
    for start, end in ((0, middle + 1), (0, middle - 1), (middle - 1, size), (middle + 1, size),
                       (middle, size - 1)):
        with pytest.raises(Astray):
            records(Piece(open_capture(path), start, end))
    assert records(Piece(open_capture(path), middle, size)) == len(begins(octets)) - 700


def test_piece_behind_a_cut_is_astray_where_the_file_ends_early(tmp_path: Path) -> None:
    octets = ordinary(3 * MIB)
    path = write(tmp_path, octets[:-3])
    with pytest.raises(Astray):
        records(Piece(open_capture(path), begins(octets)[700], len(octets) - 3))


def test_pieces_of_captures_in_captures_are_found_out(tmp_path: Path) -> None:
    octets = nested(4 * MIB)
    path = write(tmp_path, octets)
    ends = [0, *cuts(path, MIB), len(octets)]
    assert len(ends) > 2
    with pytest.raises(Astray):
        for start, end in pairwise(ends):
            records(Piece(open_capture(path), start, end))


def test_first_piece_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    octets = ordinary(MIB) + struct.pack("<IIII", 0, 0, 400_000, 400_000) + bytes(8 * MIB)
    path = write(tmp_path, octets)
    with pytest.raises(CaptureError, match=r"record .* exceeds snap length"):
        records(Piece(open_capture(path), 0, len(octets) - 100))


@pytest.mark.parametrize("octets", [
    gzip.compress(ordinary(4 * MIB), 1), octets_of(pcapng()) * 2000, b"no capture " * MIB, b""],
    ids=["compressed", "pcapng", "none", "empty"])  # fmt: skip
def test_cuts_are_in_plain_pcap_files_alone(tmp_path: Path, octets: bytes) -> None:
    assert cuts(write(tmp_path, octets), MIB // 2) == []


def test_cuts_say_that_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file"):
        cuts(tmp_path / "none", MIB)
