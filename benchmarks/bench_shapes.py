"""What each shape of traffic and each feature of the rules costs, next to plain traffic.

Each shape runs in turn with `plain`, round by round, one worker; a feature's own cost is the
difference to `plain` in the same rounds, without the loading of the rules: that is paid once a
run, not once a packet, and told in milliseconds. Captures are generated and removed one by one.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results, rounds
from benchmarks.contenders import Contender, Measurement, floors, tollsplit
from benchmarks.traffic import Case, Traffic, generate

PACKETS = 2_000_000
SUBSCRIBERS = 100_000
PLAIN = Traffic("plain", PACKETS, SUBSCRIBERS)
# Each differs from `plain` in one thing, which its name says.
DIFFERENCES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ipv6", {"encapsulation": "ipv6"}),
    ("vlan", {"encapsulation": "vlan"}),
    ("qinq", {"encapsulation": "qinq"}),
    ("gtpu", {"encapsulation": "gtpu"}),
    ("mixed", {"encapsulation": "mixed"}),
    ("imix", {"imix": True}),
    ("flows", {"flows": True}),
    ("subscribers uniform", {"zipf": 0.0}),
    ("subscribers 10 k", {"subscribers": 10_000}),
    ("subscribers 1 M", {"subscribers": 1_000_000}),
    ("subscribers 4 M", {"subscribers": 4_000_000}),
    ("prefixes 10", {"prefixes": 10, "rules": 10}),
    ("prefixes 10,000", {"prefixes": 10_000}),
    ("prefixes 100,000", {"prefixes": 100_000}),
    ("rules 1", {"rules": 1}),
    ("rules 1,000", {"rules": 1_000}),
    ("dscp", {"conditions": ("dscp",)}),
    ("server and dscp", {"conditions": ("server", "dscp")}),
    ("server and port", {"conditions": ("server", "port")}),
    ("server and where", {"conditions": ("server", "where")}),
    ("key vlan", {"encapsulation": "vlan", "key": "vlan"}),
    ("key gtp_teid", {"encapsulation": "gtpu", "key": "gtp_teid"}),
    ("quota", {"quota": True}),
    ("rated", {"rated": True}),
    ("minutes of a day", {"window": "1m", "duration_s": 86_400}),
)
SHAPES = tuple(replace(PLAIN, name=name, **different) for name, different in DIFFERENCES)
HEADINGS = (f"{'':20}{'rules ms':>9}{'packets':>9}{'records':>9} ns{'× plain':>9}{'+ ns':>8}"
            f"{'whole':>9}{'× B':>8}{'records':>11}  checksum")


def measure_shape(
    shape: Case, plain: Case, known: dict[str, Contender], repeats: int
) -> dict[str, Any]:
    """One shape's figures, and the median of its differences to plain traffic."""
    ours, floor = tollsplit(1), known["floor B"]
    measured = rounds.interleave(
        [(floor, shape), (ours, plain), (ours, shape)], repeats)
    base, plain_rows, rows = measured
    rounds.expect_one_usage(rows, shape.traffic.name)
    rounds.expect_one_usage(plain_rows, plain.traffic.name)
    pairs = [(worked_ns(row, shape), worked_ns(other, plain))
             for row, other in zip(rows, plain_rows, strict=True)]
    return rounds.figures(rows, base, shape) | {
        "ratio_to_plain": round(median(own / other for own, other in pairs), 3),
        "added_ns": round(median(own - other for own, other in pairs), 2),
    }


def worked_ns(row: Measurement, case: Case) -> float:
    """CPU ns per packet without the loading of the rules."""
    return float(row["cpu_ns"] - row["rules_cpu_ns"]) / case.truth.packets


def row(name: str, told: dict[str, Any], packets: int) -> str:
    return (f"{name:20}{told['median_rules_cpu_ns'] / 1e6:>9.1f}"
            f"{told['median_packets_cpu_ns'] / packets:>9.1f}"
            f"{told['median_records_cpu_ns'] / packets:>9.1f}   {told['ratio_to_plain']:>9.2f}"
            f"{told['added_ns']:>8.1f}{told['median_ns']:>9.1f}{told['ratio_to_b']:>8.2f}"
            f"{told['records']:>11,}  {told['checksum']}")


def measure_all(
    shapes: list[Traffic], plain: Traffic, repeats: int, scratch: Path
) -> Iterator[tuple[Traffic, dict[str, Any]]]:
    """Shape by shape, `plain` first; a capture is removed when its shape is done."""
    known = floors(scratch)
    base = generate(plain, scratch)
    for traffic in [plain, *shapes]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            case = base if traffic is plain else generate(traffic, Path(folder))
            yield traffic, measure_shape(case, base, known, repeats)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [shape.name for shape in SHAPES]
    parser.add_argument("--shapes", nargs="+", choices=names, default=names, metavar="SHAPE",
                        help=f"of {', '.join(names)}; all of them by default")
    parser.add_argument("--packets", type=int, default=PACKETS)
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="20,000 packets, one round")
    parser.add_argument("--results", type=Path,
                        help="append here; default benchmarks/results.jsonl, smoke nowhere")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    packets = 20_000 if arguments.smoke else arguments.packets
    plain = replace(PLAIN, packets=packets, subscribers=arguments.subscribers)
    shapes = [
        replace(shape, packets=packets, subscribers=arguments.subscribers
                if shape.subscribers == SUBSCRIBERS else shape.subscribers)
        for shape in SHAPES if shape.name in arguments.shapes
    ]
    told: dict[str, Any] = {}
    print(f"{packets:,} packets, {plain.subscribers:,} subscribers, {plain.prefixes:,} prefixes, "
          f"{plain.rules} rules where the name says nothing else", HEADINGS, sep="\n")
    with tempfile.TemporaryDirectory() as scratch:
        repeats = 1 if arguments.smoke else arguments.rounds
        for traffic, found in measure_all(shapes, plain, repeats, Path(scratch)):
            told[traffic.name] = found
            print(row(traffic.name, found, packets), flush=True)
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    words = ["python", "-m", "benchmarks.bench_shapes", "--packets", str(packets),
             "--subscribers", str(plain.subscribers), "--rounds", str(repeats)]
    if len(shapes) < len(SHAPES):
        words += ["--shapes", *(shape.name for shape in shapes)]
    results.append(target, "shapes", shlex.join(words), plain, results=told)


if __name__ == "__main__":
    main()
