"""tollsplit's live job, from the first frame until the books are closed.

    python -m benchmarks.live_job INTERFACE RULES --workers N --ledger FOLDER

Says "ready" when packets may come, runs a gateway as the command line does until standard input
ends, and prints one JSON object: CPU by thread, and what was counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.job import peak_octets, settle_environment


class ClockedLane:
    """A lane that notes its thread's time when its turns end, and the whole process's then."""

    def __init__(self, lane: Any) -> None:
        self._lane = lane
        self.thread_ns = self.process_ns = 0

    def turns(self, timeout_s: float) -> Iterator[Any]:
        since = time.thread_time_ns()
        yield from self._lane.turns(timeout_s)
        self.thread_ns = time.thread_time_ns() - since
        self.process_ns = time.process_time_ns()

    def wake(self) -> None:
        self._lane.wake()


class ClockedFrames:
    """A live capture whose lanes are clocked."""

    def __init__(self, live: Any) -> None:
        self.lanes = [ClockedLane(lane) for lane in live.lanes]
        self.watch = live.watch
        self.stop = live.stop


def measure(
    interface: str, rules_path: str, workers: int, folder: Path | None, watched: bool
) -> dict[str, Any]:
    """Meter an interface until standard input ends.

    folder    for ledger and journal; None: nothing is booked
    watched   snapshots are made, as for a view or metrics
    """
    from tollsplit.capture.live import LiveCapture
    from tollsplit.gateway import Gateway, Options
    from tollsplit.rules import load

    rules = load(rules_path)
    live = LiveCapture([interface], workers=workers)
    frames = ClockedFrames(live)
    options = Options((interface,), watched=watched)
    if folder is not None:
        options = dataclasses.replace(
            options, ledger=f"sqlite:///{folder}/ledger.db", journal=folder / "journal")
    looks: list[int] = []

    def lost() -> tuple[int, int]:
        found = live.lost()
        return found.kernel, found.interface

    gateway = Gateway(frames, rules, options, lost=lost,
                      look=lambda snapshot: looks.append(snapshot.taken_at_ns))

    def stop_at_end() -> None:
        sys.stdin.read()
        gateway.stop()

    threading.Thread(target=stop_at_end, daemon=True).start()
    print("ready", flush=True)
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    gateway.run()
    ended, wall = time.process_time_ns(), time.monotonic_ns() - wall
    kernel, interface_lost = lost()
    live.close()
    latest = gateway.latest
    assert latest is not None
    if not latest.identity_holds or latest.booking_error:
        raise SystemExit(f"live_job: the books do not balance: {latest.booking_error}")
    counting = max(lane.process_ns for lane in frames.lanes)
    walking = sum(lane.thread_ns for lane in frames.lanes)
    return {
        "packets": latest.seen.packets,
        "octets": latest.metered.octets,
        "subscriber_octets": latest.subscriber_octets,
        "lost": kernel,
        "interface_lost": interface_lost,
        "cpu_ns": counting - cpu,
        "thread_ns": walking,
        "flush_ns": counting - cpu - walking,
        "ending_ns": ended - counting,
        "wall_ns": wall,
        "looks": len(looks),
        "booked_records": latest.booked_records,
        "resident_octets": peak_octets(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interface")
    parser.add_argument("rules")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--watched", action="store_true")
    arguments = parser.parse_args()
    settle_environment()
    print(json.dumps(measure(arguments.interface, arguments.rules, arguments.workers,
                             arguments.ledger, arguments.watched)))


if __name__ == "__main__":
    main()
