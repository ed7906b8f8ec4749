"""Writes docs/cli.md from what `--help` says: python docs/reference.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from tollsplit.cli import tollsplit

REFERENCE = Path(__file__).with_name("cli.md")
HEAD = """\
# Command line

Written from `--help` by `python docs/reference.py`; a test compares the two.
"""


def reference() -> str:
    """The reference of every command."""
    context = click.Context(tollsplit, info_name="tollsplit", **tollsplit.context_settings)
    return HEAD + "".join(sections(tollsplit, context))


def sections(command: click.Command, context: click.Context) -> Iterator[str]:
    context.terminal_width = context.max_content_width = 80
    usage = command.get_help(context)
    yield f"\n## {context.command_path}\n\n```text\n{usage}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from sections(inner, click.Context(inner, parent=context, info_name=name))


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
