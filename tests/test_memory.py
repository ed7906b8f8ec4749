"""Memory follows the counters, not the packets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.traffic import Traffic, generate

MIB = 1024 * 1024
FEW, MANY = 2_000_000, 20_000_000
# Both captures have the same counters; what is left are allocators' slack and the reader's window.
GROWTH_OCTETS_MAX = 16 * MIB
RESIDENT_OCTETS_MAX = 400 * MIB

ACCOUNT = """
import sys, tollsplit
from benchmarks.job import peak_octets
report = tollsplit.account([sys.argv[1]], sys.argv[2])
assert report.identity_holds
print(report.seen.packets, len(report.usage), peak_octets())
"""


def account(packets: int, folder: Path) -> tuple[int, int]:
    """Usage records and peak resident octets of a process that accounts so many packets."""
    traffic = Traffic("memory", packets, subscribers=1_000, prefixes=10, rules=2)
    case = generate(traffic, folder)
    done = subprocess.run(
        [sys.executable, "-c", ACCOUNT, case.capture, case.rules],
        stdout=subprocess.PIPE, text=True, check=True,
    )
    case.capture.unlink()
    seen, records, resident = map(int, done.stdout.split())
    assert seen == packets
    return records, resident


def test_memory_is_bounded_by_counters(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 100 * MANY:
        pytest.skip("too little disk for a capture of 20,000,000 packets")
    records, few = account(FEW, tmp_path)
    assert records == 3_000
    records, many = account(MANY, tmp_path)
    assert records == 3_000
    assert many - few < GROWTH_OCTETS_MAX
    assert many < RESIDENT_OCTETS_MAX
