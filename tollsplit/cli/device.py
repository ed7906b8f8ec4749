"""`tollsplit device`: keys of devices, and who may register one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from ..errors import UsageError
from ..services.role import ROLES, Role
from .serve import MISSING

if TYPE_CHECKING:
    from ..services.client import Client
    from ..services.signature import DeviceKey

_PATH = click.Path(path_type=Path)
KEY = click.option("--key", metavar="FILE", type=_PATH, required=True,
                   help="The device's private key.")


def read_server(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """An option's service: scheme and host, perhaps a port."""
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port or an address in brackets that is none
        whole = False
    if not whole:
        raise click.BadParameter(f'expected a URL such as "http://127.0.0.1:8080", got {value!r}')
    return value


SERVER = click.option("--server", metavar="URL", required=True, callback=read_server,
                      help="The service's address.")


@click.group()
def device() -> None:
    """Let devices register with the services, and register them.

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 a key cannot be read.

    \b
    Example:
      tollsplit device register --server http://127.0.0.1:8080 --key phone.key --token TOKEN
    """


@device.command()
@click.option("--ledger", "url", metavar="URL", required=True, help="The ledger of the services.")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the device is.")
@click.option("--account", metavar="NAME", required=True, help="Whose device it is.")
def enrol(url: str, role: Role, account: str) -> None:
    """Let one device register: print the token that it needs, good for a day and once.

    Whoever may write the ledger may do that; operators' devices may ask the service for it.

    \b
    Exit codes: 0 done, 1 failed, 2 usage.

    \b
    Example:
      tollsplit device enrol --ledger sqlite:///books.db --role terminal --account alice
    """
    try:
        from ..services.catalog import annexes
        from ..services.device import enrol as make
    except ImportError as error:
        raise UsageError(MISSING.format(error)) from error
    from ..ledger import open_ledger

    with open_ledger(url, create=False) as book:
        book.define(annexes())
        with book.atomic():
            made = make(book.store, role, account, time.time_ns())
    click.echo(made.token)


@device.command()
@SERVER
@KEY
@click.option("--token", metavar="TOKEN", required=True, help="What `device enrol` printed.")
@click.option("--label", metavar="TEXT", default="tollsplit", show_default=True,
              help="What people call the device.")
def register(server: str, key: Path, token: str, label: str) -> None:
    """Register a device by its key; FILE is made where it is not there yet.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit device register --server http://127.0.0.1:8080 --key phone.key --token TOKEN
    """
    from ..ledger.signing import make_keys

    if not key.exists():
        make_keys(key)
    try:
        from ..services.client import Client
        from ..services.device import REGISTER, Register
    except ImportError as error:
        raise UsageError(MISSING.format(error)) from error
    own = read_key(key)
    with Client(server, own) as client:
        found = client.call(REGISTER, Register(token, own.public_key, label))
    click.echo(f'{found.device}: registered, {found.role} of "{found.account}"')


def open_client(server: str, key: Path, *, missing: str = MISSING, **options: Any) -> Client:
    """A client of a service by the key in a file. Raises UsageError, ProofError.

    missing  what is said where something is not installed; "{}" stands for what
    options  of services.client.Client
    """
    expect_services(missing)
    from ..services.client import Client

    return Client(server, read_key(key), **options)


def expect_services(missing: str = MISSING) -> None:
    """Raises UsageError where what the services need is not installed."""
    try:
        from ..services import client  # noqa: F401
    except ImportError as error:
        raise UsageError(missing.format(error)) from error


def read_key(path: Path) -> DeviceKey:
    """A device's key from its file. Raises ProofError."""
    from ..ledger.signing import read_private_key
    from ..services.signature import DeviceKey

    return DeviceKey(read_private_key(path))
