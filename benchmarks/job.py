"""tollsplit's own job, from before the capture is opened until its usage records stand.

    python -m benchmarks.job CAPTURE... RULES --workers N | --cluster URL

Runs it in this process as the command line does, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

RULE_COLUMNS = ("uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets")


def settle_environment() -> None:
    """Let the command line set what NumPy reads once, before anything here imports NumPy."""
    from tollsplit.cli import main

    with contextlib.redirect_stdout(io.StringIO()):
        main(["--version"])


class Stopwatch:
    """CPU nanoseconds spent inside named functions: of all threads, and the most in one call of
    the thread that made it."""

    def __init__(self) -> None:
        self.cpu_ns: dict[str, int] = {}
        self.most_ns: dict[str, int] = {}

    def watch(self, module: Any, name: str) -> None:
        """Time every call of module.name from now on."""
        step = getattr(module, name)
        self.cpu_ns[name] = self.most_ns[name] = 0

        def timed(*arguments: Any, **options: Any) -> Any:
            start, own = time.process_time_ns(), time.thread_time_ns()
            try:
                return step(*arguments, **options)
            finally:
                self.cpu_ns[name] += time.process_time_ns() - start
                self.most_ns[name] = max(self.most_ns[name], time.thread_time_ns() - own)

        setattr(module, name, timed)


def peak_octets() -> int:
    """The most memory that this process held. getrusage's figure starts with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def measure(
    captures: list[str], rules: str, workers: int, cluster: str | None = None
) -> dict[str, Any]:
    """Account captures in this process; where the time went, and what came out.

    Of what a cluster does only the wall's clock says something.
    """
    from tollsplit import run
    from tollsplit.engine import pipeline

    watch = Stopwatch()
    watch.watch(run, "load")
    watch.watch(run, "meter")
    watch.watch(pipeline, "Compiled")
    watch.watch(pipeline, "tally")
    watch.watch(pipeline, "_run_in_order")
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    report = run.account(captures, rules, workers=workers, cluster=cluster)
    columns = report.usage.columns()
    cpu, wall = time.process_time_ns() - cpu, time.monotonic_ns() - wall
    resident_octets = peak_octets()
    rules_cpu_ns = watch.cpu_ns["load"] + watch.cpu_ns["Compiled"]
    packets_cpu_ns = watch.cpu_ns["meter"] - watch.cpu_ns["Compiled"] - watch.cpu_ns["tally"]
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + columns[name].tobytes())
    return {
        "packets": report.seen.packets,
        "octets": report.seen.octets,
        "cpu_ns": cpu,
        "wall_ns": wall,
        "checksum": digest.hexdigest()[:16],
        "identity": report.identity_holds,
        "rules": by_rule(columns),
        "records": len(report.usage),
        "resident_octets": resident_octets,
        "rules_cpu_ns": rules_cpu_ns,
        "packets_cpu_ns": packets_cpu_ns,
        "records_cpu_ns": cpu - rules_cpu_ns - packets_cpu_ns,
        # of the worker that had most to do, where each goes through all frames
        "busiest_cpu_ns": watch.most_ns["_run_in_order"],
    }


def by_rule(columns: dict[str, Any]) -> dict[str, list[float]]:
    """Packets and octets of each rule, as Truth.rules has them."""
    import numpy as np

    from benchmarks.agreement import rule_name

    sums = [np.bincount(columns["rule"], columns[name]).tolist() for name in RULE_COLUMNS]
    # Precedence numbers the rules; 0 is none of them.
    return {rule_name(rule - 1): list(figures)
            for rule, figures in enumerate(zip(*sums, strict=True)) if any(figures)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captures", nargs="+")
    parser.add_argument("rules")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cluster")
    arguments = parser.parse_args()
    settle_environment()
    print(json.dumps(measure(
        arguments.captures, arguments.rules, arguments.workers, arguments.cluster)))


if __name__ == "__main__":
    main()
