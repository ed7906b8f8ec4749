"""`tollsplit share`: the lender's device and the borrower's."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from ..errors import TollsplitError
from .amount import quantity, read_amount
from .device import KEY, SERVER, open_client

if TYPE_CHECKING:
    from ..services.client import Client, Notice
    from ..services.problem import Problem
    from ..services.sharing.password import SealingKey
    from ..services.sharing.wire import OfferView, ShareView

Place = tuple[float, float]
_OVER = ("settled", "cancelled", "blocked", "expired")
_SHARE = click.argument("share", metavar="SHARE")


def read_place(ctx: click.Context, param: click.Parameter, value: str | None) -> Place | None:
    """An option's place: latitude and longitude in degrees."""
    if value is None:
        return None
    match = re.fullmatch(r"(-?\d{1,2}(?:\.\d+)?),(-?\d{1,3}(?:\.\d+)?)", value)
    if match is None:
        raise click.BadParameter(f'expected degrees as "39.9042,116.4074", got {value!r}')
    return float(match[1]), float(match[2])


def read_octets(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """An option's octets: "5000000", "10 MiB"."""
    from ..rules.units import size

    try:
        return size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def read_subscriber(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An option's address or prefix, as usage records name it."""
    if value is None:
        return None
    try:
        network = ip_network(value)
    except ValueError:
        raise click.BadParameter(
            f'expected an address as "10.20.0.77" or a prefix as "2001:db8::/64", got {value!r}'
        ) from None
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if single else network)


LOCATION = click.option("--location", metavar="LATITUDE,LONGITUDE", callback=read_place,
                        help='Where this device is, in degrees: "39.9042,116.4074".')
OCTETS = click.option("--octets", metavar="SIZE", required=True, callback=read_octets,
                      help='How much data: "10 MiB", "5000000".')


@click.group()
def share() -> None:
    """Lend data to somebody nearby, or borrow some; the engine meters it, the ledger settles it.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 a key cannot be read.

    \b
    Example:
      tollsplit share borrow --server http://127.0.0.1:8080 --key phone.key --octets "10 MiB"
    """


@share.command()
@SERVER
@KEY
@OCTETS
@click.option("--price", metavar="AMOUNT", required=True, callback=read_amount,
              help='Of each MiB: "0.10 CNY".')
@click.option("--subscriber", metavar="ADDRESS", required=True, callback=read_subscriber,
              help="The address that borrowers' traffic has, as usage records name it; nothing "
              "else may have it.")
@click.option("--available", "available_s", metavar="SECONDS", type=click.IntRange(1, 86_400),
              default=3600, show_default=True, help="How long this device lends.")
@LOCATION
@click.option("--once", is_flag=True, help="End when the first share is over.")
def lend(
    server: str, key: Path, octets: int, price: tuple[int, str], subscriber: str,
    available_s: int, location: Place | None, once: bool,
) -> None:  # fmt: skip
    """Be the lender's device: offer data to whoever asks, let borrowers in by a password.

    When a share has ended, by its quota, its time or either side, the connection is to be closed.

    \b
    Exit codes: 0 ended as asked, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit share lend --server http://127.0.0.1:8080 --key alice.key --octets "100 MiB" \\
        --price "0.10 CNY" --subscriber 10.20.0.77 --location 39.9042,116.4074
    """
    with open_client(server, key) as client:
        from ..services.problem import Problem
        from ..services.sharing import LEND, OFFER
        from ..services.sharing.wire import Lend, Offer, ShareView

        latitude, longitude = location or (None, None)
        client.call(LEND, Lend(available_s, latitude, longitude))
        click.echo(f"lending for {available_s} s", err=True)
        for notice in client.notices():
            if notice.kind == "share.wanted":
                wanted = notice.read(ShareView)
                try:
                    client.call(OFFER, Offer(
                        wanted.share, min(octets, wanted.octets), price[1], price[0]))  # fmt: skip
                except Problem as refusal:
                    _expect_over(refusal)  # an old notice, or somebody else was faster
                continue
            found = _shown(notice)
            if found is None:
                continue
            if found.state == "connected":
                _let_in(client, found, subscriber)
            if found.state in _OVER and once:
                return


def _let_in(client: Client, found: ShareView, subscriber: str) -> None:
    """Make a password, and have it relayed where nobody but the borrower reads it."""
    from ..services.problem import Problem
    from ..services.sharing import CONNECT, password
    from ..services.sharing.wire import Connect

    made = password.make()
    digest = password.proof_digest(password.proof(made, found.share))
    sealed = password.seal(made, found.share, found.sealing_key)
    try:
        client.call(CONNECT, Connect(found.share, sealed, digest, subscriber))
    except Problem as refusal:
        _expect_over(refusal)  # an old notice: it was let in, or is over
    else:
        click.echo(f"share {found.share}: password {made}")


def _expect_over(refusal: Problem) -> None:
    """Of a notice that is answered too late; whatever else is refused is raised."""
    if refusal.kind.name in ("busy", "no-allowance"):
        # One borrower fewer; the others are served on.
        click.echo(f"tollsplit: {refusal}", err=True)
    elif refusal.kind.name not in ("expired", "wrong-state", "not-nearby"):
        raise refusal


def _shown(notice: Notice, share: str | None = None) -> ShareView | None:
    """Say what a notice tells; the share, where it is about its state.

    share  others are left out; None: all
    """
    from ..services.sharing.wire import ShareView, UsageAlert

    if notice.kind == "share.usage":
        alert = notice.read(UsageAlert)
        if share not in (None, alert.share):
            return None
        click.echo(f"share {alert.share}: {alert.percent} % used, {alert.used_octets} of "
                   f"{alert.octets} octets")  # fmt: skip
    if notice.kind != "share":
        return None
    found = notice.read(ShareView)
    if share not in (None, found.share):
        return None
    click.echo(_line(found))
    return found


def _line(found: ShareView) -> str:
    text = f"share {found.share}: {found.state}"
    if found.state in ("running", "ended"):
        text += f", {found.used_octets} of {found.octets} octets used"
    if found.fee is not None and found.unit is not None:
        text += (f", {found.used_octets} octets used, fee {quantity(found.fee, found.unit)}, of "
                 f"which the lender's {quantity(found.lenders_part or 0, found.unit)}")  # fmt: skip
    return text


@share.command()
@SERVER
@KEY
@OCTETS
@click.option("--duration", "duration_s", metavar="SECONDS", type=click.IntRange(1, 86_400),
              default=3600, show_default=True, help="How long at most.")
@LOCATION
@click.option("--verify", type=click.Choice(("server", "module")), default="server",
              show_default=True,
              help="Who verifies the password: the service, which is sent the one that was "
              "relayed, or this device, which compares it with what is entered.")
@click.option("--subscriber", metavar="ADDRESS", callback=read_subscriber,
              help="The address that this device has at the lender's, as usage records name it; "
              "if absent, the one that it reaches the service by then, of IPv6 its /64.")
@click.option("--yes", is_flag=True, help="Take the first offer without asking.")
def borrow(
    server: str, key: Path, octets: int, duration_s: int, location: Place | None, verify: str,
    subscriber: str | None, yes: bool,
) -> None:  # fmt: skip
    """Be the borrower's device: ask for data, take an offer, and tell what is used until it ends.

    An interrupt ends the share; what was used by then is owed.

    \b
    Exit codes: 0 settled, 1 refused or not connected, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit share borrow --server http://127.0.0.1:8080 --key bob.key --octets "10 MiB" \\
        --location 39.9042,116.4074
    """
    with open_client(server, key) as client:
        from ..services.problem import Problem
        from ..services.sharing import BORROW, LENDERS
        from ..services.sharing.password import SealingKey
        from ..services.sharing.wire import Borrow, Named

        own = SealingKey()
        latitude, longitude = location or (None, None)
        asked = client.call(BORROW, Borrow(octets, duration_s, own.public, latitude, longitude))
        for one in client.call(LENDERS, Named(asked.share)).lenders:
            far = "" if one.distance_m is None else f", {one.distance_m} m away"
            click.echo(f"lender {one.label}{far}", err=True)
        try:
            state = _borrow(client, asked.share, own, verify, subscriber, yes)
        except KeyboardInterrupt:
            state = _leave(client, asked.share)
        except Problem as refusal:
            if refusal.kind.name == "other-address":
                _leave(client, asked.share)  # so that the lender is free for others
            raise
        if state not in ("settled", "ended"):
            raise TollsplitError(f"share {asked.share}: {state}; nothing is owed: ask again")


def _borrow(
    client: Client, share: str, own: SealingKey, verify: str, subscriber: str | None, yes: bool
) -> str:
    from ..services.sharing.wire import OfferView, PasswordNotice

    taken = False
    for notice in client.notices():
        if notice.kind == "share.offer" and not taken:
            offer = notice.read(OfferView)
            taken = offer.share == share and _take(client, offer, yes)
        elif notice.kind == "share.password":
            relayed = notice.read(PasswordNotice)
            if relayed.share == share:
                _enter(client, share, own.unseal(relayed.sealed, share), verify,
                       subscriber or _own_address(client.origin))  # fmt: skip
        elif (found := _shown(notice, share)) is not None and found.state in _OVER:
            return found.state
    raise AssertionError("notices have no end")


def _take(client: Client, offer: OfferView, yes: bool) -> bool:
    from ..services.problem import Problem
    from ..services.sharing import ACCEPT
    from ..services.sharing.wire import Accept

    click.echo(f"offer of {offer.label}: {offer.octets} octets at "
               f"{quantity(offer.price, offer.unit)} for each MiB, at most "
               f"{quantity(offer.at_most, offer.unit)}", err=True)  # fmt: skip
    if not yes and not click.confirm("take it?", err=True):
        return False
    try:
        client.call(ACCEPT, Accept(
            offer.share, offer.offer, offer.octets, offer.unit, offer.price))  # fmt: skip
    except Problem as refusal:
        if refusal.kind.name not in ("no-allowance", "no-lender", "expired"):
            raise
        click.echo(f"tollsplit: {refusal}", err=True)  # another one may do
        return False
    return True


def _own_address(origin: str) -> str:
    """The address that packets to a server come from, as usage records name subscribers."""
    parts = urlsplit(origin)
    family, kind, *_, there = socket.getaddrinfo(
        parts.hostname, parts.port or parts.scheme, type=socket.SOCK_DGRAM)[0]
    with closing(socket.socket(family, kind)) as probe:
        probe.connect(there)  # of a datagram's socket: nothing is sent
        address = ip_address(probe.getsockname()[0].partition("%")[0])
    return str(address if address.version == 4 else ip_network((address, 64), strict=False))


def _enter(client: Client, share: str, password: str, verify: str, subscriber: str) -> None:
    """Have the password verified, one way or the other."""
    from ..services.sharing import VERIFIED, VERIFY
    from ..services.sharing.password import Module
    from ..services.sharing.wire import Verified, Verify

    if verify == "server":
        client.call(VERIFY, Verify(share, password, subscriber))
        return
    module = Module(share, password)
    while not module.is_blocked:
        proof = module.verify(click.prompt("the lender's password", hide_input=True, err=True))
        if proof is not None:
            client.call(VERIFIED, Verified(share, proof, subscriber))
            return
        click.echo("tollsplit: this is not the password of this share", err=True)
    raise TollsplitError(f"share {share}: too many wrong passwords; ask for another share")


def _leave(client: Client, share: str) -> str:
    """End what runs, cancel what does not yet."""
    from ..services.sharing import CANCEL, SHOW, STOP
    from ..services.sharing.wire import Named

    running = client.call(SHOW, Named(share)).state == "running"
    found = client.call(STOP if running else CANCEL, Named(share))
    click.echo(_line(found))
    return found.state


@share.command()
@SERVER
@KEY
@_SHARE
def show(server: str, key: Path, share: str) -> None:
    """Say what became of a share, and what was used of it by now.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit share show --server http://127.0.0.1:8080 --key bob.key OZBvqXrVmkBvYk7wzL1hKA
    """
    with open_client(server, key) as client:
        from ..services.sharing import SHOW
        from ..services.sharing.wire import Named

        click.echo(_line(client.call(SHOW, Named(share))))


@share.command()
@SERVER
@KEY
@_SHARE
def end(server: str, key: Path, share: str) -> None:
    """End a share, by either side's key: cancel it, or where it runs stop it and owe what was used.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit share end --server http://127.0.0.1:8080 --key bob.key OZBvqXrVmkBvYk7wzL1hKA
    """
    with open_client(server, key) as client:
        _leave(client, share)
