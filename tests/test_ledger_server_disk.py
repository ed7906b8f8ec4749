"""A ledger on a server whose disk is full: nothing is half booked, and it goes on later."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bookings import RECORDS, book_many, charge, held, record, run_of
from databases import Cluster

from tollsplit.errors import LedgerError
from tollsplit.ledger import Ledger, Transfer, open_ledger
from tollsplit.model import Posting

DISK_OCTETS = 160 * 1024 * 1024
# Bookings until a disk is full; each writes some 200 KiB.
TRIES = 400


@dataclass
class Disk:
    folder: Path

    @property
    def filler(self) -> Path:
        return self.folder / "filler"

    def fill(self, leaving_octets: int) -> None:
        found = os.statvfs(self.folder)
        octets = max(0, found.f_bavail * found.f_frsize - leaving_octets)
        with open(self.filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, octets)

    def make_room(self) -> None:
        self.filler.unlink(missing_ok=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk of its own, in memory. PostgreSQL's user gets there, as not into pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_OCTETS},mode=0700", "ledger", str(folder)]
    ran = subprocess.run(mount, capture_output=True, text=True, check=False)
    if ran.returncode:
        folder.rmdir()
        pytest.skip(f"a disk of our own to fill takes root: {ran.stderr.strip()}")
    yield Disk(folder)
    # The server's processes may take a moment longer than it says.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def postgres(disk: Disk) -> Iterator[Cluster]:
    postgres = Cluster(disk.folder)
    yield postgres
    postgres.stop()


def book_until_full(book: Callable[[int], None]) -> tuple[int, LedgerError]:
    """How many were booked, and what the next one met."""
    for number in range(TRIES):
        try:
            book(number)
        except LedgerError as error:
            return number, error
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("leaving_octets", [0, 2 * 1024 * 1024, 12 * 1024 * 1024])
def test_server_on_a_full_disk_books_nothing_by_halves(
    postgres: Cluster, disk: Disk, leaving_octets: int
) -> None:
    """Whether its tables or its log find no room, which makes it give up altogether."""
    url = postgres.database().url
    with open_ledger(url) as ledger:
        ledger.post(run_of(), [record()], [charge()])
    disk.fill(leaving_octets)

    def book(number: int) -> None:
        with open_ledger(url, wait_s=5) as ledger:
            book_many(ledger, f"full {number}")

    done, error = book_until_full(book)
    assert "run it again" in str(error), error
    disk.make_room()
    postgres.restart()
    with open_ledger(url) as ledger:
        assert ledger.verify().findings == ()
        # What a server that died over the commit had booked or not is told by the same run again.
        again = book_many(ledger, f"full {done}")
        assert again.run == 2 + done
        assert held(ledger)["operator:traffic", "octet"] == 1000 * (1 + (done + 1) * RECORDS)
        assert ledger.verify().findings == ()


def test_server_on_a_full_disk_transfers_once(postgres: Cluster, disk: Disk) -> None:
    url = postgres.database().url
    with open_ledger(url) as ledger:
        open_two(ledger)
    disk.fill(0)

    def book(number: int) -> None:
        with open_ledger(url, wait_s=5) as ledger:
            pay(ledger, number)

    done, _ = book_until_full(book)
    disk.make_room()
    postgres.restart()
    with open_ledger(url) as ledger:
        assert ledger.verify().findings == ()
        for number in range(done + 1):
            pay(ledger, number)  # those that were told to be booked are not booked again
        assert held(ledger)["b", "octet"] == 500 * (done + 1)
        assert ledger.verify().findings == ()


def open_two(ledger: Ledger) -> None:
    for name in "ab":
        ledger.open_account(name, "octet", "card")


def pay(ledger: Ledger, number: int) -> None:
    ledger.transfer_all(
        Transfer(f"t{number}-{i}", "payment", (
            Posting("a", "octet", -1), Posting("b", "octet", 1)), "p" * 1000)
        for i in range(500))  # fmt: skip
