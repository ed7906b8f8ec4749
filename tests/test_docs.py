"""What the documents say is what the program does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

sys.path.insert(0, str(ROOT / "docs"))

import reference  # noqa: E402 - a script beside the documents

from tollsplit.cli import main, tollsplit  # noqa: E402
from tollsplit.cli.demo.example import write_example  # noqa: E402


def test_docs_command_line_is_what_help_says() -> None:
    assert reference.REFERENCE.read_text("utf-8") == reference.reference(), (
        "run: python docs/reference.py")


def test_docs_every_command_documents_exit_codes_and_an_example() -> None:
    sections = reference.reference().split("\n## ")[1:]
    assert len(sections) >= 11
    for section in sections:
        assert "Exit codes:" in section, section.splitlines()[0]
        assert "Example:" in section, section.splitlines()[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_docs_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text("utf-8")):
        assert "://" in target or (document.parent / target).exists(), target


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each `tollsplit …` that stands in a block of code."""
    fenced = "".join(re.findall(r"^```(?:sh|text)?\n(.*?)^```", text, flags=re.S | re.M))
    blocks = fenced + "".join(re.findall(r"^(?:    .*\n)+", text, flags=re.M))
    for line in blocks.replace("\\\n", " ").replace("$(", "\n").splitlines():
        if found := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?tollsplit ([^#<>|&;]+)", line):
            yield found[1].partition(" -- ")[0].split()


def test_docs_commands_that_are_shown_exist() -> None:
    """Each command and each of its options, in every document; values aside."""
    shown = 0
    for document in DOCUMENTS:
        for words in _commands(document.read_text("utf-8")):
            command: click.Command = tollsplit
            where = f"{document.name}: tollsplit {' '.join(words)}"
            while isinstance(command, click.Group) and words:
                found = command.get_command(click.Context(command), words[0])
                assert found is not None, where
                command, words = found, words[1:]
            known = {name for option in command.params for name in option.opts}
            unknown = {word for word in words if re.match("--[a-z]", word)} - known
            assert not unknown, where
            shown += 1
    assert shown > 60


def test_docs_readme_example_is_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shown rules and output: every line of the output is printed, times aside."""
    text = (ROOT / "README.md").read_text("utf-8")
    [rules] = re.findall(r"^```toml\n(.*?)^```", text, flags=re.S | re.M)
    [shown] = re.findall(r"^```text\n\$ tollsplit (account.*?)^```", text, flags=re.S | re.M)
    command, *lines = shown.splitlines()
    monkeypatch.chdir(tmp_path)
    write_example(tmp_path)
    (tmp_path / "rules.toml").write_text(rules, "utf-8")
    assert main(command.split()[0:]) == 0
    printed = capsys.readouterr().out.splitlines()
    compared = [re.sub(r"in [0-9.]+ s", "in … s", line).rstrip() for line in printed]
    for line in lines:
        if line.strip() not in ("", "…"):
            assert re.sub(r"in [0-9.]+ s", "in … s", line).rstrip() in compared, line
