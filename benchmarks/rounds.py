"""Contenders in turn, round by round, and what their times come to.

Ratios are taken inside a round and their median is told: on a shared machine absolute times
belong to one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.contenders import Contender, Measurement
from benchmarks.traffic import Case

Entry = tuple[Contender, Case]
# What a measurement may hold beyond time, and is told by its median.
MEDIANS = ("rules_cpu_ns", "packets_cpu_ns", "records_cpu_ns", "resident_octets")


def interleave(entries: Sequence[Entry], rounds: int) -> list[list[Measurement]]:
    """For each entry its measurements, after one run of the first to warm the cache."""
    first, its_case = entries[0]
    first.run(its_case)
    measured: list[list[Measurement]] = [[] for _ in entries]
    for _ in range(rounds):
        for place, (contender, case) in enumerate(entries):
            measured[place].append(contender.run(case))
    return measured


def expect_one_usage(rows: Sequence[Measurement], name: str) -> None:
    """Raise SystemExit where usage differs between runs or numbers of workers."""
    checksums = {row["checksum"] for row in rows}
    if len(checksums) > 1:
        raise SystemExit(f"{name}: usage differs between runs: {', '.join(sorted(checksums))}")


def figures(
    rows: Sequence[Measurement], baseline: Sequence[Measurement], case: Case
) -> dict[str, Any]:
    """One contender's line: best and median of its rounds, and ratios to the baseline's rounds."""
    truth = case.truth
    cpu = [row["cpu_ns"] / truth.packets for row in rows]
    told: dict[str, Any] = {
        "n": len(rows),
        "best_ns": round(min(cpu), 2),
        "median_ns": round(median(cpu), 2),
        "median_wall_ns": round(median(row["wall_ns"] for row in rows) / truth.packets, 2),
        "mpps": round(1e3 / median(cpu), 3),
        "gbit_s": round(8 * truth.wire_octets / truth.packets / median(cpu), 3),
        "ratio_to_b": round(ratio(rows, baseline), 2),
        "checksum": rows[0]["checksum"],
    }
    for extra in MEDIANS:
        if extra in rows[0]:
            told["median_" + extra] = median(row[extra] for row in rows)
    if "records" in rows[0]:
        told["records"] = rows[0]["records"]
    return told


def ratio(rows: Sequence[Measurement], baseline: Sequence[Measurement]) -> float:
    """The median over the rounds of one contender's CPU time in units of another's."""
    return float(median(row["cpu_ns"] / base["cpu_ns"]
                        for row, base in zip(rows, baseline, strict=True)))
