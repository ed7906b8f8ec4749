"""Instructions per packet of small fixed runs, against those on record.

    python -m benchmarks.guard             fails where a part grew by more than 5 %
    python -m benchmarks.guard --record    writes benchmarks/instructions.json

Time is noise on a shared machine; the number of instructions is not. Each run is the whole job on
a small capture, counted by callgrind once everything is imported and warm. Hashes get fixed
multipliers and Python a fixed seed, so that two measurements differ by far less than the limit.
Counts depend on compiler, C library, NumPy and more: where those are others than on record, nothing
is compared.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import job

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "benchmarks" / "instructions.json"
PACKETS = 50_000
SUBSCRIBERS = 5_000
PREFIXES = 100  # compiling them is no work of a packet's
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ipv6": {"encapsulation": "ipv6"},
    "vlan": {"encapsulation": "vlan"},
    "gtpu": {"encapsulation": "gtpu"},
    "tags": {"conditions": ("dscp",)},
}
GROWTH_PERCENT_MAX = 5
# Of a small part a few instructions are many percent.
GROWTH_MIN = 2.0
Counts = dict[str, dict[str, float]]


# --- inside valgrind ---------------------------------------------------------------------


def count_runs(folder: Path, names: list[str]) -> None:
    """Account each run's capture twice, the second time counted, in this process."""
    os.urandom = random.Random(1).randbytes
    job.settle_environment()
    from tollsplit import rules as agreed
    from tollsplit import run

    callgrind = ctypes.CDLL(str(folder / "callgrind.so"))
    for name in names:
        capture = folder / f"{name}-{PACKETS}.pcap"
        # Rules are loaded once, not once a packet. The first run imports and fills caches.
        rule_set = agreed.load(capture.with_suffix(".toml"))
        for counted in (False, True):
            if counted:
                callgrind.begin()
            report = run.account(capture, rule_set)
            columns = report.usage.columns()
            if counted:
                callgrind.end(name.encode())
        assert report.identity_holds and report.seen.packets == PACKETS and len(columns)


# --- what callgrind writes ---------------------------------------------------------------


def part(path: str) -> str:
    """The part of the program that a shared object belongs to."""
    name = Path(path).name
    if "/tollsplit/cext/" in path:
        return f"cext.{name.partition('.')[0]}"
    if "numpy" in path:
        return "numpy"
    if name.startswith(("python", "libpython")):
        return "python"
    return "libraries"


def instructions(lines: Iterable[str]) -> Counter[str]:
    """Instructions by part, of one callgrind profile."""
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    current = "libraries"
    inclusive = False  # the line after "calls=" repeats what the callee's own lines say
    for line in lines:
        if line.startswith("ob="):
            number, _, name = line[3:].strip().partition(" ")
            current = part(names.setdefault(number, name) if name else names[number])
        elif line.startswith("cob="):
            number, _, name = line[4:].strip().partition(" ")
            names.setdefault(number, name)
        elif line.startswith("calls="):
            inclusive = True
        elif line.startswith(tuple("0123456789+-*")):
            if not inclusive:
                counts[current] += int(line.split()[-1])
            inclusive = False
    return counts


def profiles(folder: Path) -> dict[str, Counter[str]]:
    """By run, from the profiles that count_runs made callgrind write."""
    found = {}
    for path in folder.glob("profile.*"):
        lines = path.read_text().splitlines()
        for line in lines:
            if line.startswith("desc: Trigger: Client Request: "):
                found[line.rpartition(": ")[2]] = instructions(lines)
    return found


# --- outside -----------------------------------------------------------------------------


def compile_requests(folder: Path) -> None:
    subprocess.run(
        ["gcc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror",
         ROOT / "benchmarks" / "callgrind.c", "-o", folder / "callgrind.so"], check=True)


def count(names: list[str]) -> Counts:
    """Instructions per packet, by run and part."""
    from benchmarks.traffic import Traffic, generate

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        compile_requests(folder)
        for name in names:
            generate(Traffic(name, PACKETS, SUBSCRIBERS, prefixes=PREFIXES, **RUNS[name]), folder)
        subprocess.run(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet",
             f"--callgrind-out-file={folder / 'profile'}",
             sys.executable, "-m", "benchmarks.guard", "--count", folder, "--runs", *names],
            cwd=ROOT, check=True, env=os.environ | {"PYTHONHASHSEED": "0"})
        found = profiles(folder)
    return {
        name: {part: round(total / PACKETS, 1) for part, total in sorted(found[name].items())}
        for name in names
    }


def environment() -> dict[str, str]:
    """What the counts depend on, beyond the sources."""
    from benchmarks.results import versions

    known = versions()
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("flags")), "")
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    return {name: known[name] for name in ("python", "gcc", "libc", "cython", "numpy")} | {
        "valgrind": valgrind.stdout.strip(),
        # The C library and NumPy choose their loops by it.
        "avx2": str("avx2" in flags.split()),
    }


def growths(recorded: Counts, found: Counts) -> list[str]:
    """What grew beyond the limit, in words."""
    grown = []
    for name, parts in found.items():
        known = recorded.get(name, {})
        # What libraries do alone depends on luck: memory that malloc(3) had before is zeroed
        # again, memory new from the kernel is not. They count in the sum.
        ours = [(part, now) for part, now in parts.items() if part.startswith("cext.")]
        for part, now in [*ours, ("in all", sum(parts.values()))]:
            before = sum(known.values()) if part == "in all" else known.get(part, 0.0)
            if now - before > max(GROWTH_MIN, before * GROWTH_PERCENT_MAX / 100):
                grown.append(f"{name}: {part}: {before:.1f} → {now:.1f} instructions per packet")
    return grown


def table(found: Counts) -> str:
    parts = sorted({part for counts in found.values() for part in counts})
    lines = ["instructions per packet" + "".join(f"{name:>9}" for name in found)]
    for part in parts:
        lines.append(f"{part:23}" + "".join(f"{counts.get(part, 0):>9.1f}"
                                            for counts in found.values()))
    sums = "".join(f"{sum(counts.values()):>9.1f}" for counts in found.values())
    return "\n".join([*lines, f"{'in all':23}{sums}"])


def check(
    recorded_path: Path, measured: Callable[[list[str]], Counts] = count
) -> int:
    """Compare with what is on record. Returns 1 where something grew, else 0."""
    if not shutil.which("valgrind"):
        print("nothing compared: valgrind is not installed")
        return 0
    recorded = json.loads(recorded_path.read_text())
    here = environment()
    other = [f"{name} {recorded['environment'].get(name)} on record, {value} here"
             for name, value in here.items() if recorded["environment"].get(name) != value]
    if other:
        print(f"nothing compared: {'; '.join(other)}")
        return 0
    found = measured(list(RUNS))
    print(table(found))
    grown = growths(recorded["instructions"], found)
    if grown:
        print(f"grown by more than {GROWTH_PERCENT_MAX} % (make bench-record, if it is meant):",
              *grown, sep="\n  ")
    return 1 if grown else 0


def record(recorded_path: Path) -> None:
    from benchmarks.results import commit

    found = count(list(RUNS))
    print(table(found))
    whole = {"commit": commit(), "environment": environment(), "instructions": found}
    recorded_path.write_text(json.dumps(whole, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the counts down")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="where they stand")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runs", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        count_runs(arguments.count, arguments.runs)
        return 0
    if arguments.record:
        record(arguments.recorded)
        return 0
    return check(arguments.recorded)


if __name__ == "__main__":
    sys.exit(main())
