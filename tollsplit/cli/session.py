"""`tollsplit session`: the terminal's program and the sponsor's proxy of sponsored sessions."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from .device import KEY, SERVER, open_client

if TYPE_CHECKING:
    from ..services.network import Switch

_PATH = click.Path(path_type=Path)
MISSING = "{}; sessions need an extra: pip install 'tollsplit[services,terminal]'"
REPORTS_PORT, RELAY_PORT = 3127, 3128
# How long a proxy that is stopped lets requests end.
PATIENCE_S = 5.0
HOME = click.option("--home", metavar="FOLDER", type=_PATH,
                    help="What the terminal keeps.  [default: ~/.local/state/tollsplit]")
REPORTS = click.option("--reports-port", metavar="PORT", type=click.IntRange(1, 65535),
                       default=REPORTS_PORT, show_default=True,
                       help="Where the browser's extension reports to, on this machine.")
IDENTIFIER = click.option("--identifier", metavar="ID", required=True,
                          help="imsi:DIGITS, msisdn:DIGITS or address:IP.")


@click.group()
def session() -> None:
    """Pay without being charged for the traffic: sponsored sessions of a terminal, and the proxy.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 a key cannot be read.

    \b
    Example:
      tollsplit session run --server https://pay.example --key phone.key \\
        --identifier imsi:460001234567890
    """


@session.command()
@SERVER
@KEY
@IDENTIFIER
@click.option("--by-identity", is_flag=True,
              help="Ask for sessions by the subscriber's identity (read from the terminal), not by "
              "what is paid.")
@click.option("--network", metavar="NAME",
              help="The operator's network, by name or UUID, where the identifier does not tell.")
@click.option("--no-switch", is_flag=True,
              help="Leave networks alone: the terminal is on the operator's, or has no other.")
@click.option("--relay-port", metavar="PORT", type=click.IntRange(1, 65535), default=RELAY_PORT,
              show_default=True, help="Where the browser sends payments to, on this machine.")
@REPORTS
@HOME
def run(
    server: str, key: Path, identifier: str, by_identity: bool, network: str | None,
    no_switch: bool, relay_port: int, reports_port: int, home: Path | None,
) -> None:  # fmt: skip
    """Be the terminal's program, until SIGTERM or SIGINT.

    When the browser's extension (`session extension`) reports a payment, the terminal switches to
    the operator's network, asks for a session, and passes what the browser sends to the payment
    server on to the sponsor's proxy. When the last page of it is left, the session is ended and the
    terminal returns to the network that it was on; after a crash at its next start, or by
    `session restore`. What happens is told as JSON lines on standard error.

    \b
    Exit codes: 0 ended as asked, 1 failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit session run --server https://pay.example --key phone.key \\
        --identifier imsi:460001234567890
    """
    import asyncio

    with open_client(server, key, missing=MISSING) as client:
        from ..services.forwarding import Forwarder, listening
        from ..services.identifier import identifier as read
        from ..services.reports import HOME as HERE
        from ..services.reports import Reports
        from ..services.terminal import Subscription, Terminal

        place = _home(home)
        identity = click.prompt("identity", hide_input=True, err=True) if by_identity else None
        switch = None if no_switch else _switch(place)
        if switch is not None and switch.restore():
            _tell({"event": "restored"})
        terminal = Terminal(client, Subscription(read(identifier), identity, network), _tell,
                            switch)  # fmt: skip
        terminal.relay = f"{HERE}:{relay_port}"
        relay = Forwarder(terminal.route, _tell)

        async def begin() -> None:
            await relay.listen([listening(HERE, relay_port)])

        try:
            with Reports(reports_port, _token(place), terminal.take) as reports:
                _tell({"event": "listening", "reports": reports.address, "relay": terminal.relay})
                asyncio.run(_until_told(begin, relay.close))
        finally:
            terminal.close()


@session.command()
@SERVER
@KEY
@click.option("--listen", "places", metavar="HOST:PORT", multiple=True, required=True,
              help="Where terminals send their requests; each address may be a mark.")
@click.option("--inside", metavar="PREFIX", multiple=True,
              help="Reach payment servers there, though it is no public address.")
@click.option("--source", metavar="ADDRESS", help="Begin the way to payment servers there.")
@click.option("--flow-labels", is_flag=True,
              help="Answers carry the flow label that the terminal's packets carry (IPv6).")
def proxy(
    server: str, key: Path, places: tuple[str, ...], inside: tuple[str, ...], source: str | None,
    flow_labels: bool,
) -> None:  # fmt: skip
    """Be the sponsor's proxy, until SIGTERM or SIGINT.

    Each request is checked with the distribution server, by its communication identifier, tag and
    temporary credential; what is not permitted is answered 403, and nothing is fetched. Only the
    sponsor's payment servers are reached. What it passes on is marked, both ways. Its device has
    the role `proxy` and belongs to the sponsor's account. What happens is told as JSON lines on
    standard error.

    \b
    Exit codes: 0 ended as asked, 1 failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit session proxy --server https://pay.example --key proxy.key \\
        --listen 203.0.113.10:8080
    """
    import asyncio

    from .metrics import parse_address

    with open_client(server, key, missing=MISSING, retries=1, timeout_s=5.0) as client:
        from ..services.permission import ServerPermits
        from ..services.proxy import Proxy

        found = Proxy(ServerPermits(client), _tell, inside=[_network(text) for text in inside],
                      source=source)  # fmt: skip

        async def begin() -> None:
            await found.listen([parse_address(text) for text in places], flow_labels=flow_labels)
            _tell({"event": "listening",
                   "places": [f"{host}:{port}" for host, port in found.places]})

        asyncio.run(_until_told(begin, lambda: found.close(PATIENCE_S)))


@session.command()
@click.argument("folder", metavar="FOLDER", type=_PATH)
@REPORTS
@HOME
def extension(folder: Path, reports_port: int, home: Path | None) -> None:
    """Write the browser's extension, which reports payments to `session run`, into FOLDER.

    Chromium loads it with --load-extension=FOLDER, or at chrome://extensions as an unpacked one.

    \b
    Exit codes: 0 done, 1 failed, 2 usage.

    \b
    Example:
      tollsplit session extension ./payments-extension
    """
    try:
        from ..services.reports import HOME as HERE
        from ..services.reports import write_extension
    except ImportError as error:
        raise UsageError(MISSING.format(error)) from error
    write_extension(folder, f"{HERE}:{reports_port}", _token(_home(home)))
    click.echo(f"{folder}: the extension; it reports to {HERE}:{reports_port}")


@session.command()
@HOME
def restore(home: Path | None) -> None:
    """Return to the network that the terminal was on before a session that crashed.

    \b
    Exit codes: 0 returned, or nothing to do; 1 failed, or a session is open; 2 usage.

    \b
    Example:
      tollsplit session restore
    """
    is_done = _switch(_home(home)).restore()
    click.echo("returned to the network from before" if is_done else "nothing to restore")


@session.command()
@SERVER
@KEY
@IDENTIFIER
@click.option("--account", metavar="NAME", required=True, help="Whose the identifier is.")
@click.option("--address", metavar="IP", required=True, help="Where its packets come from.")
@click.option("--identity", is_flag=True,
              help="Set what the subscriber proves to be, read from the terminal.")
def subscriber(
    server: str, key: Path, identifier: str, account: str, address: str, identity: bool
) -> None:
    """Say whose a communication identifier is; for operators' devices.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit session subscriber --server https://pay.example --key operator.key \\
        --identifier imsi:460001234567890 --account alice --address 10.0.0.7
    """
    with open_client(server, key, missing=MISSING) as client:
        from ..services.session import SUBSCRIBE, Subscribe

        chosen = click.prompt("identity", hide_input=True, confirmation_prompt=True, err=True
                              ) if identity else None  # fmt: skip
        found = client.call(SUBSCRIBE, Subscribe(identifier, account, address, chosen))
    click.echo(f'{found.identifier}: of "{found.account}", at {found.address}')


@session.command()
@SERVER
@KEY
@click.argument("name", metavar="SESSION")
def show(server: str, key: Path, name: str) -> None:
    """Show what of a session's traffic is booked, and who pays for how many octets.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit session show --server https://pay.example --key phone.key SESSION
    """
    with open_client(server, key, missing=MISSING) as client:
        from ..services.session import FEE, Fee

        found = client.call(FEE, Fee(name))
    octets = found.uplink_octets + found.downlink_octets
    click.echo(f"{name}: {octets:,} octets ({found.uplink_octets:,} up, "
               f"{found.downlink_octets:,} down): {found.sponsor} pays {found.sponsor_octets:,}, "
               f"the subscriber {found.subscriber_octets:,}")


def _switch(home: Path) -> Switch:
    try:
        from ..services.network import Switch
        from ..services.network_manager import NetworkManager
    except ImportError as error:
        raise UsageError(MISSING.format(error)) from error
    return Switch(NetworkManager(), home / "network.json")


def _home(given: Path | None) -> Path:
    """Where a terminal keeps its things; made where it is not there yet."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    home = given or Path(state).expanduser() / "tollsplit"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def _token(home: Path) -> str:
    """What the browser's extension reports with; made where there is none yet."""
    path = home / "reports.token"
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
    except FileExistsError:
        pass
    return path.read_text()


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"--inside {text}: {error}") from None


def _tell(event: Mapping[str, object]) -> None:
    click.echo(json.dumps(event), file=sys.stderr)


async def _until_told(
    begin: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
) -> None:
    """Run until SIGTERM or SIGINT, and end well."""
    import asyncio

    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    await begin()
    try:
        await over.wait()
    finally:
        await close()
