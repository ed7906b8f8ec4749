"""Writes manual pages and shell completions: python docs/manual.py FOLDER

They are made from the commands themselves, and lie in the folder as below /usr/share.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from tollsplit import __version__
from tollsplit.cli import COMPLETE, tollsplit

# Where each shell looks for completions.
COMPLETIONS = {
    "bash": "bash-completion/completions/tollsplit",
    "zsh": "zsh/site-functions/_tollsplit",
    "fish": "fish/vendor_completions.d/tollsplit.fish",
}


def write(share: Path) -> None:
    """All pages and completions below a folder that stands for /usr/share."""
    manuals = share / "man" / "man1"
    manuals.mkdir(parents=True, exist_ok=True)
    for context in contexts(click.Context(tollsplit, info_name="tollsplit")):
        name = context.command_path.replace(" ", "-")
        (manuals / f"{name}.1").write_text(page(context), encoding="utf-8")
    for shell, place in COMPLETIONS.items():
        path = share / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(completion(shell), encoding="utf-8")


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Of a command and all below it."""
    yield context
    for name, command in commands(context):
        yield from contexts(click.Context(command, parent=context, info_name=name))


def commands(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield name, command


def page(context: click.Context) -> str:
    """A command's page, in the man macros of roff (man(7))."""
    command = context.command
    name = context.command_path.replace(" ", "-")
    help_text = cleandoc(command.help or "")
    first, _, rest = help_text.partition("\n\n")
    lines = [f'.TH "{quoted(name.upper())}" 1 "" "tollsplit {quoted(__version__)}" "tollsplit"',
             ".SH NAME", f"{quoted(name)} \\- {quoted(' '.join(first.rstrip('.').split()))}",
             ".SH SYNOPSIS", f".B {quoted(context.command_path)}",
             quoted(" ".join(command.collect_usage_pieces(context)))]  # fmt: skip
    if rest:
        lines += [".SH DESCRIPTION", *paragraphs(rest)]
    options = [record for record in (
        option.get_help_record(context) for option in command.get_params(context)
        if isinstance(option, click.Option)) if record is not None]  # fmt: skip
    if options:
        lines.append(".SH OPTIONS")
        for option, text in options:
            lines += [".TP", f".B {quoted(option)}", *paragraphs(text)]
    below = list(commands(context))
    if below:
        lines.append(".SH COMMANDS")
        for inner, each in below:
            lines += [".TP", f".BR {quoted(f'{name}-{inner}')} (1)",
                      quoted(each.get_short_help_str(200))]
    if context.parent is not None:
        above = context.parent.command_path.replace(" ", "-")
        lines += [".SH SEE ALSO", f".BR {quoted(above)} (1)"]
    return "\n".join(lines) + "\n"


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of a help text; those that begin with a backspace keep their lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield ".nf"
            yield from (quoted(line) for line in paragraph.removeprefix("\b\n").splitlines())
            yield ".fi"
        else:
            yield quoted(" ".join(paragraph.split()))


def quoted(text: str) -> str:
    """Text that roff takes as it stands (groff_char(7), "Eight-bit encodings")."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def completion(shell: str) -> str:
    """What a shell reads to complete our commands."""
    found = get_completion_class(shell)
    assert found is not None
    return found(tollsplit, {}, "tollsplit", COMPLETE).source()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
