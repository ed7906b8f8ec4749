"""The benchmarks of live capture at smoke size, and their tables."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_benchmarks import bench

from benchmarks import tables
from benchmarks.bench_live import CONTENDERS, ENGINE

loads_an_interface = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or len(os.sched_getaffinity(0)) < 2,
    reason="needs root, ip (apt-get install iproute2) and two cores")


@loads_an_interface
def test_bench_live_accounts_for_every_frame_at_smoke_size(tmp_path: Path) -> None:
    """What was sent is what was seen and what was lost; the benchmark itself fails otherwise."""
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_live")
    assert line["traffic"]["prefixes"] == 1_000
    found = line["results"]
    for name in CONTENDERS:
        row = found[name]
        assert row["sent"] == row["seen"] + row["lost"] + row["interface_lost"] == 50_000
        assert f"\n{name} " in printed
        assert (row["lost"] > 0) == (name == "overrun")
    assert found["bare"]["checksum"] == found["ring"]["checksum"] == found["record"]["checksum"]
    for name, (_, asked) in ENGINE.items():
        row = found[name]
        assert row["checksum"] == found["count"]["checksum"]
        assert (row["booked_records"] > 1_000) == ("books" in asked)
        assert row["walking_ns"] > 0 < row["flush_ns"]
    assert re.search(r"^recording: -?[\d.]+ ns a packet on the thread that walks", printed, re.M)


@loads_an_interface
def test_soak_live_books_what_was_sent_at_smoke_size(tmp_path: Path) -> None:
    """The soak itself fails where the ledger does not hold what was sent."""
    printed, [line] = bench(tmp_path / "results.jsonl", "soak_live")
    found = line["results"]
    assert found["sent"] == 40_000
    assert found["booked_octets"] > 40_000 * 46
    assert found["subscribers"] > 9_000  # others each time round
    assert 3 < found["lasted_s"] < 20
    assert "\nslope_mib_h " in printed


def sitting(benchmark: str, subscribers: int, results: dict[str, Any]) -> dict[str, Any]:
    return {"benchmark": benchmark, "when": "2026-11-24", "commit": "c", "cores": 2, "cpu": "x",
            "command": benchmark, "traffic": {"subscribers": subscribers}, "results": results}


def test_tables_tell_the_latest_live_lines() -> None:
    row = {"median_ns": 90.0, "ratio_to_bare": 9.0, "sent_mpps": 0.5, "lost": 0, "sent": 7,
           "walking_ns": 60.0, "flush_ns": 30.0, "ending_ns": 5.0, "interface_lost": 0,
           "resident_octets": 100 * 2**20}
    soak = {"lasted_s": 600.0, "sent": 5, "subscribers": 2, "booked_records": 3, "cpu_ns": 4e9,
            "resident_mib": {"first": 150.0, "last": 151.0, "most": 160.0}, "slope_mib_h": 6.0}
    lines = [
        sitting("live", 10_000, dict.fromkeys(CONTENDERS, row | {"median_ns": 1.0})),
        sitting("live", 10_000, dict.fromkeys(CONTENDERS, row)),
        sitting("live", 1_000_000, dict.fromkeys(CONTENDERS, row)),
        sitting("live", 7, {"bare": row}),  # of a time without the engine
        sitting("soak", 1, soak),
    ]
    told = tables.live_table(lines)
    assert len(re.findall(r"^\| 1", told, re.M)) == 2 * len(tables.LIVE)
    assert "| 1,000,000 | one worker, booked | 90.0 | 60.0 | 30.0 | 9.00 | 5.0 |" in told
    assert "| 1.0 |" not in told
    assert "| 600 | 5 | 2 | 3 | 4 | 150.0 | 151.0 | 160.0 | 6.0 |" in tables.soak_table(lines)
    assert "| live, 10,000 subscribers: × a bare reader | ≤ 1.5 | 9.00 | no |" \
        in tables.targets_table(lines)
    assert tables.live_table([]) == tables.soak_table([]) == "No run is on record yet."
