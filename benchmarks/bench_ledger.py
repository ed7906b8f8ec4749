"""How many transfers a second a ledger takes, each of them on the disk when it is told.

Subscribers are charged, all of them to the sponsor's account: the hottest there is. Ways take turns
round by round; of every round it is checked that all was booked, and that the books hold.

    batch    transfers in batches, each one transaction
    group    many threads, each waiting for one transfer at a time; they share commits
    single   one after the other, each with a commit of its own
    records  usage records with their charges, in batches as a live run posts them
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from benchmarks import results
from tollsplit.ledger import Provenance, Run, Teller, Transfer, open_ledger
from tollsplit.ledger.store import instant_ns
from tollsplit.model import Charge, Posting, UsageRecord

UNIT = "CNY/1000000"
SPONSOR, SUBSCRIBERS = "sponsor:video-co", 10_000
START = datetime(2026, 11, 3, tzinfo=UTC)
SMOKE = {"transfers": 400, "singles": 20, "records": 400, "batch": 100, "threads": 8}
ROUND_NUMBERS = count()  # no key is used twice


def transfer(number: int, round_: int) -> Transfer:
    subscriber = f"subscriber {number * 7_919 % SUBSCRIBERS}"
    return Transfer(
        f"{round_}-{number}", "charge",
        (Posting(subscriber, UNIT, -7), Posting(SPONSOR, UNIT, 7)), "usage of a service",
        Provenance(f"request {number}", None, "standard"),
    )  # fmt: skip


Times = tuple[int, int]  # wall and CPU, in ns


def now() -> Times:
    return time.monotonic_ns(), time.process_time_ns()


def since(began: Times) -> Times:
    wall, cpu = now()
    return wall - began[0], cpu - began[1]


# --- ways, each books so many and says how long it took ---------------------------------


def batch(url: str, transfers: int, size: int) -> Times:
    round_ = next(ROUND_NUMBERS)
    with open_ledger(url) as ledger:
        began = now()
        for first in range(0, transfers, size):
            ledger.transfer_all(
                transfer(number, round_) for number in range(first, min(first + size, transfers))
            )
        return since(began)


def single(url: str, transfers: int) -> Times:
    round_ = next(ROUND_NUMBERS)
    with open_ledger(url) as ledger:
        began = now()
        for number in range(transfers):
            ledger.transfer(transfer(number, round_))
        return since(began)


def group(url: str, transfers: int, threads: int) -> Times:
    round_ = next(ROUND_NUMBERS)

    def call(teller: Teller, first: int) -> None:
        for number in range(first, transfers, threads):
            asked = transfer(number, round_)
            teller.do(lambda ledger: ledger.transfer(asked))  # noqa: B023 - done before the next

    with Teller(partial(open_ledger, url)) as teller:
        callers = [Thread(target=call, args=(teller, first)) for first in range(threads)]
        began = now()
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        return since(began)


def records(url: str, records: int, size: int) -> Times:
    round_ = next(ROUND_NUMBERS)
    run = partial(Run, "sensor", str(round_), "sha256:rules", "ip", "inner", "benchmark",
                  sponsor_accounts={"video-co": SPONSOR})  # fmt: skip
    with open_ledger(url) as ledger:
        began = now()
        for first in range(0, records, size):
            numbers = range(first, min(first + size, records))
            ledger.post(
                run(first_sequence=first), (usage(number, round_) for number in numbers),
                (charge(number) for number in numbers),
            )  # fmt: skip
        return since(began)


def usage(number: int, round_: int) -> UsageRecord:
    hour = START + timedelta(hours=number // SUBSCRIBERS)
    name = f"subscriber {number % SUBSCRIBERS}"
    return UsageRecord(
        "sensor", str(round_), number, hour, hour + timedelta(hours=1), name, name, "video",
        "sha256:rules", 100, "video-co", None, "ip", 2, 400, 3, 600, 300, {"video-co": 700},
        instant_ns(hour), instant_ns(hour) + 1,
    )  # fmt: skip


def charge(number: int) -> Charge:
    name = f"subscriber {number % SUBSCRIBERS}"
    return Charge(name, "CNY", 87, "standard", 300, 1_024, START, (1, 3))


# --- rounds ------------------------------------------------------------------------------


def measure(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """For each way its figures, over all rounds."""
    ways: dict[str, tuple[int, Callable[[], Times]]] = {
        "batch": (arguments.transfers, partial(batch, url, arguments.transfers, arguments.batch)),
        "group": (arguments.transfers, partial(group, url, arguments.transfers, arguments.threads)),
        "single": (arguments.singles, partial(single, url, arguments.singles)),
        "records": (arguments.records, partial(records, url, arguments.records, arguments.batch)),
    }
    open_accounts(url)
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (_, way) in ways.items():
            times[name].append(way())
    checksum = expect(url, arguments)
    return {
        name: {**figures([(wall / number, cpu / number) for wall, cpu in times[name]]),
               "checksum": checksum}
        for name, (number, _) in ways.items()
    }  # fmt: skip


def figures(rounds: list[tuple[float, float]]) -> dict[str, Any]:
    walls = [wall for wall, _ in rounds]
    return {
        "n": len(rounds), "best_ns": round(min(walls)), "median_ns": round(median(walls)),
        "median_cpu_ns": round(median(cpu for _, cpu in rounds)),
        "per_second": round(1e9 / median(walls)), "best_per_second": round(1e9 / min(walls)),
    }  # fmt: skip


def open_accounts(url: str) -> None:
    with open_ledger(url) as ledger, ledger.atomic():
        for number in range(SUBSCRIBERS):
            ledger.open_account(f"subscriber {number}", UNIT, "subscriber", floor=-(10**12))
        ledger.open_account(SPONSOR, UNIT, "sponsor")


def expect(url: str, arguments: argparse.Namespace) -> str:
    """A checksum of all balances; raises SystemExit where they are not what was asked for."""
    rounds = arguments.rounds
    with open_ledger(url) as ledger:
        if findings := ledger.verify().findings:
            raise SystemExit(f"the books do not hold: {findings[0]}")
        charged = 7 * rounds * (2 * arguments.transfers + arguments.singles)
        used = 1_000 * rounds * arguments.records
        traffic = ledger.balance("operator:traffic", "octet")
        found = (ledger.balance(SPONSOR, UNIT).balance, traffic.balance)
        if found != (charged, used):
            raise SystemExit(f"booked {found}, expected {(charged, used)}")
        text = repr([(b.account, b.unit, b.balance) for b in ledger.balances()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def table(measured: dict[str, Any]) -> str:
    rows = [f"{'':10}{'a second':>12}{'best':>12}{'µs each':>10}{'µs CPU':>10}  checksum"]
    for name, row in measured.items():
        rows.append(f"{name:10}{row['per_second']:>12,}{row['best_per_second']:>12,}"
                    f"{row['median_ns'] / 1000:>10.1f}{row['median_cpu_ns'] / 1000:>10.1f}"
                    f"  {row['checksum']}")  # fmt: skip
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfers", type=int, default=20_000, help="a round, batches and groups")
    parser.add_argument("--singles", type=int, default=500, help="a round, one after the other")
    parser.add_argument("--records", type=int, default=20_000, help="a round")
    parser.add_argument("--batch", type=int, default=1_000, help="transfers or records of one")
    parser.add_argument("--threads", type=int, default=128, help="that wait for transfers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--url", help="an empty ledger; default: SQLite, in the temporary folder")
    parser.add_argument("--smoke", action="store_true", help="some hundreds, one round")
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
        measured = measure(url, arguments)
    print(table(measured))
    words = ["python", "-m", "benchmarks.bench_ledger", "--rounds", str(arguments.rounds)]
    for name in SMOKE:
        words += [f"--{name}", str(getattr(arguments, name))]
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    sizes = {name: getattr(arguments, name) for name in SMOKE}
    results.append(target, "ledger", shlex.join(words), sizes,
                   store=url.partition(":")[0], results=measured)  # fmt: skip


if __name__ == "__main__":
    main()
