"""`tollsplit transfer`: a card in a reader, a person at each device."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from bookings import MONEY
from cardholders import FUNDS, LARGE, SECRET, SMALL, Cardholder, settle, town_of
from click.testing import CliRunner
from commands import COMMAND
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from databases import SqliteFile
from serving import serving

from tollsplit.cli import main
from tollsplit.cli.amount import read_amount
from tollsplit.cli.demo.live.virtual_card import Application, Reader, VirtualCard, pan, tlv

LARGE_TEXT = "100.000001 CNY"


class Desk:
    """Where people type: each device's commands by its key."""

    def __init__(self, holder: Cardholder, folder: Path) -> None:
        self.holder = holder
        self._folder = folder

    def arguments(self, command: str, client: Any, *more: object) -> list[str]:
        key = self._folder / f"{client.device}.key"
        key.touch(0o600)
        key.write_bytes(client.key.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return ["transfer", command, "--server", self.holder.served.origin, "--key", str(key),
                *map(str, more)]  # fmt: skip

    def run(self, command: str, client: Any, *more: object, typed: str = "") -> tuple[int, str]:
        """The exit code, and what was said."""
        with CliRunner().isolation(input=typed) as (out, err, _):
            code = main(self.arguments(command, client, *more))
            return code, out.getvalue().decode() + err.getvalue().decode()

    def pay(self, client: Any, amount: str, typed: str = "") -> tuple[int, str]:
        return self.run("pay", client, "--payee", self.holder.payee, "--amount", amount,
                        "--wait", 10, typed=typed)  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with serving(SqliteFile(tmp_path / "books.db")) as served:
        served.clock.now_ns = time.time_ns()  # commands go by the real one
        yield Desk(settle(town_of(served)), tmp_path)


def card_of(holder: Cardholder) -> VirtualCard:
    return VirtualCard([Application(records={
        (2, 1): tlv(0x70, pan(holder.card)), (2, 2): tlv(0x70)})])  # fmt: skip


def test_transfer_cli_pays_with_the_card_in_the_reader(desk: Desk, reader: Reader) -> None:
    holder = desk.holder
    with reader.holding(card_of(holder).exchange):
        code, said = desk.pay(holder.terminal, "100 CNY")
        assert (code, "booked" in said, holder.card in said) == (0, True, False), said
        code, said = desk.pay(holder.phone, LARGE_TEXT, f"wrong\n{SECRET}\ny\n")
        assert code == 0, said
        assert "holder is not authenticated" in said and SECRET not in said
        assert f"{holder.payee}" in said and holder.shop in said
        code, said = desk.pay(holder.phone, LARGE_TEXT, f"{SECRET}\nn\n")
        assert (code, "denied; nothing was paid" in said) == (1, True), said
    holder.expect_paid(SMALL + LARGE)


def test_transfer_cli_asks_the_associated_device(desk: Desk, reader: Reader) -> None:
    """Two people at two devices, each with a process of its own."""
    holder = desk.holder

    def begin(*arguments: object, typed: str) -> subprocess.Popen[str]:
        # Without a terminal the secret is read from standard input.
        process = subprocess.Popen(
            [*COMMAND, *desk.arguments(*arguments)], stdin=subprocess.PIPE,  # type: ignore[arg-type]
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(typed)
        process.stdin.flush()
        return process

    with (
        reader.holding(card_of(holder).exchange),
        begin("confirm", holder.phone, "--once", typed="y\n") as confirming,
        begin("pay", holder.terminal, "--payee", holder.payee, "--amount", LARGE_TEXT,
              typed=f"{SECRET}\ny\n") as paying,
    ):  # fmt: skip
        said = paying.communicate(timeout=60)[0]
        heard = confirming.communicate(timeout=60)[0]
    assert (paying.returncode, confirming.returncode) == (0, 0), said + heard
    assert "waiting for the card's associated device" in said
    assert holder.shop in heard and "booked" in heard
    holder.expect_paid(LARGE)


def test_transfer_cli_registers_cards_and_payees(desk: Desk, reader: Reader) -> None:
    holder, operator = desk.holder, desk.holder.town.operator
    with reader.holding(card_of(holder).exchange):
        code, said = desk.run("register-card", operator, "--account", holder.account,
                              "--associated", holder.terminal.device,
                              typed="0451\n0451\n")  # fmt: skip
    assert (code, holder.account in said, holder.card in said) == (0, True, False), said
    code, said = desk.run("register-payee", operator, "--payee", "bar", "--account", holder.shop)
    assert code == 0, said
    asked = holder.ask(holder.terminal, payee="bar")
    assert holder.confirm(holder.terminal, holder.authenticate(holder.terminal, asked, "0451")) \
        .state == "booked"
    code, said = desk.run("register-card", operator, "--account", holder.account, "--number",
                          holder.card, "--keep-secret")  # fmt: skip
    assert code == 0, said
    assert holder.authenticate(holder.terminal, holder.ask(holder.terminal), "0451")
    code, said = desk.run("register-payee", operator, "--payee", "x", "--account", "nobody")
    assert (code, "no such account" in said) == (1, True)


def test_transfer_cli_says_what_became_of_a_transfer(desk: Desk) -> None:
    holder = desk.holder
    asked = holder.ask(holder.terminal)
    code, said = desk.run("show", holder.terminal, asked.transfer)
    assert (code, said) == (0, f"transfer {asked.transfer}: authenticating\n")
    code, said = desk.run("show", holder.phone, "nothing")
    assert (code, "no such transfer" in said) == (1, True)


def test_transfer_cli_ends_with_a_card_that_is_none(desk: Desk, reader: Reader) -> None:
    with reader.holding(lambda command: b"\x6a\x82"):
        code, said = desk.pay(desk.holder.terminal, "1 CNY")
    assert (code, "not a contactless payment card" in said) == (3, True), said
    assert desk.holder.balances() == (FUNDS, 0)


@pytest.mark.parametrize(("text", "amount"), [
    ("25 CNY", (25_000_000, MONEY)), ("0.5 CNY", (500_000, MONEY)),
    ("0.000001CNY", (1, MONEY)), ("5000 octets", (5000, "octet")), ("1 octet", (1, "octet")),
])  # fmt: skip
def test_amount_is_read_exactly(text: str, amount: tuple[int, str]) -> None:
    assert read_amount(None, None, text) == amount  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [
    "0 CNY", "-1 CNY", "1.0000001 CNY", "1", "CNY", "1 cny", "1.5 octets", "0 octets", "1e3 CNY",
    "1 CNY ", "\uff11 CNY", "",
])  # fmt: skip
def test_amount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected an amount above 0"):
        read_amount(None, None, text)  # type: ignore[arg-type]


def test_transfer_cli_amount_that_is_none_is_a_usage_error(desk: Desk) -> None:
    code, said = desk.pay(desk.holder.terminal, "1.5 octets")
    assert (code, "expected an amount above 0" in said) == (2, True)
