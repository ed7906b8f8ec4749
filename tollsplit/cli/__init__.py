"""The command line: the only part that prints or exits."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from getpass import GetPassWarning
from importlib import import_module
from io import TextIOWrapper
from typing import ClassVar

import click

from .. import __version__
from ..errors import TollsplitError

INTERRUPTED = 130  # as shells report SIGINT
BROKEN_PIPE = 141  # as shells report SIGPIPE
COMPLETE = "_TOLLSPLIT_COMPLETE"  # click's name for it
OBJECTS_BETWEEN_COLLECTIONS = 100_000


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    homes: ClassVar[dict[str, str]] = {
        "account": "account:account",
        "billing-auth": "billing_auth:billing_auth",
        "capture": "capture:capture",
        "demo": "demo:demo",
        "device": "device:device",
        "ingest": "ingest:ingest",
        "ledger": "ledger:ledger",
        "push-payment": "push_payment:push_payment",
        "reconcile": "reconcile:reconcile",
        "rules": "rules:rules",
        "serve": "serve:serve",
        "session": "session:session",
        "share": "share:share",
        "statement": "statement:statement",
        "token": "token:token",
        "transfer": "transfer:transfer",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = self.homes.get(cmd_name)
        if home is None:
            return None
        module, name = home.split(":")
        command = getattr(import_module(f".{module}", __name__), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tollsplit")
def tollsplit() -> None:
    """Whose octets these are, and who pays for them.

    Reads network captures or live interfaces, meters every subscriber's octets, splits them
    between subscriber and sponsors by your rules, proves that none was lost, rates them and
    books the charges.

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 bad input, 4 the books do not balance.

    \b
    Example:
      tollsplit account capture.pcap --rules rules.toml
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    # NumPy reads it once. Nothing here multiplies matrices, and its threads take time to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A run makes many objects and no cycles; to look for some was half the time of rating.
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    # Without a terminal secrets are read from standard input, and getpass says so itself.
    warnings.simplefilter("ignore", GetPassWarning)
    if isinstance(sys.stdout, TextIOWrapper):
        # A table in a locale without its characters is better than none.
        sys.stdout.reconfigure(errors="replace")
    try:
        code = invoke(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TollsplitError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _silence_stdout()
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except OSError as error:
        _silence_stdout()
        where = error.filename or "standard output"
        return _fail(f"{where}: {error.strerror or error}", 1)
    return code


def invoke(arguments: Sequence[str]) -> int:
    """Run one command; what it raises passes. Click's own main would swallow a broken pipe."""
    instruction = os.environ.get(COMPLETE)
    if instruction:  # a shell asks what comes next
        from click.shell_completion import shell_complete

        return shell_complete(tollsplit, {}, "tollsplit", COMPLETE, instruction)
    with tollsplit.make_context("tollsplit", list(arguments)) as context:
        code = tollsplit.invoke(context)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    click.echo(f"tollsplit: {message}", err=True)
    return code


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere: what it holds can no longer be written."""
    with suppress(OSError, ValueError):  # a captured stream has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
