"""Books without end, for tests that end it; as a program it waits to be told where and what.

Each number stands for the same work whenever it is done: a payment, a hold that is captured or
voided, now and then a batch, a reversal, or a run of usage. Done again, it changes nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from itertools import count
from pathlib import Path
from threading import Thread

from bookings import MONEY, book_many, charge, record, run_of

from tollsplit.ledger import Hold, Ledger, Teller, Transfer, open_ledger
from tollsplit.model import Event, Posting

ACCOUNTS = [f"account {number}" for number in range(7)]
THREADS = 4
DAY_S = 86_400


def open_accounts(ledger: Ledger) -> None:
    with ledger.atomic():
        for name in ACCOUNTS:
            ledger.open_account(name, MONEY, "settlement", floor=-(10**9))


def postings(number: int) -> tuple[Posting, ...]:
    payer, payee = ACCOUNTS[number % 7], ACCOUNTS[(number + 1 + number % 5) % 7]
    amount = 1 + number % 13
    return Posting(payer, MONEY, -amount), Posting(payee, MONEY, amount)


def do(ledger: Ledger, number: int) -> None:
    posted = ledger.transfer(Transfer(f"t{number}", "payment", postings(number)))
    ledger.hold(Hold(f"h{number}", postings(number)[0].account, MONEY, 20, DAY_S))
    if number % 3:
        ledger.capture(f"h{number}", "payment", postings(number))
    elif number % 2:
        ledger.void(f"h{number}")
    if number % 5 == 0:
        ledger.reverse(posted.transaction, f"r{number}")
    if number % 7 == 0:
        ledger.transfer_all(
            Transfer(f"b{number}-{i}", "payment", postings(number + i)) for i in range(30))
    if number % 11 == 0:
        epoch = f"e{number}"
        used = {(name, MONEY): number % 17 for name in ACCOUNTS}
        ledger.reserve(run_of(epoch), used)
        ledger.post(run_of(epoch), [record(i, epoch=epoch) for i in range(40)],
                    [charge(remainder=(1, 3))])  # fmt: skip
        ledger.record_events([Event("threshold", number, "campus.pcap", epoch)])
    if number % 50 == 0:
        book_many(ledger, f"many {number}")


def alone(url: str, first: int, done: int) -> None:
    """Number after number; those that are done are written to a file descriptor."""
    with open_ledger(url) as ledger:
        for number in count(first):
            do(ledger, number)
            os.write(done, f"{number}\n".encode())


def together(url: str, first: int, done: int) -> None:
    """The same by several callers, who share commits."""

    def call(teller: Teller, start: int) -> None:
        for number in count(start, THREADS):
            teller.do(partial(do, number=number))
            os.write(done, f"{number}\n".encode())

    with Teller(partial(open_ledger, url)) as teller:
        threads = [Thread(target=call, args=(teller, first + n)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    """For each line on standard input, "WAY FIRST FILE URL", a process that goes on until it is
    killed; its id is printed. Forked: importing everything anew takes longer than most live.
    """
    importlib.import_module("tollsplit.ledger.postgres")
    for line in sys.stdin:
        way, first, file, url = line.rstrip("\n").split(" ", 3)
        child = os.fork()
        if child == 0:
            done = os.open(Path(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            {"alone": alone, "together": together}[way](url, int(first), done)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("gone", os.WTERMSIG(status), flush=True)


if __name__ == "__main__":
    main()
