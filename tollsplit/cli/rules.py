"""`tollsplit rules`: check a rules file, explain one packet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..rules.rule import RuleSet


@click.group()
def rules() -> None:
    """Check a rules file, or explain what it makes of one packet.

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
    and do not change the exit code.

    \b
    Exit codes: 0 valid, 2 usage, 3 not valid.

    \b
    Example:
      tollsplit rules check rules.toml
    """
    from ..rules import load

    loaded = load(file)
    for warning in loaded.warnings:
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
    divided when a window is over.

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
