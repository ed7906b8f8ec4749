"""How many usage records a second go through a broker into a ledger, and directly into it.

Gateways have left batches in their journals. Ways take turns round by round, each into sources of
its own; of every round it is checked that each octet is booked once, and at last that the books
hold. It needs nats-server, which it starts on loopback.

    direct     the batches booked as a gateway's own delivery does
    publish    the batches handed to the broker
    ingest     what was published, taken in by one process
    together   the same by two processes at once
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from tollsplit.broker.address import Address, connected, parse_url
from tollsplit.broker.dispatch import Dispatch
from tollsplit.broker.ingest import Ingester
from tollsplit.broker.streams import create
from tollsplit.cext.reader import Reader
from tollsplit.engine.journal import Head, Journal, read
from tollsplit.engine.live import Generation
from tollsplit.gateway.booking import book
from tollsplit.ledger import open_ledger
from tollsplit.rules import RuleSet, load

RULES = """\
[meter]
window = "1h"
tunnel_endpoints = []
[[pools]]
prefixes = ["10.0.0.0/8"]
[sponsors.video-co]
[[rules]]
id = "paid"
precedence = 1
match = { server = ["203.0.113.0/24"] }
split = { sponsor = "video-co", share = "70%" }
[tariffs.standard]
currency = "CNY"
price = "0.29 CNY / MiB"
"""
FILE = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101)  # nanoseconds, raw IP
BEGAN_S = 1_793_664_000  # 2026-11-03
OCTETS, SERVER = 640, 0xCB007101
SMOKE = {"records": 60, "batches": 3}
ROUND_NUMBERS = count()  # no key is used twice


def packet(at_s: int, subscriber: int) -> bytes:
    frame = struct.pack(">BBHHHBBHII", 0x45, 0, OCTETS, 0, 0, 64, 17, 0, subscriber, SERVER)
    frame += struct.pack(">HHHH", 1000, 443, OCTETS - 20, 0)
    return struct.pack("<IIII", at_s, 0, len(frame), OCTETS) + frame


def journal(folder: Path, rules: RuleSet, batches: int, records: int) -> list[Path]:
    """A gateway's hours, a batch each, every subscriber once in each."""
    source = f"gateway {next(ROUND_NUMBERS)}"
    paths = []
    with closing(Journal(folder / source, ("lo",))) as segments:
        for hour in range(batches):
            generation = Generation(rules)
            meter, reader = generation.meter(), Reader()
            at_s = BEGAN_S + 3_600 * hour
            reader.feed(FILE + b"".join(
                packet(at_s, 0x0A000001 + number) for number in range(records)), True)
            meter.run(reader)
            segment = segments.create(Head(source, "1", hour * records, "benchmark", rules))
            segment.add(generation, meter)
            segment.seal(records)
            paths.append(segment.path)
    return paths


# --- ways, each says how long it took, in ns ----------------------------------------------


def direct(paths: list[Path], url: str) -> int:
    with open_ledger(url) as ledger:
        began = time.monotonic_ns()
        for path in paths:
            book(ledger, read(path))
        return time.monotonic_ns() - began


def publish(paths: list[Path], address: Address) -> int:
    dispatch = Dispatch(address, "benchmark", paths, lambda happened: None)
    began = time.monotonic_ns()
    dispatch.start()
    while not dispatch.is_through:
        time.sleep(0.001)
    took = time.monotonic_ns() - began
    dispatch.finish(lambda: True)
    return took


def ingest(address: Address, url: str, processes: int) -> int:
    began = time.monotonic_ns()
    children = [_ingester(address, url) for _ in range(processes)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    took = time.monotonic_ns() - began
    if any(codes):
        raise SystemExit(f"ingesters ended with {codes}")
    return took


def _ingester(address: Address, url: str) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(Ingester(address, url, print).run(until_empty=True))
            code = 0
        finally:
            os._exit(code)
    return child


# --- rounds ------------------------------------------------------------------------------


@contextmanager
def broker(folder: Path) -> Iterator[Address]:
    program = shutil.which("nats-server")
    if program is None:
        raise SystemExit("nats-server is not installed")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log, subprocess.Popen(
        [program, "--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir",
         str(folder / "store")], stderr=log, stdin=subprocess.DEVNULL,
    ) as server:
        try:
            while b"Server is ready" not in (folder / "log").read_bytes():
                time.sleep(0.01)
            yield parse_url(f"nats://127.0.0.1:{port}")
        finally:
            server.kill()


def measure(url: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """For each way its figures, over all rounds."""
    (folder / "rules.toml").write_text(RULES)
    rules = load(folder / "rules.toml")
    batches, records = arguments.batches, arguments.records // arguments.batches
    times: dict[str, list[int]] = {name: [] for name in ("direct", "publish", "ingest", "together")}

    def left() -> list[Path]:
        return journal(folder, rules, batches, records)

    with broker(folder) as address:
        asyncio.run(_make_streams(address))
        with open_ledger(url):  # the tables are there
            pass
        for _ in range(arguments.rounds):
            times["direct"].append(direct(left(), url))
            for name, processes in (("ingest", 1), ("together", 2)):
                times["publish"].append(publish(left(), address))
                times[name].append(ingest(address, url, processes))
    expect(url, 3 * arguments.rounds * batches * records)
    return {name: figures([took / (batches * records) for took in each])
            for name, each in times.items()}


async def _make_streams(address: Address) -> None:
    async with connected(address, "benchmark") as (_, context):
        await create(context, address.stream, 8 << 30, 1)


def expect(url: str, records: int) -> None:
    """Raises SystemExit where not each octet is booked once."""
    with open_ledger(url) as ledger:
        if findings := ledger.verify().findings:
            raise SystemExit(f"the books do not hold: {findings[0]}")
        found = ledger.balance("operator:traffic", "octet").balance
    if found != OCTETS * records:
        raise SystemExit(f"booked {found} octets, expected {OCTETS * records}")


def figures(rounds: list[float]) -> dict[str, Any]:
    return {"n": len(rounds), "best_ns": round(min(rounds)), "median_ns": round(median(rounds)),
            "per_second": round(1e9 / median(rounds)), "best_per_second": round(1e9 / min(rounds))}


def table(measured: dict[str, Any]) -> str:
    rows = [f"{'':10}{'records a second':>18}{'best':>12}{'µs each':>10}"]
    for name, row in measured.items():
        rows.append(f"{name:10}{row['per_second']:>18,}{row['best_per_second']:>12,}"
                    f"{row['median_ns'] / 1000:>10.1f}")
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=60_000, help="a round and way")
    parser.add_argument("--batches", type=int, default=6, help="that these are in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--url", help="an empty ledger; default: SQLite, in the temporary folder")
    parser.add_argument("--smoke", action="store_true", help="some dozens, one round")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere")
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE, rounds=1)
    return arguments


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.url or f"sqlite:///{folder}/ledger.db"
        measured = measure(url, arguments, Path(folder))
    print(table(measured))
    words = ["python", "-m", "benchmarks.bench_broker", "--rounds", str(arguments.rounds)]
    for name in SMOKE:
        words += [f"--{name}", str(getattr(arguments, name))]
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    results.append(target, "broker", shlex.join(words),
                   {name: getattr(arguments, name) for name in SMOKE},
                   store=url.partition(":")[0], load=round(os.getloadavg()[0], 1),
                   results=measured)


if __name__ == "__main__":
    main()
