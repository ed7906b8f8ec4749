"""`tollsplit billing-auth`: the billing manager of a terminal, and the resources that ask it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import click

from ..errors import TollsplitError
from .amount import AMOUNT, quantity
from .device import KEY, SERVER, expect_services, open_client

_PATH = click.Path(path_type=Path)
_RESOURCE = click.option("--resource", metavar="NAME", required=True, help="The resource.")
_SOCKET = click.option("--socket", "manager", metavar="PATH", type=_PATH,
                       help="The billing manager's socket; if absent tollsplit-billing in "
                            "XDG_RUNTIME_DIR.")
_FILE = click.option("--file", metavar="FILE", type=_PATH,
                     help="What the resource is: the manager computes its digest.")
_SERVER_KEY = click.option("--server-key", metavar="FILE", type=_PATH,
                           help="The server's public key: only what is signed with it is believed.")
_LICENCE = click.option("--licence", metavar="FILE", type=_PATH,
                        help="A licence that counts while the server cannot be reached.")


@click.group("billing-auth")
def billing_auth() -> None:
    """Run resources that are paid for: the terminal's billing manager, and a resource's interface.

    \b
    Exit codes: 0 done, 1 prohibited or failed, 2 usage, 3 a key cannot be read.

    \b
    Example:
      tollsplit billing-auth manager --server http://127.0.0.1:8080 --key phone.key
    """


@billing_auth.command()
@SERVER
@KEY
@_SOCKET
def manager(server: str, key: Path, manager: Path | None) -> None:
    """Answer the resources on this terminal, for its user, until SIGTERM or SIGINT.

    \b
    Exit codes: 0 stopped as asked, 1 failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit billing-auth manager --server http://127.0.0.1:8080 --key phone.key
    """
    from ..limits import BILLING_SERVER_S

    with open_client(server, key, timeout_s=BILLING_SERVER_S, retries=1) as client:
        from ..services.billing_terminal import BillingManager
        from ..services.interface import manager_socket

        running = BillingManager(manager or manager_socket(), client)
        for number in (signal.SIGTERM, signal.SIGINT):
            # It is stopped by another thread than the one that runs it.
            signal.signal(number, lambda *_: threading.Thread(target=running.stop).start())
        click.echo(f"tollsplit: answering on {running.path}, process {os.getpid()}", err=True)
        running.run()


@billing_auth.command(context_settings={"ignore_unknown_options": True})
@SERVER
@KEY
@_RESOURCE
@click.option("--operation", metavar="TEXT", default="use", show_default=True,
              help="What is to be done with it.")
@_SOCKET
@_FILE
@_SERVER_KEY
@_LICENCE
@click.argument("command", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED)
def operate(
    server: str, key: Path, resource: str, operation: str, manager: Path | None,
    file: Path | None, server_key: Path | None, licence: Path | None, command: tuple[str, ...],
) -> None:  # fmt: skip
    """Ask whether an operation is paid for, as a resource does, and run a command if it is.

    The key is the resource's own, of the role resource. The command takes this process's place.

    \b
    Exit codes: 0 allowed (or the command's), 1 prohibited, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit billing-auth operate --server http://127.0.0.1:8080 --key chess.key \\
        --resource chess --operation play -- ./chess
    """
    expect_services()
    from ..services.interface import Interface

    Interface(resource, server, key, manager=manager, file=file, licence=licence,
              server_key=_public(server_key)).authorise(operation)  # fmt: skip
    if not command:
        click.echo(f"{resource}: {operation}: allowed")
        return
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise TollsplitError(f"{command[0]}: cannot be run: {error.strerror}") from error


@billing_auth.command()
@SERVER
@KEY
@_RESOURCE
@_SOCKET
@_FILE
@click.option("--server-key", metavar="FILE", type=_PATH, required=True,
              help="The server's public key, which the licence is signed with.")
@click.option("--licence", metavar="FILE", type=_PATH, required=True, help="Where it is written.")
def licence(
    server: str, key: Path, resource: str, manager: Path | None, file: Path | None,
    server_key: Path, licence: Path,
) -> None:  # fmt: skip
    """Take a licence for when the server cannot be reached, where the resource's terms allow it.

    \b
    Exit codes: 0 done, 1 prohibited or failed, 2 usage, 3 a key cannot be read.

    \b
    Example:
      tollsplit billing-auth licence --server http://127.0.0.1:8080 --key chess.key \\
        --resource chess --server-key server.key.pub --licence chess.licence
    """
    expect_services()
    from ..services.interface import Interface
    from ..services.wire import instant

    found = Interface(resource, server, key, manager=manager, file=file, licence=licence,
                      server_key=_public(server_key)).renew_licence()  # fmt: skip
    click.echo(f"{licence}: good until {instant(found.expires_at_ns):%Y-%m-%dT%H:%M:%SZ}")


@billing_auth.command()
@SERVER
@KEY
@_RESOURCE
@click.option("--yes", is_flag=True, help="Pay without asking.")
def buy(server: str, key: Path, resource: str, yes: bool) -> None:
    """Pay for a resource from the account of a terminal's user.

    \b
    Exit codes: 0 paid, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit billing-auth buy --server http://127.0.0.1:8080 --key phone.key --resource chess
    """
    with open_client(server, key) as client:
        from ..services.resource_register import BUY, LOOK, Buy, Look

        terms = client.call(LOOK, Look(resource=resource))
        days = terms.period_s / 86_400
        price = quantity(terms.amount, terms.unit)
        offer = f"{resource}: {price} for {days:g} days"
        if not (yes or click.confirm(f"{offer}: pay this?", err=True)):
            raise TollsplitError("nothing was paid")
        bought = client.call(BUY, Buy(resource=resource, amount=terms.amount, unit=terms.unit))
        click.echo(f"{resource}: paid until {bought.paid_until:%Y-%m-%dT%H:%M:%SZ}")


@billing_auth.command("register-resource")
@SERVER
@KEY
@_RESOURCE
@AMOUNT
@click.option("--account", metavar="NAME", required=True, help="The account that is paid.")
@click.option("--days", metavar="DAYS", type=click.FloatRange(1 / 24, 3660), required=True,
              help="How long a purchase is good for.")
@click.option("--file", metavar="FILE", type=_PATH,
              help="The resource's file: another one gets no codes.")
@click.option("--offline-hours", metavar="HOURS", type=click.FloatRange(0, 168), default=0.0,
              show_default=True, help="How long a licence does without the server; 0: no licences.")
def register_resource(
    server: str, key: Path, resource: str, amount: tuple[int, str], account: str, days: float,
    file: Path | None, offline_hours: float,
) -> None:  # fmt: skip
    """Say what a resource costs, by an operator's key.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit billing-auth register-resource --server http://127.0.0.1:8080 --key staff.key \\
        --resource chess --amount "5.00 CNY" --account studio --days 30
    """
    with open_client(server, key) as client:
        from ..services.billing_terminal import digest_of
        from ..services.resource_register import REGISTER_RESOURCE, RegisterResource

        price, unit = amount
        client.call(REGISTER_RESOURCE, RegisterResource(
            resource=resource, account=account, amount=price, unit=unit,
            period_s=round(days * 86_400), offline_s=round(offline_hours * 3600),
            digest=None if file is None else digest_of(file),
        ))  # fmt: skip
        click.echo(f"{resource}: {quantity(price, unit)} for {days:g} days")


def _public(path: Path | None) -> str | None:
    from ..ledger.signing import read_public_key

    return None if path is None else read_public_key(path)
