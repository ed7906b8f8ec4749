"""A ring that is walked, next to a bare reader that only counts, under the same load.

A generator on one core sends frames through a pair of veth devices, in a network namespace of its
own, as fast as they take them; the contender reads on another core. Contenders take turns round
by round. Of every round it is checked that what was sent is what was seen and what the kernel says
was lost. Needs root and two cores.

    bare     benchmarks/load.c, a TPACKET_V3 reader that adds up the lengths
    ring     capture.live: tollsplit's ring, each frame pointed at and its length added up
    record   the same, and each frame is kept in a pcapng file; what that costs the thread that
             walks is told apart from what the thread that writes takes beside it
    overrun  ring, far too small on purpose
    count    the whole engine: a gateway that flushes each second, one worker
    watched  the same, with snapshots for a view or metrics
    book     with journal and ledger
    two, two-book
             count and book by two workers, which share the second core with the sender

The engine's CPU is that of all its threads from the first frame until the last is counted, apart
from what closing the books at the end takes, which is paid by the usage record and not by the
packet: `ending`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.traffic import TRAFFIC, Case, Truth, generate
from tollsplit.limits import RING_BLOCK_OCTETS, RING_BLOCKS, RING_SNAP_OCTETS

SENDER, READER = "load0", "load1"
OVERRUN_BLOCK_OCTETS, OVERRUN_BLOCKS = 4096, 2
SMOKE_PACKETS = 50_000
KEPT = "kept.pcapng"
# The whole engine: how many workers, and what else it is asked for.
ENGINE: dict[str, tuple[int, frozenset[str]]] = {
    "count": (1, frozenset()),
    "watched": (1, frozenset({"watched"})),
    "book": (1, frozenset({"books"})),
    "two": (2, frozenset()),
    "two-book": (2, frozenset({"books"})),
}
CONTENDERS = ("bare", "ring", "record", "overrun", *ENGINE)
# What a whole round may take before it is given up.
ROUND_S = 60


# --- one measurement -------------------------------------------------------------------


def read_ring(block_octets: int, blocks: int, path: str | None) -> dict[str, int]:
    """Walk a ring until standard input ends; say "ready" when packets may come.

    path   of the file that frames are recorded in; None: they are not
    """
    from tollsplit.capture.live import LiveCapture
    from tollsplit.capture.packet_socket import RingOptions
    from tollsplit.capture.recording import Recording

    # Frames are shorter than either, so that what is copied is the same.
    snap_octets = min(RING_SNAP_OCTETS, block_octets // 2)
    options = RingOptions(block_octets=block_octets, blocks=blocks, snap_octets=snap_octets)
    recording = Recording(path, snap_octets, "benchmark") if path else None
    recorder = recording.recorder() if recording else None
    live = LiveCapture([READER], options=options, recording=recording)

    def stop_at_end() -> None:
        sys.stdin.read()
        live.stop()

    threading.Thread(target=stop_at_end, daemon=True).start()
    print("ready", flush=True)
    packets = octets = 0
    cpu, thread, wall = time.process_time_ns(), time.thread_time_ns(), time.monotonic_ns()
    for rings in live.lanes[0].turns(1.0):
        for ring in rings:
            walked, original = recorder.walk(ring) if recorder else ring.skip()
            packets += walked
            octets += original
    thread = time.thread_time_ns() - thread
    lost, counts = live.lost(), live.counts()
    live.close()
    if recording:
        recording.close(counts)
        if recording.failure or recording.frames != packets:
            raise SystemExit(f"record: {recording.frames:,} of {packets:,} frames are in the file: "
                             f"{recording.failure}")
    cpu, wall = time.process_time_ns() - cpu, time.monotonic_ns() - wall
    return {"packets": packets, "octets": octets, "lost": lost.kernel, "thread_ns": thread,
            "interface_lost": lost.interface, "cpu_ns": cpu, "wall_ns": wall}


def frames_in(path: Path) -> int:
    """How many frames a file holds, as accounting would read them."""
    from tollsplit.capture.file import open_capture

    reader = None
    for reader in open_capture(path).chunks(False):
        reader.skip()
    return reader.records if reader else 0


def compile_load(folder: Path) -> Path:
    program = folder / "load"
    subprocess.run(["gcc", "-O3", "-Wall", "-Wextra", "-Werror",
                    str(results.ROOT / "benchmarks" / "load.c"), "-o", str(program)], check=True)
    return program


@contextmanager
def veth_pair() -> Iterator[list[str]]:
    """A namespace with SENDER and READER and no traffic of its own; the command that enters it."""
    name = f"tollsplit-bench-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    enter = ["ip", "netns", "exec", name]
    try:
        quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
        subprocess.run([*enter, "sh", "-c", quiet], check=True)
        for command in (
            f"ip link add {SENDER} type veth peer name {READER}",
            f"ip link set {SENDER} up",
            f"ip link set {READER} up",
        ):
            subprocess.run([*enter, *command.split()], check=True)
        yield enter
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def on_cores(cores: Sequence[int]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores))]


def reader_command(contender: str, case: Case, program: Path) -> list[str]:
    """What reads; it says "ready", and its figures when its standard input has ended."""
    ring = RING_BLOCK_OCTETS, RING_BLOCKS
    if contender == "overrun":
        ring = OVERRUN_BLOCK_OCTETS, OVERRUN_BLOCKS
    sizes = [str(size) for size in ring]
    if contender == "bare":
        return [str(program), "count", READER, *sizes]
    if contender in ENGINE:
        workers, asked = ENGINE[contender]
        command = [sys.executable, "-m", "benchmarks.live_job", READER, str(case.rules),
                   "--workers", str(workers)]
        if "watched" in asked:
            command.append("--watched")
        if "books" in asked:
            command += ["--ledger", str(emptied(program.with_name("books")))]
        return command
    command = [sys.executable, "-m", "benchmarks.bench_live", "--measure", *sizes]
    return command + (["--into", str(program.with_name(KEPT))] if contender == "record" else [])


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def measure(enter: list[str], program: Path, contender: str, case: Case) -> dict[str, int]:
    """One round: a reader that is ready, the load, and what both say of it."""
    cores = sorted(os.sched_getaffinity(0))
    # Two workers take what the sender leaves of the second core.
    on = cores if contender.startswith("two") else cores[:1]
    with subprocess.Popen(
            [*enter, *on_cores(on), *reader_command(contender, case, program)],
            cwd=results.ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            if reader.stdout.readline() != "ready\n":
                raise SystemExit(f"{contender}: ended before it was ready")
            sender = subprocess.run(
                [*enter, *on_cores(cores[-1:]), str(program), "send", SENDER, str(case.capture),
                 str(case.truth.packets), str(ROUND_S), "0", "0"],
                check=True, stdout=subprocess.PIPE, text=True, timeout=2 * ROUND_S)
            said, _ = reader.communicate(timeout=2 * ROUND_S)
        except BaseException:
            reader.kill()
            raise
    sent, refused, _, sent_wall_ns = map(int, sender.stdout.split())
    if contender == "bare":
        names = "packets", "octets", "lost", "cpu_ns", "wall_ns"
        result = dict(zip(names, map(int, said.split()), strict=True))
    elif said:
        result = json.loads(said)
    else:
        raise SystemExit(f"{contender}: ended without a result")
    if contender == "record":
        kept = program.with_name(KEPT)
        if frames_in(kept) != result["packets"]:
            raise SystemExit(f"record: {frames_in(kept):,} frames in the file, "
                             f"{result['packets']:,} seen")
        kept.unlink()
    return result | {"sent": sent, "refused": refused, "sent_wall_ns": sent_wall_ns}


# --- rounds ----------------------------------------------------------------------------


def check(contender: str, result: dict[str, int], truth: Truth) -> None:
    """A fast wrong answer is no answer."""
    accounted = result["packets"] + result["lost"] + result.get("interface_lost", 0)
    if result["sent"] != accounted:
        raise SystemExit(f"{contender}: {result['sent']:,} sent, {result['packets']:,} seen and "
                         f"{result['lost']:,} lost")
    # Frames are all of one size, so that any number of them has known octets.
    octets = truth.ip_octets if contender in ENGINE else truth.captured_octets
    if result["octets"] * truth.packets != result["packets"] * octets:
        raise SystemExit(f"{contender}: {result['octets']:,} octets in {result['packets']:,} "
                         f"frames of {octets // truth.packets}")


def interleave(case: Case, folder: Path, rounds: int) -> dict[str, list[dict[str, int]]]:
    """All contenders in turn, round by round."""
    measured: dict[str, list[dict[str, int]]] = {name: [] for name in CONTENDERS}
    with veth_pair() as enter:
        program = compile_load(folder)
        for _ in range(rounds):
            for name, rows in measured.items():
                rows.append(measure(enter, program, name, case))
                check(name, rows[-1], case.truth)
    return measured


def per_packet(rows: list[dict[str, int]], what: str) -> float:
    """The median, in ns."""
    return round(median(row[what] / row["packets"] for row in rows), 2)


def summary(measured: dict[str, list[dict[str, int]]]) -> dict[str, Any]:
    """Per contender: CPU per packet, best and median, and the median of the ratios to bare."""
    figures: dict[str, Any] = {}
    for name, rows in measured.items():
        figures[name] = {
            "n": len(rows),
            "best_ns": round(min(row["cpu_ns"] / row["packets"] for row in rows), 2),
            "median_ns": per_packet(rows, "cpu_ns"),
            "sent_mpps": round(max(row["sent"] / row["sent_wall_ns"] for row in rows) * 1000, 3),
            "sent": sum(row["sent"] for row in rows),
            "seen": sum(row["packets"] for row in rows),
            "lost": sum(row["lost"] for row in rows),
            "interface_lost": sum(row.get("interface_lost", 0) for row in rows),
            "checksum": f"{sum(row['octets'] for row in rows):016x}",
        }
        if name != "overrun":
            figures[name]["ratio_to_bare"] = round(median(
                (ours["cpu_ns"] / ours["packets"]) / (bare["cpu_ns"] / bare["packets"])
                for ours, bare in zip(rows, measured["bare"], strict=True)), 2)
        if name in ENGINE:
            figures[name] |= {
                "walking_ns": per_packet(rows, "thread_ns"),
                "flush_ns": per_packet(rows, "flush_ns"),
                "ending_ns": per_packet(rows, "ending_ns"),
                "booked_records": sum(row["booked_records"] for row in rows),
                "resident_octets": max(row["resident_octets"] for row in rows),
            }
    for name, time_of in (("walking", "thread_ns"), ("both", "cpu_ns")):
        figures["record"][f"{name}_over_ring_ns"] = round(median(
            record[time_of] / record["packets"] - ring[time_of] / ring["packets"]
            for record, ring in zip(measured["record"], measured["ring"], strict=True)), 2)
    return figures


def table(figures: dict[str, Any]) -> str:
    rows = [f"{'':10}{'ns/packet':>10}{'best':>8}{'walking':>9}{'flush':>8}{'ending':>8}"
            f"{'Mpps sent':>11}{'sent':>12}{'seen':>12}{'lost':>12}{'× bare':>8}  checksum"]
    for name, row in figures.items():
        parts = "".join(f"{row[part]:>{width}.1f}" if part in row else " " * width for part, width
                        in (("walking_ns", 9), ("flush_ns", 8), ("ending_ns", 8)))
        ratio = f"{row['ratio_to_bare']:.2f}" if "ratio_to_bare" in row else ""
        rows.append(
            f"{name:10}{row['median_ns']:>10.1f}{row['best_ns']:>8.1f}{parts}"
            f"{row['sent_mpps']:>11.2f}{row['sent']:>12,}{row['seen']:>12,}{row['lost']:>12,}"
            f"{ratio:>8}  {row['checksum']}")
    record = figures["record"]
    rows.append(f"recording: {record['walking_over_ring_ns']:.1f} ns a packet on the thread that "
                f"walks, {record['both_over_ring_ns']:.1f} with the one that writes")
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=2_000_000, help="a round")
    parser.add_argument("--subscribers", type=int, nargs="+", default=[10_000, 1_000_000],
                        help="a sitting for each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_PACKETS} packets, one round")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere")
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--into", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.packets, arguments.rounds, arguments.subscribers = SMOKE_PACKETS, 1, [2_000]
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.measure:
        block_octets, blocks = arguments.measure
        print(json.dumps(read_ring(block_octets, blocks, arguments.into)))
        return
    if os.geteuid() != 0:
        raise SystemExit("bench_live: needs root, for a network namespace of its own")
    for subscribers in arguments.subscribers:
        traffic = dataclasses.replace(
            TRAFFIC["min64"], packets=arguments.packets, subscribers=subscribers)
        with tempfile.TemporaryDirectory() as temporary:
            case = generate(traffic, Path(temporary))
            figures = summary(interleave(case, Path(temporary), arguments.rounds))
        print(f"{subscribers:,} subscribers\n{table(figures)}")
        words = ["python", "-m", "benchmarks.bench_live", "--rounds", str(arguments.rounds),
                 "--packets", str(arguments.packets), "--subscribers", str(subscribers)]
        results.append(arguments.results or (None if arguments.smoke else results.RESULTS),
                       "live", shlex.join(words), traffic, results=figures)


if __name__ == "__main__":
    main()
