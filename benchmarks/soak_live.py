"""A live capture for minutes, of subscribers that come and go; its memory, and its books.

The command itself runs on a loaded interface, in a network namespace of its own, with windows of
seconds and a ledger. Each time round the sender's subscribers are others. Memory is sampled while
it runs; at the end the ledger is verified, and what it holds is compared with what was sent.
Needs root and two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.bench_live import READER, SENDER, compile_load, on_cores, veth_pair
from benchmarks.traffic import TRAFFIC, Case, generate

SMOKE_S, SMOKE_WINDOW_S = 4, 1
SAMPLE_S = 1.0
# Of the samples: until then caches and tables find their size.
WARM = 0.25
ENDING_S = 60


def resident_octets(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(process: int) -> float:
    """User and system time of all threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def soak(case: Case, folder: Path, rounds: int, rate: int, window_s: int) -> dict[str, Any]:
    """Send the capture round and round; what the command held, used and booked."""
    url = f"sqlite:///{folder / 'ledger.db'}"
    said = folder / "said"
    cores = sorted(os.sched_getaffinity(0))
    samples: list[tuple[float, int]] = []
    with veth_pair() as enter, said.open("wb") as standard_error:
        program = compile_load(folder)
        command = [*enter, sys.executable, "-m", "tollsplit", "capture", READER, "--rules",
                   str(case.rules), "--ledger", url]
        with subprocess.Popen(command, cwd=results.ROOT, stdout=subprocess.DEVNULL,
                              stderr=standard_error) as capture:
            try:
                while b"captured from now on" not in said.read_bytes():
                    if capture.poll() is not None:
                        raise SystemExit(f"soak_live: {said.read_text()}")
                    time.sleep(0.05)
                # Addresses move each round; in so many none comes again.
                send = [*enter, *on_cores(cores[-1:]), str(program), "send", SENDER,
                        str(case.capture), str(rounds * case.truth.packets), "86400", str(rate),
                        "1"]
                since_s = time.monotonic()
                with subprocess.Popen(send, stdout=subprocess.PIPE, text=True) as sender:
                    while sender.poll() is None:
                        with suppress(subprocess.TimeoutExpired):
                            sender.wait(SAMPLE_S)
                        if capture.poll() is not None:
                            sender.kill()
                            raise SystemExit(f"soak_live: it ended: {said.read_text()}")
                        samples.append((time.monotonic() - since_s, resident_octets(capture.pid)))
                    assert sender.stdout is not None
                    sent, refused, *_ = map(int, sender.stdout.read().split())
                # SIGTERM leaves to the next run what is not booked within a second.
                time.sleep(window_s + 1)
                wait_for_books(folder)
                used_s = cpu_s(capture.pid)
                since_s = time.monotonic()
                capture.send_signal(signal.SIGTERM)
                capture.wait(ENDING_S)
                ended_s = time.monotonic() - since_s
            except BaseException:
                capture.kill()
                raise
        if capture.returncode:
            raise SystemExit(f"soak_live: {said.read_text()}")
    return {"sent": sent, "refused": refused, "cpu_ns": round(used_s * 1e9),
            "ended_s": round(ended_s, 2), **memory(samples),
            **booked(folder / "ledger.db", rounds * case.truth.ip_octets)}


def wait_for_books(folder: Path) -> None:
    """Until one segment is left, which is the one being written."""
    until_s = time.monotonic() + ENDING_S
    while len(list((folder / "ledger.db.journal").glob("*.segment"))) > 1:
        if time.monotonic() > until_s:
            raise SystemExit(f"soak_live: is not booked: {(folder / 'said').read_text()}")
        time.sleep(0.2)


def memory(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """How resident memory went once all was warm: MiB, and MiB an hour of the line through it."""
    at_s, octets = (np.array(column, float) for column in zip(*samples, strict=True))
    warm = at_s >= WARM * at_s[-1]
    mib = octets[warm] / 2**20
    slope = np.polyfit(at_s[warm], mib, 1)[0] if warm.sum() > 2 else 0.0
    third = max(1, len(mib) // 3)
    return {
        "lasted_s": round(float(at_s[-1]), 1),
        "samples": len(samples),
        "resident_mib": {
            "first": round(float(np.median(mib[:third])), 1),
            "last": round(float(np.median(mib[-third:])), 1),
            "most": round(float(octets.max()) / 2**20, 1),
        },
        "slope_mib_h": round(float(slope) * 3600, 1),
    }


def booked(path: Path, octets: int) -> dict[str, Any]:
    """Verify the ledger, and compare it with what was sent."""
    from tollsplit.ledger import open_ledger

    with open_ledger(f"sqlite:///{path}", create=False) as book:
        verified = book.verify()
    if not verified.holds:
        raise SystemExit(f"soak_live: {'; '.join(verified.findings)}")
    with closing(sqlite3.connect(path)) as rows:
        records, subscribers, found = rows.execute(
            "SELECT count(*), count(DISTINCT subscriber), sum(uplink_octets + downlink_octets) "
            "FROM usage_records").fetchone()
    if found != octets:
        raise SystemExit(f"soak_live: {octets:,} octets sent, {found:,} booked")
    return {"booked_octets": found, "booked_records": records, "subscribers": subscribers}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--rate", type=int, default=10_000, help="packets a second")
    parser.add_argument("--subscribers", type=int, default=5_000, help="at once")
    parser.add_argument("--round", type=int, default=10, help="seconds until they are others")
    parser.add_argument("--window", type=int, default=5, help="seconds")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_S} seconds")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.seconds, arguments.round, arguments.window = SMOKE_S, 1, SMOKE_WINDOW_S
    return arguments


def main() -> None:
    arguments = parse()
    if os.geteuid() != 0:
        raise SystemExit("soak_live: needs root, for a network namespace of its own")
    rounds = max(1, arguments.seconds // arguments.round)
    traffic = dataclasses.replace(
        TRAFFIC["min64"], name="soak", packets=arguments.rate * arguments.round,
        subscribers=arguments.subscribers, encapsulation="mixed", window=f"{arguments.window}s",
        rated=True)
    with tempfile.TemporaryDirectory() as temporary:
        case = generate(traffic, Path(temporary))
        # A price by the day goes on from all charges of the day: each window's booking would cost
        # more than the last one's, which is the ledger's to answer for and not the capture's.
        case.rules.write_text(case.rules.read_text().replace(
            'rounding_per = "day"', 'rounding_per = "record"'))
        found = soak(case, Path(temporary), rounds, arguments.rate, arguments.window)
    for name, value in found.items():
        print(f"{name:16}{value:>16,}" if isinstance(value, int | float) else f"{name:16}{value}")
    words = ["python", "-m", "benchmarks.soak_live", "--seconds", str(arguments.seconds),
             "--rate", str(arguments.rate), "--subscribers", str(arguments.subscribers),
             "--round", str(arguments.round), "--window", str(arguments.window)]
    results.append(arguments.results or (None if arguments.smoke else results.RESULTS),
                   "soak", shlex.join(words), traffic, results=found)


if __name__ == "__main__":
    main()
