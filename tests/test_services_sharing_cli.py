"""`tollsplit share`: a lender's device and a borrower's, as programs."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from commands import COMMAND
from databases import SqliteFile
from resources import key_file
from serving import Served, serving
from test_services_sharing import FUNDS, MIB, SUBSCRIBER, Sharing, fund

from tollsplit.cli import main
from tollsplit.services import device, inbox, sharing
from tollsplit.services.sharing.password import SealingKey

LEND = ("lend", "--octets", "100 MiB", "--price", "0.1 CNY", "--subscriber", SUBSCRIBER)


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Sharing]:
    services = device.SERVICE, inbox.SERVICE, sharing.SERVICE
    with serving(SqliteFile(tmp_path / "ledger.db"), services) as served:
        served.clock.now_ns = time.time_ns()  # commands go by the real one
        served.write(fund)
        yield Sharing(served, served.device(account="bob"), served.device(), SealingKey())


class Program:
    """A command that runs; what it says is kept as it comes."""

    def __init__(self, *arguments: object, typed: str = "") -> None:
        self._process = subprocess.Popen(
            [*COMMAND, "share", *map(str, arguments)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(typed)
        self._process.stdin.flush()
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said += line

    def wait(self, word: str) -> str:
        """Wait until it says a word; the rest of that line."""
        deadline = time.monotonic() + 20
        while f"{word}" not in self.said or "\n" not in self.said.partition(word)[2]:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        return self.said.partition(word)[2].partition("\n")[0].strip()

    def send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self._process.send_signal(number)
        code = self._process.wait(20)
        self._reader.join()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        return code


@pytest.fixture
def program(parties: Sharing, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts a command by a client's key."""
    made = []

    def start(client: Any, command: str, *arguments: object, typed: str = "") -> Program:
        made.append(Program(command, *options(client, tmp_path), *arguments, typed=typed))
        return made[-1]

    yield start
    for one in made:
        one.end(signal.SIGKILL)


def options(client: Any, folder: Path) -> tuple[object, ...]:
    return ("--server", client.origin, "--key",
            key_file(client, folder / f"{client.device}.key"))  # fmt: skip


@contextmanager
def sweeping(served: Served) -> Iterator[None]:
    """As the server does by itself."""
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(0.05):
            served.sweep()

    thread = threading.Thread(target=sweep)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize("way", ["server", "module"])
def test_share_cli_lends_and_borrows(
    parties: Sharing, program: Callable[..., Program], way: str
) -> None:
    lender = program(parties.lender, *LEND, "--location", "39.9051,116.4074", "--once")
    lender.wait("lending for")
    borrower = program(parties.borrower, "borrow", "--octets", "10 MiB", "--location",
                       "39.9042,116.4074", "--verify", way, "--subscriber", SUBSCRIBER,
                       typed="y\n")  # fmt: skip
    assert borrower.wait("110 m").startswith("away")
    assert "at most 1.000000 CNY" in borrower.wait("offer of")
    secret = lender.wait(": password")
    if way == "module":
        borrower.send(f"a wrong one\n{secret}\n")
        borrower.wait("this is not the password")
    borrower.wait("running")
    parties.served.clock.forward(1)
    parties.use(10 * MIB, at_s=-0.5)
    with sweeping(parties.served):
        assert "10485760 of 10485760" in lender.wait("100 % used")
        lender.wait(": ended")
        parties.served.clock.forward(60)
        assert borrower.wait(": settled").endswith(
            "fee 1.000000 CNY, of which the lender's 0.800000 CNY")
        assert borrower.end() == 0 and lender.end() == 0
    assert parties.money() == (FUNDS - 1_000_000, 0, 800_000, 200_000)


def test_share_cli_ends_by_an_interrupt(
    parties: Sharing, program: Callable[..., Program], tmp_path: Path
) -> None:
    # The address by which the borrower reaches the service.
    lender = program(parties.lender, *LEND[:-1], "127.0.0.1")
    lender.wait("lending for")
    borrower = program(parties.borrower, "borrow", "--octets", "10 MiB", "--yes")
    borrower.wait("running")
    assert borrower.end(signal.SIGINT) == 0
    share = lender.wait("share").split(":")[0]
    with CliRunner().isolation() as (out, _, __):
        assert main(["share", "show", *map(str, options(parties.borrower, tmp_path)), share]) == 0
        assert out.getvalue().decode().startswith(f"share {share}: ended, 0 of")
    with CliRunner().isolation() as (_, err, __):
        assert main(["share", "end", *map(str, options(parties.lender, tmp_path)), share]) == 1
        assert "this share is ended" in err.getvalue().decode()


@pytest.mark.parametrize("arguments, message", [
    (("borrow", "--octets", "much"), "much"),
    (("borrow", "--octets", "1 MiB", "--location", "north"), "39.9042"),
    (("lend", "--octets", "1 MiB", "--price", "cheap", "--subscriber", "10.20.0.77"),
     "12.50 CNY"),
    (("lend", "--octets", "1 MiB", "--price", "1 CNY", "--subscriber", "10.20.0.777"),
     "expected an address"),
    (("borrow", "--octets", "1 MiB", "--subscriber", "2001:db8::7/64"), "a prefix"),
])  # fmt: skip
def test_share_cli_says_what_it_expects(arguments: tuple[str, ...], message: str) -> None:
    with CliRunner().isolation() as (_, err, __):
        code = main(["share", *arguments, "--server", "http://127.0.0.1:1", "--key", "x"])
        assert code == 2 and message in err.getvalue().decode()


def test_share_cli_lender_serves_on_whoever_comes_to_nothing(
    parties: Sharing, program: Callable[..., Program]
) -> None:
    """Who is somewhere else than the lender says, who comes while the address is in use, and who
    wants more than is left of the allowance.
    """
    lender = program(parties.lender, *LEND)
    lender.wait("lending for")
    asked = ("borrow", "--octets", "1 MiB", "--yes", "--subscriber")
    elsewhere = program(parties.borrower, *asked, "10.20.0.8")
    assert "another address" in elsewhere.wait("tollsplit: ") and elsewhere.end() == 1
    assert "cancelled" in elsewhere.said
    program(parties.borrower, *asked, SUBSCRIBER).wait("running")
    program(parties.borrower, *asked, SUBSCRIBER)
    lender.wait("carries another share")
    parties.served.write(lambda ledger: ledger.open_account("alice", "octet", "subscriber", 0))
    program(parties.borrower, *asked, SUBSCRIBER)
    lender.wait("allowance does not cover it")
