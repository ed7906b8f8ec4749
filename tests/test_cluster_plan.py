"""What each task is given: all of it is somebody's, and nobody's twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_flows import RULES as STICKY

from tollsplit.cluster import likeness as like
from tollsplit.cluster.job import Capture, Job
from tollsplit.cluster.likeness import Likeness, difference, likeness
from tollsplit.cluster.plan import plan, whole
from tollsplit.limits import CLUSTER_PART_OCTETS_MAX, CLUSTER_PART_OCTETS_MIN
from tollsplit.rules.rule import RuleSet

MIB = 1 << 20
PLAIN = RuleSet("rules.toml", "sha256:")


def job(sizes: list[int], rules: RuleSet = PLAIN) -> Job:
    captures = (Capture(f"{n}", f"/{n}", Likeness(size, "")) for n, size in enumerate(sizes))
    return Job("", "", tuple(captures), rules, False, False, b"")


def cut(path: str, octets: int) -> list[int]:
    """Every second capture cannot be cut."""
    size = SIZES[path]
    return [] if int(path[1:]) % 2 else list(range(octets, size, octets))


SIZES: dict[str, int] = {}


@given(st.lists(st.integers(0, 1 << 44) | st.integers(0, 1 << 22), min_size=1, max_size=40),
       st.integers(1, 4000))
def test_plan_has_each_octet_once_in_order(sizes: list[int], threads: int) -> None:
    SIZES.clear()
    SIZES.update({f"/{n}": size for n, size in enumerate(sizes)})
    made = job(sizes)
    at = 0
    for parts in plan(made, threads, cut):
        for part in parts:
            assert (part.share, part.shares) == (0, 1)
            assert part.octets == (part.end - part.start if part.end is not None else
                                   sum(sizes[n] for n in part.captures))
        numbers = list(parts[0].captures)
        assert numbers == list(range(at, at + len(numbers)))
        at += len(numbers)
        if parts[0].end is None:
            assert len(parts) == 1
            continue
        assert {part.captures for part in parts} == {parts[0].captures}
        ends = [part.end for part in parts]
        assert [part.start for part in parts] == [0, *ends[:-1]]
        assert ends[-1] == sizes[numbers[0]]
    assert at == len(sizes)


def test_plan_makes_parts_of_a_sensible_size() -> None:
    SIZES.update({"/0": 1 << 40, "/1": 100})
    for size, threads, octets in (
            (1 << 40, 1, CLUSTER_PART_OCTETS_MAX), (1 << 40, 100_000, CLUSTER_PART_OCTETS_MIN),
            (1 << 36, 16, (1 << 36) // 64), (3 << 29, 2, 3 << 28), (5 << 29, 2, 5 << 27)):
        SIZES["/0"] = size
        [parts] = plan(job([size]), threads, cut)
        assert {part.octets for part in parts[:-1]} == {octets}
    small = plan(job([100] * 1000), 4, cut)
    assert [len(parts[0].captures) for parts in small] == [64] * 15 + [40]


def test_plan_gives_everybody_a_share_where_flows_count() -> None:
    everything = job([100, 200], STICKY)
    shares = [part for parts in plan(everything, 3, cut) for part in parts]
    assert [(part.captures, part.share, part.shares) for part in shares] == [
        ((0, 1), share, 3) for share in range(3)]
    assert len(plan(everything, 4000, cut)) == 256
    assert whole(everything).octets == 300


# --- likeness ------------------------------------------------------------------------------------


def test_likeness_is_of_content_alone(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.write_bytes(b"content" * 1000)
    os.utime(other, (1, 1))
    assert likeness(str(one)) == likeness(str(other))
    assert difference(likeness(str(one)), likeness(str(other))) is None


@pytest.mark.parametrize("octets", [0, 1, 65_535, 65_536, MIB, MIB + 65_536, 3 * MIB])
def test_likeness_sees_a_change_at_either_end(tmp_path: Path, octets: int) -> None:
    path = tmp_path / "file"
    content = os.urandom(octets)
    path.write_bytes(content)
    before = likeness(str(path))
    assert before.octets == octets
    for at in {0, octets - 1} if octets else ():
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert difference(likeness(str(path)), before) is not None
    path.write_bytes(content + b"\0")
    assert "octets there" in str(difference(likeness(str(path)), before))


def test_likeness_reads_all_of_a_small_file_and_little_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    pread = os.pread

    def told(file: int, octets: int, start: int) -> bytes:
        found = pread(file, octets, start)
        read.append(len(found))
        return found

    monkeypatch.setattr(like.os, "pread", told)
    path = tmp_path / "file"
    for size, expected in ((MIB, MIB), (1 << 30, MIB)):
        with path.open("wb") as file:
            file.truncate(size)
        read.clear()
        likeness(str(path))
        assert sum(read) == expected
