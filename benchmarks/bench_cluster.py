"""Captures metered by the workers of a Dask cluster, next to the threads of one process.

The same traffic as one plain file and as eight compressed ones, by one worker, by two, and by
clusters of one and of two workers, in turn. Everything runs on this machine, so what two workers
gain is at most what its cores allow; what is asked is what the cluster itself costs. The wall's
clock runs inside the command's process, from before the captures are opened until the usage records
stand: connecting, looking at the captures and adding up are in it, starting the cluster is not. The
CPU's is read of the command, the scheduler and all workers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results, rounds
from benchmarks.contenders import ROOT, Contender, Measurement, of_tollsplit
from benchmarks.traffic import TRAFFIC, Case, generate

FILES = 8
THREADS = (1, 2)
START_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """A scheduler, its workers, and how long each of them has had a CPU."""

    address: str
    processes: tuple[int, ...]

    def cpu_ns(self) -> list[int]:
        ticks = [sum(map(int, Path(f"/proc/{process}/stat").read_text().split()[13:15]))
                 for process in self.processes]
        return [1_000_000_000 // os.sysconf("SC_CLK_TCK") * each for each in ticks]


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[Cluster]:
    """So many workers of one thread each."""
    folder.mkdir()
    known = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = ["--host", "127.0.0.1", "--no-dashboard"]
    commands = [[*dask, "scheduler", "--port", "0", *quiet, "--scheduler-file", str(known)]]
    commands += workers * [
        [*dask, "worker", "--scheduler-file", str(known), *quiet, "--nthreads", "1", "--no-nanny",
         "--local-directory", str(folder)]]
    with (folder / "log").open("w") as log:
        running = [subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
                   for command in commands]
    try:
        yield Cluster(_address(known, workers), tuple(process.pid for process in running))
    finally:
        for process in running:
            process.kill()
            process.wait()


def _address(known: Path, workers: int) -> str:
    from distributed import Client

    deadline = time.monotonic() + START_S
    while not known.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"no scheduler within {START_S} s")
        time.sleep(0.05)
    address = str(json.loads(known.read_text())["address"])
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=START_S)
    return address


def compressed(case: Case, folder: Path) -> list[Path]:
    """The capture as eight files in a row, each compressed."""
    import zstandard

    from tollsplit.capture.piece import HEADER_OCTETS, cuts

    octets = case.capture.read_bytes()
    header = octets[:HEADER_OCTETS]
    places = cuts(case.capture, len(octets) // FILES + 1)
    paths = []
    for number, (start, end) in enumerate(pairwise([HEADER_OCTETS, *places, len(octets)])):
        paths.append(folder / f"{case.traffic.name}-{number}.pcap.zst")
        paths[-1].write_bytes(zstandard.ZstdCompressor(1).compress(header + octets[start:end]))
    return paths


def job(case: Case, captures: Sequence[Path], *options: str) -> Measurement:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.job", *map(str, captures), str(case.rules), *options],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: Measurement = json.loads(done.stdout)
    return found


def by_threads(case: Case, captures: Sequence[Path], number: int) -> Measurement:
    found = job(case, captures, "--workers", str(number))
    return found | {"busiest_ns": found["cpu_ns"] // number}


def by_cluster(case: Case, captures: Sequence[Path], running: Cluster) -> Measurement:
    before = running.cpu_ns()
    found = job(case, captures, "--cluster", running.address)
    spent = [after - each for after, each in zip(running.cpu_ns(), before, strict=True)]
    return found | {"cpu_ns": found["cpu_ns"] + sum(spent), "busiest_ns": max(spent)}


def contenders(captures: Sequence[Path], clusters: dict[int, Cluster]) -> Iterator[Contender]:
    for number in THREADS:
        yield Contender(f"threads: {number}", partial(
            by_threads, captures=captures, number=number), of_tollsplit)
    for number, running in clusters.items():
        yield Contender(f"cluster of {number}", partial(
            by_cluster, captures=captures, running=running), of_tollsplit)


def figures(measured: dict[str, list[Measurement]], packets: int) -> dict[str, dict[str, Any]]:
    """Each way's times a packet, and what they are to one thread's, round by round."""
    once = next(iter(measured.values()))

    def ratio(rows: list[Measurement], clock: str, to: str) -> float:
        found = median(row[clock] / base[to] for row, base in zip(rows, once, strict=True))
        return round(float(found), 2)

    return {name: {
        "n": len(rows),
        "wall_ns": round(median(row["wall_ns"] for row in rows) / packets, 2),
        "cpu_ns": round(median(row["cpu_ns"] for row in rows) / packets, 2),
        "wall_ratio": ratio(rows, "wall_ns", "wall_ns"),
        "cpu_ratio": ratio(rows, "cpu_ns", "cpu_ns"),
        "busiest_ratio": ratio(rows, "busiest_ns", "cpu_ns"),
        "checksum": rows[0]["checksum"],
    } for name, rows in measured.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=50_000_000)
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="some thousands, one round")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere")
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(packets=20_000, subscribers=1_000, rounds=1)
    return arguments


def main() -> None:
    arguments = parse()
    traffic = dataclasses.replace(
        TRAFFIC["min64"], packets=arguments.packets, subscribers=arguments.subscribers)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        clusters = {number: stack.enter_context(cluster(folder / str(number), number))
                    for number in ([2] if arguments.smoke else THREADS)}
        case = generate(traffic, folder)
        shapes = {"one file": [case.capture]}
        if not arguments.smoke:
            shapes[f"{FILES} files, zstd"] = compressed(case, folder)
        told: dict[str, Any] = {}
        for shape, captures in shapes.items():
            entries = list(contenders(captures, clusters))
            for each in entries[len(THREADS) :]:
                each.run(case)  # workers live on: what they import, they import once
            measured = dict(zip(
                [each.name for each in entries],
                rounds.interleave([(each, case) for each in entries], arguments.rounds),
                strict=True))
            rounds.expect_one_usage([row for rows in measured.values() for row in rows], shape)
            told[shape] = figures(measured, arguments.packets)
    for shape, ways in told.items():
        for name, row in ways.items():
            print(f"{shape:16}{name:16}{row['wall_ns']:>8.1f} ns/packet by the wall, "
                  f"{row['cpu_ns']:>6.1f} of CPUs; × one thread: wall {row['wall_ratio']:.2f}, "
                  f"CPUs {row['cpu_ratio']:.2f}, the busiest process {row['busiest_ratio']:.2f}")
    words = ["python", "-m", "benchmarks.bench_cluster", "--packets", str(arguments.packets),
             "--subscribers", str(arguments.subscribers), "--rounds", str(arguments.rounds)]
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    results.append(target, "cluster", shlex.join(words), traffic,
                   load=round(os.getloadavg()[0], 1), results=told)


if __name__ == "__main__":
    main()
