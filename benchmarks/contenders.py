"""Who runs against whom: the floors, libpcap's loop, plain C++, and tollsplit itself.

Every contender is a process of its own and is checked against the truth: a fast wrong answer is
no answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.network import Network
from benchmarks.traffic import Case

ROOT = Path(__file__).resolve().parents[1]
FLOOR_MODES = ("A", "B", "B-star")
# At least packets, octets, cpu_ns, wall_ns, checksum.
Measurement = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A way to read a capture, and what is known about its right answer."""

    name: str
    measure: Callable[[Case], Measurement]
    wanted: Callable[[Case], Measurement]  # what of a measurement is known beforehand

    def run(self, case: Case) -> Measurement:
        """Measure once. Raises SystemExit where the answer is wrong."""
        found = self.measure(case)
        for name, value in self.wanted(case).items():
            if found[name] != value:
                raise SystemExit(f"{case.traffic.name}: {self.name}: {name}: expected {value}, "
                                 f"got {found[name]}")
        return found


# --- compiled ----------------------------------------------------------------------------


def compile_program(command: list[str], source: str, program: Path) -> bool:
    """Whether there was a compiler, with the headers it takes, to make `program`."""
    whole = [*command, "-O3", "-Wall", "-Wextra", "-Werror",
             str(ROOT / "benchmarks" / source), "-o", str(program)]
    try:
        if "-DWITH_PCAP" in command:
            whole += ["-lpcap"]
        return subprocess.run(whole, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def run_program(program: Path, *arguments: str | Path) -> Measurement:
    """What a compiled contender prints: packets, octets, checksum, CPU ns, wall ns."""
    words = subprocess.run(
        [program, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    packets, octets, checksum, cpu, wall = map(int, words)
    return {"packets": packets, "octets": octets, "cpu_ns": cpu, "wall_ns": wall,
            "checksum": f"{checksum:016x}"}


def of_wire(case: Case) -> Measurement:
    return {"packets": case.truth.packets, "octets": case.truth.wire_octets}


def of_floor(case: Case, mode: str) -> Measurement:
    loads = mode in ("B", "B-star")
    return of_wire(case) | {"checksum": f"{case.truth.word_sum if loads else 0:016x}"}


def floors(folder: Path) -> dict[str, Contender]:
    """The floors, and libpcap's loop where its headers are installed, compiled into `folder`."""
    program = folder / "floors"
    modes = {f"floor {mode}": mode for mode in FLOOR_MODES}
    if compile_program(["gcc", "-DWITH_PCAP"], "floors.c", program):
        modes["libpcap"] = "pcap"
    elif not compile_program(["gcc"], "floors.c", program):
        raise SystemExit("the floors need gcc: apt-get install gcc libc6-dev")

    def measure(case: Case, mode: str) -> Measurement:
        return run_program(program, mode, case.capture)

    return {
        name: Contender(name, partial(measure, mode=mode), partial(of_floor, mode=mode))
        for name, mode in modes.items()
    }


def of_ip(case: Case) -> Measurement:
    return {"packets": case.truth.packets, "octets": case.truth.ip_octets}


def naive(folder: Path) -> list[Contender]:
    """Plain C++ with std::unordered_map, for untagged IPv4; none without a compiler."""
    program = folder / "naive"
    if not compile_program(["g++", "-std=c++17"], "naive.cpp", program):
        return []

    def measure(case: Case) -> Measurement:
        prefixes = folder / "prefixes"
        prefixes.write_text(Network(case.traffic).prefix_lines())
        return run_program(program, case.capture, prefixes)

    return [Contender("C++", measure, of_ip)]


# --- ours --------------------------------------------------------------------------------


def measure_tollsplit(case: Case, workers: int, tree: Path) -> Measurement:
    """The whole job in a process of its own; the clocks are inside it."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.job", case.capture.resolve(), case.rules.resolve(),
         "--workers", str(workers)],
        cwd=tree, check=True, stdout=subprocess.PIPE, text=True,
    )
    found: Measurement = json.loads(done.stdout)
    return found


def of_tollsplit(case: Case) -> Measurement:
    return {"packets": case.truth.packets, "octets": case.truth.ip_octets, "identity": True,
            "rules": case.truth.rules}


def tollsplit(workers: int, tree: Path = ROOT) -> Contender:
    """The program of this tree, or of another one."""
    return Contender(f"tollsplit {workers}",
                     partial(measure_tollsplit, workers=workers, tree=tree), of_tollsplit)
