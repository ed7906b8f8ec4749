"""`tollsplit demo`: the whole story in one minute, on bundled data or live."""

from __future__ import annotations

import shlex
from pathlib import Path

import click


@click.command()
@click.option("--directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
              default=Path("demo"), show_default=True,
              help="Where the example and its ledger are written.")
@click.option("--live", is_flag=True,
              help="Play the story live, on hosts in network namespaces; needs root.")
def demo(directory: Path, live: bool) -> int:
    """Show the whole story on bundled data: capture, rules, bill, books.

    Writes a small capture (seeded, the same on every machine), a rules file and a directory of
    subscribers into DIR, accounts the capture, books it into an SQLite ledger and prints the
    statement of one account. Every step is an ordinary command, shown as you would type it. Run
    it again and the ledger says that the run is already booked.

    With --live the traffic is real: subscribers, a gateway, a sponsor's proxy and a shop are made
    on this machine, `tollsplit capture` meters what passes, the services run on the same ledger,
    and at the end the books are compared with what was on the wire. It takes about a minute, and
    leaves nothing but a folder in DIR.

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 bad input, 4 the books do not balance.

    \b
    Example:
      tollsplit demo --directory /tmp/tollsplit-demo
    """
    if live:
        from .live import play

        play(directory)
        return 0
    return _show(directory)


def _show(directory: Path) -> int:
    """The story on bundled data."""
    from ...rules import load
    from .. import invoke
    from .example import CAPTURE, RULES, write_example

    capture, rules = str(directory / CAPTURE), str(directory / RULES)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_example(directory)
    except OSError as error:
        raise click.ClickException(f"{error.filename or directory}: {error.strerror}") from error
    # Books of other rules refuse this capture: each version of the example has its own.
    version = load(rules).version.removeprefix("sha256:")[:8]
    ledger = f"sqlite:///{directory / f'ledger-{version}.db'}"
    click.echo(f"1. An example of traffic, rules and subscribers, written to {directory}")
    story = (
        ("The rules are checked", ("rules", "check", rules)),
        ("One packet is explained", ("rules", "explain", rules, capture, "--packet", "3300")),
        ("The capture is accounted and booked",
         ("account", capture, "--rules", rules, "--ledger", ledger)),
        ("A sponsor's statement for November", (
            "statement", "--ledger", ledger, "--account", "sponsor:video-co", "--period", "2026-11",
            "--zone", "Asia/Shanghai")),
        ("The ledger is verified from its postings", ("ledger", "verify", "--ledger", ledger)),
    )
    for number, (step, arguments) in enumerate(story, start=2):
        click.echo(f"\n{number}. {step}\n   $ {shlex.join(('tollsplit', *arguments))}\n")
        code = invoke(arguments)
        if code:
            return code
    return 0
