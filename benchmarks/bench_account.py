"""The whole job, from opening a capture to usage records, next to the floors and libpcap.

Several values for subscribers, prefixes or rules make a series: a sitting for each, one after the
other. Every contender is a process of its own and measures itself inside, from before the file is
opened until its result stands; rounds are interleaved. Ratios are taken round by round to floor B.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from benchmarks import results, rounds
from benchmarks.contenders import floors, naive, tollsplit
from benchmarks.traffic import TRAFFIC, Case, Encapsulation, Traffic, generate

SMOKE_PACKETS = 50_000
SMOKE_SUBSCRIBERS = 10_000
SERIES = ("subscribers", "prefixes", "rules")


def chosen_traffic(arguments: argparse.Namespace) -> Iterator[Traffic]:
    """Each traffic of the series that was asked for."""
    traffic = TRAFFIC[arguments.traffic]
    if arguments.smoke:
        traffic = dataclasses.replace(
            traffic, packets=SMOKE_PACKETS, subscribers=SMOKE_SUBSCRIBERS)
    for name in ("packets", "zipf", "encapsulation"):
        if (value := getattr(arguments, name)) is not None:
            traffic = dataclasses.replace(traffic, **{name: value})
    given = {name: getattr(arguments, name) for name in SERIES if getattr(arguments, name)}
    for values in itertools.product(*given.values()):
        yield dataclasses.replace(traffic, **dict(zip(given, values, strict=True)))


def measure(
    case: Case, workers: list[int], repeats: int, folder: Path, with_naive: bool
) -> dict[str, Any]:
    """Every contender's figures on one capture."""
    contenders = list(floors(folder).values())
    if with_naive and case.traffic.encapsulation == "ipv4":
        contenders += naive(folder)
    contenders += [tollsplit(number) for number in workers]
    measured = dict(zip(
        [contender.name for contender in contenders],
        rounds.interleave([(contender, case) for contender in contenders], repeats),
        strict=True))
    ours = [row for number in workers for row in measured[f"tollsplit {number}"]]
    rounds.expect_one_usage(ours, case.traffic.name)
    return {name: rounds.figures(rows, measured["floor B"], case)
            for name, rows in measured.items()}


def read_in_small_pages(capture: Path) -> None:
    """Have a capture in the page cache in pages of 4 KiB, as kernels without large folios do.

    What is read from the disk at random gets no more than it asked for.
    """
    with capture.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        for advice in (os.POSIX_FADV_DONTNEED, os.POSIX_FADV_RANDOM):
            os.posix_fadvise(file.fileno(), 0, 0, advice)
        block = bytearray(1 << 20)
        while file.readinto(block):
            pass


def command(arguments: argparse.Namespace, traffic: Traffic) -> str:
    """What to type to run this sitting again."""
    words = ["python", "-m", "benchmarks.bench_account"]
    for name, value in vars(arguments).items():
        if name in ("scratch", "results") or value in (None, False):
            continue
        text = getattr(traffic, name) if name in SERIES else value
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, str(text)]
    return shlex.join(words)


def table(traffic: Traffic, told: dict[str, Any]) -> str:
    rows = [f"{traffic.name}: {traffic.packets:,} packets, {traffic.subscribers:,} subscribers, "
            f"{traffic.prefixes:,} prefixes, {traffic.rules:,} rules, {traffic.encapsulation}",
            f"{'':16}{'ns/packet':>10}{'best':>8}{'wall':>8}{'Mpps':>9}{'Gbit/s':>9}{'× B':>8}"
            "  checksum"]
    for name, row in told.items():
        rows.append(
            f"{name:16}{row['median_ns']:>10.1f}{row['best_ns']:>8.1f}{row['median_wall_ns']:>8.1f}"
            f"{row['mpps']:>9.2f}{row['gbit_s']:>9.2f}{row['ratio_to_b']:>8.2f}  {row['checksum']}"
        )
        if "records" in row:
            packets, records, rules = (row[f"median_{part}_cpu_ns"] / traffic.packets
                                       for part in ("packets", "records", "rules"))
            rows.append(
                f"{'':16}of it packets {packets:.1f}, records {records:.1f}, rules {rules:.1f} "
                f"ns/packet; {row['records']:,} usage records; "
                f"{row['median_resident_octets'] / 2**20:.0f} MiB resident"
            )
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", choices=TRAFFIC, default="min64")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_PACKETS} packets, one round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--workers", default="1,2", help="numbers of workers, default 1,2")
    parser.add_argument("--naive", action="store_true", help="plain C++ as well")
    parser.add_argument("--small-pages", action="store_true",
                        help="captures in the page cache in pages of 4 KiB, not in large folios")
    parser.add_argument("--packets", type=int)
    for name in SERIES:
        parser.add_argument(f"--{name}", type=int, nargs="+")
    parser.add_argument("--zipf", type=float)
    parser.add_argument("--encapsulation", choices=get_args(Encapsulation))
    parser.add_argument("--scratch", type=Path, help="keep the captures in this folder")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    workers = [int(number) for number in arguments.workers.split(",")]
    for traffic in chosen_traffic(arguments):
        with tempfile.TemporaryDirectory() as temporary:
            scratch = arguments.scratch or Path(temporary)
            scratch.mkdir(parents=True, exist_ok=True)
            case = generate(traffic, scratch)
            if arguments.small_pages:
                read_in_small_pages(case.capture)
            told = measure(case, workers,
                           arguments.rounds or (1 if arguments.smoke else 5), Path(temporary),
                           arguments.naive)
        print(table(traffic, told), flush=True)
        results.append(target, "account", command(arguments, traffic), traffic, results=told)


if __name__ == "__main__":
    main()
