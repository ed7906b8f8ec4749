"""One gateway of a thousand for some hours, from packets to booked records (docs/scale.md).

A thousandth of 10 million subscribers, 1,000 gateways and 1 Tbit/s: 10,000 subscribers behind one
gateway that carries 1 Gbit/s. Of each hour some seconds' worth of packets are metered, spread over
the hour so that every subscriber has his records; what a packet costs is measured, what an hour of
them costs follows. Records are whole: all of an hour's are rated, posted and on the disk.
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.job import Stopwatch, peak_octets, settle_environment
from benchmarks.traffic import Traffic, generate

GATEWAY_BIT_S = 1e9
SUBSCRIBERS = 10_000
SPONSORS = 4  # whose servers each subscriber has been at within the hour


def traffic(hours: int, packets: int, subscribers: int) -> Traffic:
    """IMIX in flows, all prefixes visited."""
    return Traffic("scale", hours * packets, subscribers=subscribers, zipf=0.0, rules=SPONSORS,
                   imix=True, flows=True, rated=True, duration_s=3_600 * hours)  # fmt: skip


def measure(hours: int, packets: int, subscribers: int, url: str, folder: Path) -> dict[str, Any]:
    """What the whole chain took, by packets, records and octets on the disk."""
    from tollsplit import run
    from tollsplit.ledger import Ledger, open_ledger

    case = generate(traffic(hours, packets, subscribers), folder)
    watch = Stopwatch()
    watch.watch(run, "meter")
    watch.watch(run, "rate")
    watch.watch(Ledger, "post")
    with open_ledger(url):  # the tables are there
        pass
    before = size(url)
    wall = time.monotonic_ns()
    report = run.account([str(case.capture)], str(case.rules), ledger=url)
    wall = time.monotonic_ns() - wall
    records = len(report.usage)
    if not report.identity_holds or report.seen.octets != case.truth.ip_octets:
        raise SystemExit(f"seen {report.seen}, expected {case.truth.ip_octets} octets")
    with open_ledger(url) as ledger:
        if findings := ledger.verify().findings:
            raise SystemExit(f"the books do not hold: {findings[0]}")
    seen = report.seen.packets
    return {
        "packets": seen,
        "octets_a_packet": round(report.seen.octets / seen, 1),
        "packet_ns": round(watch.cpu_ns["meter"] / seen, 1),
        "records": records,
        "records_an_hour": records // hours,
        "record_us": round((watch.cpu_ns["rate"] + watch.cpu_ns["post"]) / records / 1e3, 1),
        "record_octets": round((size(url) - before) / records),
        "resident_octets": peak_octets(),
        "wall_s": round(wall / 1e9, 2),
    }


def size(url: str) -> int:
    """Octets of a ledger on the disk."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
    import psycopg

    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert found is not None
    return int(found[0])


def scaled(row: dict[str, Any], gateways: int = 1_000) -> list[tuple[str, str]]:
    """What a thousand of them come to."""
    packets_s = GATEWAY_BIT_S / 8 / row["octets_a_packet"]
    records_s = row["records_an_hour"] / 3_600 * gateways
    cores = packets_s * row["packet_ns"] / 1e9
    return [
        ("packets a second at 1 Gbit/s", f"{packets_s:,.0f}"),
        ("cores for metering them", f"{cores:.3f}"),
        ("cores of a thousand for metering", f"{cores * gateways:,.0f}"),
        ("records a second of a thousand, over the hour", f"{records_s:,.0f}"),
        ("cores for rating and booking those", f"{records_s * row['record_us'] / 1e6:.2f}"),
        ("minutes of one core for an hour's records",
         f"{records_s * 3_600 * row['record_us'] / 60e6:.1f}"),
        ("records a day of a thousand", f"{records_s * 86_400:,.0f}"),
        ("TB a day in ledgers", f"{records_s * 86_400 * row['record_octets'] / 1e12:.2f}"),
    ]  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=3)
    parser.add_argument("--packets", type=int, default=1_000_000, help="metered of each hour")
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument(
        "--url", help="an empty ledger; default: SQLite, in the temporary folder")
    parser.add_argument("--smoke", action="store_true", help="some hundreds")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere")
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(hours=2, packets=2_000, subscribers=100)
    return arguments


def main() -> None:
    arguments = parse()
    settle_environment()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.url or f"sqlite:///{folder}/ledger.db"
        row = measure(arguments.hours, arguments.packets, arguments.subscribers, url, Path(folder))
    for name, value in [*((name, f"{value:,}") for name, value in row.items()), *scaled(row)]:
        print(f"{name:44}{value:>16}")
    words = ["python", "-m", "benchmarks.bench_scale", "--hours", str(arguments.hours),
             "--packets", str(arguments.packets), "--subscribers", str(arguments.subscribers)]
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    results.append(target, "scale", shlex.join(words),
                   traffic(arguments.hours, arguments.packets, arguments.subscribers),
                   store=url.partition(":")[0], load=round(os.getloadavg()[0], 1), results=row)


if __name__ == "__main__":
    main()
