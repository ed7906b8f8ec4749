"""`tollsplit rules`: check a rules file, explain one packet, push rules to a running capture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..rules.rule import RuleSet


@click.group()
def rules() -> None:
    """Check a rules file, explain what it makes of one packet, or put it in force.

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 bad input.

    \b
    Example:
      tollsplit rules check rules.toml
    """


@rules.command()
@click.argument("file", metavar="FILE")
def check(file: str) -> None:
    """Say whether a rules file is valid, and what is in it.

    An error names the line, what was found and what was expected. Warnings go to standard error
    and do not change the exit code; one says what is not installed here that the rules need.

    \b
    Exit codes: 0 valid, 2 usage, 3 not valid.

    \b
    Example:
      tollsplit rules check rules.toml
    """
    from ..errors import RulesError
    from ..rules import load
    from ..rules.seal import seal_of
    from ..tokens.keys import keys_of

    loaded = load(file)
    keys_of(loaded)
    warnings = list(loaded.warnings)
    try:
        seal_of(loaded.rules)
    except RulesError as missing:  # another machine may have it
        warnings.append(f"{file}: {missing}")
    for warning in warnings:
        click.echo(f"tollsplit: warning: {warning}", err=True)
    click.echo(f"{file}: {summary(loaded)}")


@rules.command()
@click.argument("file", metavar="FILE")
@click.argument("capture", metavar="CAPTURE")
@click.option("--packet", metavar="N", type=click.IntRange(1), required=True,
              help="Which packet of the capture; 1 is the first.")
@click.option("--trust-ip-length", is_flag=True,
              help="Believe IP lengths beyond the frame's length.")
def explain(file: str, capture: str, packet: int, trust_ip_length: bool) -> None:
    """Show for one packet which conditions held, which rule won, and who pays for it.

    The running total is that of CAPTURE alone, up to the packet. Budgets are left out: they are
    divided when a window is over. What comes after the packet is not looked at: of rules for which
    packets wait up to ten seconds (names, tokens, sticky) it says that they may cover it yet.

    \b
    Exit codes: 0 done, 2 usage (no such packet), 3 bad input.

    \b
    Example:
      tollsplit rules explain rules.toml capture.pcap --packet 1812
    """
    from .. import run
    from .table import print_explanation

    print_explanation(run.explain(capture, file, packet, trust_ip_length=trust_ip_length),
                      sys.stdout)


@rules.command()
@click.argument("file", metavar="FILE")
@click.option("--to", "door", metavar="PLACE", type=click.Path(path_type=Path), required=True,
              help="The running capture's --control socket, or the folder of its journal.")
def push(file: str, door: Path) -> None:
    """Put a rules file in force in a running `tollsplit capture`, without losing a packet.

    The file is checked here, and handed over with every file that it names. Packets from the
    printed instant on are metered by it, those before by the rules before; no usage record mixes
    the two. Where the capture refuses it, the rules in force stay.

    \b
    Exit codes: 0 in force, 2 usage (no capture answers), 3 not valid, or refused.

    \b
    Example:
      tollsplit rules push rules.toml --to ledger.db.journal
    """
    from ..report import instant_text
    from ..rules import load
    from ..rules.door import push_rules

    loaded = load(file)
    for warning in loaded.warnings:
        click.echo(f"tollsplit: warning: {warning}", err=True)
    version, since_ns = push_rules(loaded, door)
    click.echo(f"{file}: {version} is in force since {instant_text(since_ns)}")


def summary(loaded: RuleSet) -> str:
    """What a rules file holds, in one line."""
    prefixes = sum(len(pool.prefixes) for pool in loaded.pools)
    servers = sum(len(rule.match.server or ()) for rule in loaded.rules)
    tenures = sum(len(pool.tenures) for pool in loaded.pools)
    parts = [
        _count(len(loaded.rules), "rule") + f" ({_count(servers, 'server prefix')})",
        _count(len(loaded.sponsors), "sponsor"),
        _count(len(loaded.pools), "pool") + f" ({_count(prefixes, 'prefix')})",
    ]
    if tenures:
        parts.append(_count(tenures, "directory line"))
    parts.append(_count(len(loaded.tariffs), "tariff"))
    return f"valid: {', '.join(parts)}; {loaded.version[:19]}…"


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"{number:,} {noun if number == 1 else plural}"
