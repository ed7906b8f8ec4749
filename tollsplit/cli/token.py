"""`tollsplit token`: tokens by which a sponsor pays for one flow, and their keys."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from ..rules.rule import Prefix

T = TypeVar("T")
_PATH = click.Path(path_type=Path)
_SECOND_NS = 1_000_000_000
# What makes one subscriber where a pool does not say otherwise (accounting §3).
_SUBSCRIBER_BITS = {4: 32, 6: 64}
FORMS = ("text", "hex", "header", "prefix", "option", "extension")


def _option(read: Callable[[str], T]) -> Callable[..., T | None]:
    """An option's callback: what `read` makes of its text, whose ValueError is a usage error."""

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> T | None:
        try:
            return None if value is None else read(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _instant(text: str) -> int:
    """Nanoseconds of an instant, UTC where it has no offset."""
    from ..rules.prefixes import Instants

    at_ns = Instants("UTC").read(text)
    if at_ns is None:
        raise ValueError("expected an instant such as 2026-11-01T00:00:00Z, got nothing")
    return at_ns


def _expiry(text: str) -> int:
    """Seconds since 1970 of an instant, or of the end of a duration that begins now."""
    from ..rules.units import duration

    try:
        return int(time.time()) + duration(text)
    except ValueError:
        return _instant(text) // _SECOND_NS


def _prefix(text: str) -> Prefix:
    from ..rules.prefixes import prefix

    return prefix(text)


def _subscriber(text: str) -> Prefix:
    """The prefix that is one subscriber, of whom an address may stand alone."""
    from ..rules.prefixes import shortened

    found = _prefix(text)
    if "/" in text:
        return found
    return shortened(found, _SUBSCRIBER_BITS[found.version])


KEYS = click.option("--keys", metavar="FILE", type=_PATH, required=True,
                    help="The file of keys, which nobody else may read.")
SUBSCRIBER = click.option(
    "--subscriber", metavar="ADDRESS", required=True, callback=_option(_subscriber),
    help="Whose flow: an address as the operator sees it, of IPv6 its /64 counts; or a prefix, "
         "where a pool's ipv4_key or ipv6_key says that another one is a subscriber.")  # fmt: skip
VALID_FROM = click.option("--valid-from", metavar="INSTANT", callback=_option(_instant),
                          help="When it begins to be good; without it, it always was.")
VALID_TO = click.option("--valid-to", metavar="INSTANT", callback=_option(_instant),
                        help="When it stops; without it, never.")


@click.group()
def token() -> None:
    """Make and check tokens: a sponsor's word that he pays for one flow.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 keys or a token cannot be read.

    \b
    Example:
      tollsplit token mint --keys video.keys --sponsor video --subscriber 10.0.0.7 \\
          --server 203.0.113.0/24
    """


@token.command()
@KEYS
@click.option("--sponsor", metavar="NAME", required=True, help="As the rules file names it.")
@VALID_FROM
@VALID_TO
def keygen(
    keys: Path, sponsor: str, valid_from: int | None, valid_to: int | None
) -> None:
    """Add a new key to a file, for its owner's eyes alone (mode 0600); make FILE where there is
    none.

    The sponsor mints with it and the operator checks with it: both need it, and nobody else. To
    change keys, add one, give the operator the file, and end the old one by its valid_to.

    \b
    Exit codes: 0 done, 2 usage, 3 the file cannot be read or written.

    \b
    Example:
      tollsplit token keygen --keys video.keys --sponsor video
    """
    from ..tokens.keys import add_key

    if valid_from is not None and valid_to is not None and valid_from >= valid_to:
        raise click.UsageError("expected --valid-to behind --valid-from")
    made = add_key(keys, sponsor, valid_from, valid_to)
    click.echo(f'{keys}: key {made.id} of "{sponsor}"')


@token.command()
@KEYS
@click.option("--sponsor", metavar="NAME", required=True, help="Who pays.")
@SUBSCRIBER
@click.option("--server", metavar="PREFIX", required=True, callback=_option(_prefix),
              help="The sponsor's servers, one of which the flow goes to.")
@click.option("--expires", metavar="WHEN", default="5m", show_default=True,
              callback=_option(_expiry),
              help="A duration from now, or an instant: by then its packet must have come, and "
                   "no more than a day before.")
@click.option("--key", metavar="N", type=click.IntRange(0, 65_535),
              help="Which key; without it the sponsor's newest that is valid.")
@click.option("--form", type=click.Choice(FORMS), default="text", show_default=True,
              help="text: 48 characters. hex: its octets. header: a line of an HTTP request. "
                   "prefix, option, extension: octets, in hexadecimal, that a payload begins with, "
                   "of an IPv6 destination options header, of a TLS ClientHello's extension.")
def mint(
    keys: Path, sponsor: str, subscriber: Prefix, server: Prefix, expires: int, key: int | None,
    form: str,
) -> None:  # fmt: skip
    """Print a new token, good for one flow of one subscriber with one of the servers.

    \b
    Exit codes: 0 done, 2 usage, 3 the keys cannot be read, or none of them will do.

    \b
    Example:
      tollsplit token mint --keys video.keys --sponsor video --subscriber 10.0.0.7 \\
          --server 203.0.113.0/24
    """
    from ..tokens.keys import read_keys
    from ..tokens.verdict import mint as make

    chosen = read_keys([keys]).newest(sponsor, time.time_ns(), key)
    made = make(chosen, subscriber, server, expires)
    click.echo(_written(made, form))


def _written(octets: bytes, form: str) -> str:
    """A token in one of FORMS."""
    from ..tokens import carrier
    from ..tokens.token import text_of

    if form == "text":
        return text_of(octets)
    if form == "header":
        return carrier.header(octets)
    carriers = {"prefix": carrier.prefix, "option": carrier.option,
                "extension": carrier.extension}  # fmt: skip
    return (carriers[form](octets) if form in carriers else octets).hex()


@token.command()
@KEYS
@SUBSCRIBER
@click.option("--server", metavar="ADDRESS", required=True, callback=_option(_prefix),
              help="Where the flow goes to.")
@click.option("--at", metavar="INSTANT", callback=_option(_instant),
              help="The time of the flow's first packet; without it, now.")
@click.argument("text", metavar="TOKEN")
def check(keys: Path, subscriber: Prefix, server: Prefix, at: int | None, text: str) -> None:
    """Say whether a token would open a flow, and if not, why not.

    TOKEN is its text or its octets in hexadecimal; - reads it from standard input. Whether it was
    used before only a run knows that has seen it.

    \b
    Exit codes: 0 it would, 1 it would not, 2 usage, 3 the keys cannot be read, or TOKEN is none.

    \b
    Example:
      tollsplit token check --keys video.keys --subscriber 10.0.0.7 --server 203.0.113.9 \\
          AQE…
    """
    from ..report import instant_text
    from ..rules.prefixes import prefix_text, shortened
    from ..tokens.keys import read_keys
    from ..tokens.token import binding_of, octets_of
    from ..tokens.verdict import Refusal, expiry_of, judge

    octets = octets_of((sys.stdin.read() if text == "-" else text).strip())
    found = judge(octets, binding_of(subscriber, server), read_keys([keys]),
                  time.time_ns() if at is None else at)  # fmt: skip
    if isinstance(found, Refusal):
        click.echo(f"refused: {found.word}")
        click.echo(f"tollsplit: {found.reason}", err=True)
        raise click.exceptions.Exit(1)
    click.echo(
        f'good: "{found.sponsor}" pays for one flow of {prefix_text(subscriber)} with '
        f"{prefix_text(shortened(server, octets[1]))} "
        f"until {instant_text(expiry_of(octets) * _SECOND_NS)} (key {found.id})")
