"""The whole job, from opening a capture to usage records, next to the floors and libpcap.

Every contender is a process of its own and measures itself inside, from before the file is opened
until its result stands; rounds are interleaved. Ratios are taken round by round to floor B.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.traffic import TRAFFIC, Traffic, Truth, generate, rule_name

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.jsonl"
FLOORS = ("A", "B", "B-star")
RULE_COLUMNS = ("uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets")
SMOKE_PACKETS = 50_000
SMOKE_SUBSCRIBERS = 10_000


# --- one measurement -------------------------------------------------------------------


def measure_tollsplit(capture: Path, rules: Path, workers: int) -> dict[str, Any]:
    """Account a capture in this process; where the time went, and what came out."""
    from tollsplit import run

    inside: dict[str, int] = {}

    def timed(name: str) -> None:
        step = getattr(run, name)

        def measured(*arguments: Any, **options: Any) -> Any:
            start = time.process_time_ns()
            try:
                return step(*arguments, **options)
            finally:
                inside[name] = inside.get(name, 0) + time.process_time_ns() - start

        setattr(run, name, measured)

    timed("load")
    timed("meter")
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    report = run.account([str(capture)], str(rules), workers=workers)
    columns = report.usage.columns()
    cpu, wall = time.process_time_ns() - cpu, time.monotonic_ns() - wall
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + columns[name].tobytes())
    by_rule = [np.bincount(columns["rule"], columns[name]).tolist() for name in RULE_COLUMNS]
    return {
        "packets": report.seen.packets,
        "octets": report.seen.octets,
        "identity": report.identity_holds,
        "cpu_ns": cpu,
        "wall_ns": wall,
        "rules_cpu_ns": inside["load"],
        "meter_cpu_ns": inside["meter"],
        "records": len(report.usage),
        # Precedence numbers the rules; 0 is none of them.
        "rules": {
            rule_name(rule - 1): list(figures)
            for rule, figures in enumerate(zip(*by_rule, strict=True)) if any(figures)
        },
        "resident_octets": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "checksum": digest.hexdigest()[:16],
    }


def compile_floors(folder: Path) -> tuple[Path, bool]:
    """The floors' program, and whether libpcap's headers were there for its loop."""
    program, source = folder / "floors", ROOT / "benchmarks" / "floors.c"
    command = ["gcc", "-O3", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program)]
    with_pcap = [*command, "-DWITH_PCAP", "-lpcap"]
    if subprocess.run(with_pcap, capture_output=True, check=False).returncode == 0:
        return program, True
    subprocess.run(command, check=True)
    return program, False


def measure_floor(program: Path, mode: str, capture: Path) -> dict[str, Any]:
    done = subprocess.run(
        [program, mode, capture], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    packets, octets, words, cpu, wall = map(int, done)
    return {
        "packets": packets,
        "octets": octets,
        "cpu_ns": cpu,
        "wall_ns": wall,
        "checksum": f"{words:016x}",
    }


def measure(program: Path, contender: str, capture: Path, rules: Path) -> dict[str, Any]:
    kind, _, argument = contender.partition(" ")
    if kind == "floor":
        return measure_floor(program, argument, capture)
    if kind == "libpcap":
        return measure_floor(program, "pcap", capture)
    command = [sys.executable, "-m", "benchmarks.bench_account", "--measure"]
    done = subprocess.run(
        [*command, str(capture), str(rules), "--workers", argument],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# --- rounds ----------------------------------------------------------------------------


def check(contender: str, result: dict[str, Any], traffic: Traffic, truth: Truth) -> None:
    """A fast wrong answer is no answer."""
    octets = truth.ip_octets if contender.startswith("tollsplit") else truth.wire_octets
    wanted: dict[str, Any] = {"packets": truth.packets, "octets": octets}
    if contender in ("floor B", "floor B-star"):
        wanted["checksum"] = f"{truth.word_sum:016x}"
    if contender.startswith("tollsplit"):
        wanted |= {"identity": True, "rules": truth.rules}
    for name, value in wanted.items():
        if result[name] != value:
            raise SystemExit(
                f"{traffic.name}: {contender}: {name}: expected {value}, got {result[name]}"
            )


def interleave(
    program: Path, contenders: list[str], capture: Path, rules: Path,
    traffic: Traffic, truth: Truth, rounds: int,
) -> dict[str, list[dict[str, Any]]]:
    """All contenders in turn, `rounds` times, after one turn of the first to warm the cache."""
    measure(program, contenders[0], capture, rules)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            result = measure(program, name, capture, rules)
            check(name, result, traffic, truth)
            results[name].append(result)
    if len({r["checksum"] for name, rows in results.items() if name.startswith("tollsplit")
            for r in rows}) > 1:
        raise SystemExit(f"{traffic.name}: usage differs between runs or numbers of workers")
    return results


def summary(results: dict[str, list[dict[str, Any]]], truth: Truth) -> dict[str, Any]:
    """Per contender: best and median, rates by the median, median of the ratios to floor B."""
    figures: dict[str, Any] = {}
    for name, rows in results.items():
        cpu = [row["cpu_ns"] / truth.packets for row in rows]
        wall = [row["wall_ns"] / truth.packets for row in rows]
        ratios = [
            row["cpu_ns"] / floor["cpu_ns"]
            for row, floor in zip(rows, results["floor B"], strict=True)
        ]
        figures[name] = {
            "n": len(rows),
            "best_ns": round(min(cpu), 2),
            "median_ns": round(median(cpu), 2),
            "median_wall_ns": round(median(wall), 2),
            "mpps": round(1e3 / median(cpu), 3),
            "gbit_s": round(8 * truth.wire_octets / truth.packets / median(cpu), 3),
            "ratio_to_b": round(median(ratios), 2),
            "checksum": rows[0]["checksum"],
        }
        for extra in ("rules_cpu_ns", "meter_cpu_ns", "resident_octets"):
            if extra in rows[0]:
                figures[name]["median_" + extra] = median(row[extra] for row in rows)
        if "records" in rows[0]:
            figures[name]["records"] = rows[0]["records"]
    return figures


def line(traffic: Traffic, figures: dict[str, Any], arguments: argparse.Namespace) -> str:
    return json.dumps(
        {
            "benchmark": "account",
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "versions": versions(),
            "traffic": dataclasses.asdict(traffic),
            "command": command(arguments),
            "results": figures,
        }
    )


def commit() -> str:
    """The commit that is measured; "+" where the tree differs from it."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    head = git("rev-parse", "--short=12", "HEAD")
    if head.returncode:
        return "none"
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results.jsonl").stdout
    return head.stdout.strip() + ("+" if changed else "")


def cpu_name() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    gcc = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False)
    found = {"python": platform.python_version(), "gcc": gcc.stdout.strip()}
    for name in ("tollsplit", "cython", "numpy", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def command(arguments: argparse.Namespace) -> str:
    """What to type to run it again."""
    words = ["python", "-m", "benchmarks.bench_account"]
    for name, value in vars(arguments).items():
        if name in ("scratch", "results", "measure") or value in (None, False):
            continue
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def table(traffic: Traffic, figures: dict[str, Any]) -> str:
    rows = [f"{traffic.name}: {traffic.packets:,} packets, {traffic.subscribers:,} subscribers, "
            f"{traffic.prefixes:,} prefixes, {traffic.rules:,} rules, {traffic.encapsulation}",
            f"{'':16}{'ns/packet':>10}{'best':>8}{'wall':>8}{'Mpps':>9}{'Gbit/s':>9}{'× B':>8}"
            "  checksum"]
    for name, row in figures.items():
        rows.append(
            f"{name:16}{row['median_ns']:>10.1f}{row['best_ns']:>8.1f}{row['median_wall_ns']:>8.1f}"
            f"{row['mpps']:>9.2f}{row['gbit_s']:>9.2f}{row['ratio_to_b']:>8.2f}  {row['checksum']}"
        )
        if "records" in row:
            rows.append(
                f"{'':16}of it metering {row['median_meter_cpu_ns'] / traffic.packets:.1f}, rules "
                f"{row['median_rules_cpu_ns'] / traffic.packets:.1f} ns/packet; {row['records']:,} "
                f"usage records; {row['median_resident_octets'] / 2**20:.0f} MiB resident"
            )
    return "\n".join(rows)


def chosen_traffic(arguments: argparse.Namespace) -> Traffic:
    traffic = TRAFFIC[arguments.traffic]
    if arguments.smoke:
        traffic = dataclasses.replace(
            traffic, packets=SMOKE_PACKETS, subscribers=SMOKE_SUBSCRIBERS
        )
    for name in ("packets", "subscribers", "zipf", "prefixes", "rules", "encapsulation"):
        if (value := getattr(arguments, name)) is not None:
            traffic = dataclasses.replace(traffic, **{name: value})
    return traffic


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traffic", choices=TRAFFIC, default="min64")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_PACKETS} packets, one round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--workers", default="1,2", help="numbers of workers, default 1,2")
    for name in ("packets", "subscribers", "prefixes", "rules"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--zipf", type=float)
    parser.add_argument("--encapsulation", choices=("ipv4", "ipv6", "vlan", "gtpu"))
    parser.add_argument("--scratch", type=Path, help="keep the captures in this folder")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere"
    )
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.measure:
        capture, rules = arguments.measure
        print(json.dumps(measure_tollsplit(capture, rules, int(arguments.workers))))
        return
    traffic = chosen_traffic(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        program, has_pcap = compile_floors(scratch)
        capture, rules, truth = generate(traffic, scratch)
        contenders = [f"floor {mode}" for mode in FLOORS]
        contenders += ["libpcap"] if has_pcap else []
        contenders += [f"tollsplit {workers}" for workers in arguments.workers.split(",")]
        rounds = arguments.rounds or (1 if arguments.smoke else 5)
        results = interleave(program, contenders, capture.resolve(), rules.resolve(),
                             traffic, truth, rounds)
    figures = summary(results, truth)
    print(table(traffic, figures))
    target = arguments.results or (None if arguments.smoke else RESULTS)
    if target:
        with target.open("a") as file:
            file.write(line(traffic, figures, arguments) + "\n")


if __name__ == "__main__":
    main()
