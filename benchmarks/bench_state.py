"""What each stage costs that asks packets for more than themselves: alone, and all together.

Each stage has a capture of its own, in which every packet is in a flow that the stage works on;
the same capture under rules that ask for the server alone is what it is compared with, round by
round. Stages are one line each in benchmarks/stages.py. At last the memory of a million flows at
a time, and, with --against, the same stateless job of another tree. What two workers gain is told
by the CPU time of the one that has more to do: others on the machine change it less than the clock.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results, rounds
from benchmarks.contenders import Measurement, tollsplit
from benchmarks.stages import DURATION_S, STAGES, Stage, generate
from benchmarks.traffic import Case

PACKETS = 2_000_000
FLOWS = (1_000, 100_000, 400_000)
MILLION = 1 << 20
TOGETHER = "all together"
HEADINGS = (f"{'stage':24}{'flows':>9}{'ns':>8}{'+ ns':>8}{'×':>7}{'two':>8}{'by':>6}"
            f"{'MiB':>6}  checksum")


def worked_ns(row: Measurement) -> float:
    """CPU ns per packet without the loading of the rules."""
    return float(row["cpu_ns"] - row["rules_cpu_ns"]) / float(row["packets"])


def busiest_ns(row: Measurement) -> float:
    """CPU ns per packet of the worker that has most to do: wall time, where each has a core."""
    return float(row["busiest_cpu_ns"]) / float(row["packets"])


def measure(asked: Case, plain: Case, repeats: int) -> dict[str, Any]:
    """One capture's figures: the median of each, and of their relations in the same round."""
    one, two = tollsplit(1), tollsplit(2)
    plain_rows, rows, two_rows = rounds.interleave(
        [(one, plain), (one, asked), (two, asked)], repeats)
    rounds.expect_one_usage([*rows, *two_rows], asked.traffic.name)
    pairs = list(zip(rows, plain_rows, strict=True))
    told = {
        "packets": rows[0]["packets"],
        "plain_ns": round(median(map(worked_ns, plain_rows)), 1),
        "ns": round(median(map(worked_ns, rows)), 1),
        "added_ns": round(median(worked_ns(a) - worked_ns(b) for a, b in pairs), 1),
        "ratio": round(median(worked_ns(a) / worked_ns(b) for a, b in pairs), 3),
        "grown_octets": median(a["resident_octets"] - b["resident_octets"] for a, b in pairs),
        "checksum": rows[0]["checksum"],
    }
    if rows[0]["busiest_cpu_ns"]:  # each worker goes through all frames
        told |= {
            "two_ns": round(median(map(busiest_ns, two_rows)), 1),
            "two_faster_by": round(median(
                busiest_ns(a) / busiest_ns(b) for a, b in zip(rows, two_rows, strict=True)), 3),
        }
    return told


def measure_stages(
    stages: Sequence[Stage], flows: int, packets: int, repeats: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        asked, plain = generate(stages, flows, packets, Path(scratch))
        return measure(asked, plain, repeats)


def measure_against(tree: Path, packets: int, repeats: int) -> dict[str, Any]:
    """The stateless job of this tree and of another one, in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        case, _ = generate(STAGES[:1], FLOWS[1], packets, Path(scratch))
        here, there = rounds.interleave([(tollsplit(1), case), (tollsplit(1, tree), case)], repeats)
    rounds.expect_one_usage([*here, *there], "stateless")
    return {"commit": results.commit(tree),
            "ns": round(median(map(worked_ns, here)), 1),
            "other_ns": round(median(map(worked_ns, there)), 1),
            "ratio": round(median(worked_ns(a) / worked_ns(b)
                                  for a, b in zip(here, there, strict=True)), 3)}


def line(name: str, flows: int, told: dict[str, Any]) -> str:
    two = (f"{told['two_ns']:>8.1f}{told['two_faster_by']:>6.2f}" if "two_ns" in told
           else " " * 14)
    return (f"{name:24}{flows:>9,}{told['ns']:>8.1f}{told['added_ns']:>8.1f}{told['ratio']:>7.2f}"
            f"{two}{told['grown_octets'] / 2**20:>6.0f}  {told['checksum']}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="+", choices=[*names, TOGETHER],
                        default=[*names, TOGETHER], metavar="STAGE",
                        help=f"of {', '.join(names)}, {TOGETHER}; each of them by default")
    parser.add_argument("--packets", type=int, default=PACKETS)
    parser.add_argument("--flows", type=int, nargs="+", default=list(FLOWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another tree, its core built")
    parser.add_argument("--smoke", action="store_true", help="20,000 packets, one round")
    parser.add_argument("--results", type=Path,
                        help="append here; default benchmarks/results.jsonl, smoke nowhere")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    packets, many, repeats = arguments.packets, MILLION, arguments.rounds
    flows: list[int] = arguments.flows
    if arguments.smoke:
        packets, flows, many, repeats = 20_000, [1_000], 4_000, 1
    told: dict[str, Any] = {}
    print(HEADINGS)
    together = [stage for stage in STAGES if stage.duration_s == DURATION_S]
    chosen = {name: together if name == TOGETHER else [s for s in STAGES if s.name == name]
              for name in arguments.stages}
    for name, stages in chosen.items():
        for number in flows:
            if number > len(stages) * min(stage.flows_most for stage in stages):
                continue
            found = measure_stages(stages, number, packets, repeats)
            told[f"{name}, {number}"] = found | {"stage": name, "flows": number}
            print(line(name, number, found), flush=True)
    if "sticky" in chosen:
        found = measure_stages(chosen["sticky"], many, 2 * many, 1)
        told["memory"] = found | {"stage": "sticky", "flows": many}
        print(line("memory of sticky", many, found), flush=True)
    if arguments.against:
        told["against"] = found = measure_against(arguments.against, packets, repeats)
        print(f"stateless here, there, ×: {found['ns']}, {found['other_ns']}, {found['ratio']}")
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    words = ["python", "-m", "benchmarks.bench_state", "--packets", str(packets),
             "--flows", *map(str, flows), "--rounds", str(repeats)]
    if len(chosen) <= len(STAGES):
        words += ["--stages", *chosen]
    results.append(target, "state", shlex.join(words), {"packets": packets}, results=told)


if __name__ == "__main__":
    main()
