"""`tollsplit transfer`: pay with a smart card, and confirm what is paid with one's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import TollsplitError
from .amount import AMOUNT, quantity
from .device import KEY, SERVER, open_client

if TYPE_CHECKING:
    from ..services.client import Client
    from ..services.transfer import TransferState

# How often it is looked whether the associated device has answered.
_LOOK_S = 1.0
_ASK = 'ask again with "tollsplit transfer pay"'


@click.group()
def transfer() -> None:
    """Pay with a smart card; confirm at the card's associated device; register cards and payees.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 a card or key cannot be read.

    \b
    Example:
      tollsplit transfer pay --server http://127.0.0.1:8080 --key phone.key \\
        --payee 13800138000 --amount "25.00 CNY"
    """


@transfer.command()
@SERVER
@KEY
@click.option("--payee", metavar="IDENTITY", required=True, help="Who is paid.")
@AMOUNT
@click.option("--reader", metavar="NAME", help="The card reader; if absent any with a card.")
@click.option("--wait", "wait_s", metavar="SECONDS", type=click.FloatRange(0), default=30.0,
              show_default=True, help="How long a card is waited for.")
def pay(
    server: str, key: Path, payee: str, amount: tuple[int, str], reader: str | None, wait_s: float
) -> None:
    """Read a card, and send a transfer from its account to a payee.

    Above small amounts the service asks for the card's secret, shows once more what is paid to
    whom, and asks the card's associated device where that is another one. What it prompts for is
    read from the terminal.

    \b
    Exit codes: 0 booked, 1 not booked, 2 usage, 3 the card or key cannot be read.

    \b
    Example:
      tollsplit transfer pay --server http://127.0.0.1:8080 --key phone.key \\
        --payee 13800138000 --amount "25.00 CNY"
    """
    with open_client(server, key) as client:
        from ..services.card import read_account
        from ..services.card_reader import card_in_reader
        from ..services.transfer import ASK, Ask

        wanted, unit = amount
        click.echo(f"{quantity(wanted, unit)} to {payee}: hold the card to the reader", err=True)
        with card_in_reader(reader, wait_s) as contact:
            account = read_account(contact)
        click.echo(f"card {account.masked} ({account.label})", err=True)
        state = client.call(ASK, Ask(card=account.number, payee=payee, amount=wanted, unit=unit,
                                     device=client.device))  # fmt: skip
        if state.state == "authenticating":
            state = _authenticate(client, state)
        if state.state == "confirming":
            state = _confirm(client, state)
        if state.state == "confirming-associated":
            click.echo("waiting for the card's associated device", err=True)
            state = _await_end(client, state)
        _expect_booked(state)
        click.echo(f"transfer {state.transfer}: booked")


@transfer.command()
@SERVER
@KEY
@click.option("--once", is_flag=True, help="End after the first transfer.")
def confirm(server: str, key: Path, once: bool) -> None:
    """Wait for transfers with one's own card that another device has asked for, and say yes or no.

    \b
    Exit codes: 0 answered, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit transfer confirm --server http://127.0.0.1:8080 --key phone.key
    """
    with open_client(server, key) as client:
        for asked in _waiting(client):
            state = _confirm(client, asked, associated=True)
            click.echo(f"transfer {state.transfer}: {state.state}")
            if once:
                return


@transfer.command()
@SERVER
@KEY
@click.argument("identifier", metavar="TRANSFER")
def show(server: str, key: Path, identifier: str) -> None:
    """Say what became of a transfer.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit transfer show --server http://127.0.0.1:8080 --key phone.key OZBvqXrVmkBvYk7wzL1hKA
    """
    with open_client(server, key) as client:
        from ..services.transfer import SHOW, Read

        state = client.call(SHOW, Read(identifier))
        click.echo(f"transfer {state.transfer}: {state.state}")


@transfer.command("register-card")
@SERVER
@KEY
@click.option("--account", metavar="NAME", required=True, help="The account that it debits.")
@click.option("--associated", metavar="DEVICE",
              help="The device that confirms what others ask for, by its id.")
@click.option("--number", metavar="NUMBER", help="The card's number; if absent it is read.")
@click.option("--reader", metavar="NAME", help="The card reader; if absent any with a card.")
@click.option("--secret/--keep-secret", "prompts", default=True, show_default=True,
              help="Prompt for the secret of its holder, or leave it as it is.")
def register_card(
    server: str, key: Path, account: str, associated: str | None, number: str | None,
    reader: str | None, prompts: bool,
) -> None:  # fmt: skip
    """Say whose a card is, by an operator's key. A secret set anew unblocks the card.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the card or key cannot be read.

    \b
    Example:
      tollsplit transfer register-card --server http://127.0.0.1:8080 --key staff.key \\
        --account card:alice --associated bPm3vFJ4TqWc0J8oZrPCB4Ztq0fJm1eJ6Vb1x2Jp9mE
    """
    with open_client(server, key) as client:
        from ..services.card import read_account
        from ..services.card_reader import card_in_reader
        from ..services.card_register import REGISTER_CARD, RegisterCard

        if number is None:
            with card_in_reader(reader) as contact:
                number = read_account(contact).number
        secret = _prompt("the card's secret", confirmation=True) if prompts else None
        found = client.call(REGISTER_CARD, RegisterCard(
            card=number, account=account, secret=secret, associated=associated))  # fmt: skip
        click.echo(f'card {found.card_account}: debits "{found.account}"')


@transfer.command("register-payee")
@SERVER
@KEY
@click.option("--payee", metavar="IDENTITY", required=True, help="As payers know it.")
@click.option("--account", metavar="NAME", required=True, help="The account that it credits.")
def register_payee(server: str, key: Path, payee: str, account: str) -> None:
    """Say which account an identity stands for, by an operator's key.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit transfer register-payee --server http://127.0.0.1:8080 --key staff.key \\
        --payee 13800138000 --account shop
    """
    with open_client(server, key) as client:
        from ..services.card_register import REGISTER_PAYEE, RegisterPayee

        found = client.call(REGISTER_PAYEE, RegisterPayee(payee=payee, account=account))
        click.echo(f'payee {found.payee}: credits "{found.account}"')


def _prompt(what: str, confirmation: bool = False) -> str:
    answer: str = click.prompt(what, hide_input=True, confirmation_prompt=confirmation, err=True)
    return answer


def _authenticate(client: Client, asked: TransferState) -> TransferState:
    """Prompt until it is right; the service says when no more is taken."""
    from ..services.problem import Problem
    from ..services.transfer import AUTHENTICATE, NOT_AUTHENTICATED, Authenticate

    while True:
        secret = _prompt("the card's secret")
        try:
            return client.call(AUTHENTICATE, Authenticate(asked.transfer, secret))
        except Problem as refusal:
            if refusal.kind.name != NOT_AUTHENTICATED.name:
                raise
            click.echo(f"tollsplit: {refusal.kind.title}", err=True)


def _confirm(client: Client, asked: TransferState, *, associated: bool = False) -> TransferState:
    """Show the four fields, and send the answer with what was shown."""
    from ..services.transfer import CONFIRM, CONFIRM_ASSOCIATED, Confirm

    seen = asked.confirmation
    assert seen is not None, "what waits for a confirmation says of what"
    for name, value in (
        ("card", seen.card_account), ("amount", quantity(seen.amount, seen.unit)),
        ("payee", seen.payee), ("its account", seen.payee_account),
    ):  # fmt: skip
        click.echo(f"{name:>12}  {value}", err=True)
    accept = click.confirm("pay this?", err=True)
    return client.call(CONFIRM_ASSOCIATED if associated else CONFIRM, Confirm(
        transfer=asked.transfer, accept=accept, card_account=seen.card_account,
        amount=seen.amount, unit=seen.unit, payee=seen.payee, payee_account=seen.payee_account,
    ))  # fmt: skip


def _await_end(client: Client, state: TransferState) -> TransferState:
    from ..services.transfer import SHOW, Read

    while state.state == "confirming-associated":
        time.sleep(_LOOK_S)
        state = client.call(SHOW, Read(state.transfer))
    return state


def _waiting(client: Client) -> Iterator[TransferState]:
    """Transfers that wait for this device, those from before it looked too."""
    from ..services.transfer import SHOW, Read, TransferState

    for notice in client.notices():
        if notice.kind == "transfer.confirm":
            state = client.call(SHOW, Read(notice.read(TransferState).transfer))
            if state.state == "confirming-associated":
                yield state


def _expect_booked(state: TransferState) -> None:
    if state.state != "booked":
        raise TollsplitError(f"transfer {state.transfer}: {state.state}; nothing was paid: {_ASK}")
