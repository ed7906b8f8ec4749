"""docs/attacks.md says of each attack what its test shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .test_attacks import ATTACKS, REFUSALS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "attacks.md").read_text("utf-8")
INTRODUCTION, STILL, *FAMILIES = re.split(r"^## ", PAGE, flags=re.M)
BODY, SOURCES = "## ".join(FAMILIES[:-1]), FAMILIES[-1]
ROWS = re.split(r"^### ", BODY, flags=re.M)[1:]
PARTS = ["Attack", "Others", "Here", "Remains", "Shown by"]
SUCCEEDING = {attack.name for attack in ATTACKS if attack.succeeds}


def names(text: str) -> list[str]:
    """The attacks that are named."""
    return re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", text)


def parts(row: str) -> dict[str, str]:
    """What is said of an attack: part by part, on one line each."""
    text = re.sub(r"\n  +", " ", row.split("\n## ")[0])
    return dict(re.findall(r"^- ([A-Z][a-z ]+?): (.*)$", text, flags=re.M))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.splitlines()[0])
def test_attacks_page_says_how_it_ends(row: str) -> None:
    said = parts(row)
    assert list(said) == PARTS
    succeeds = SUCCEEDING & set(names(said["Shown by"]))
    assert not (succeeds and re.match(r"nothing[.;]", said["Remains"]))


def test_attacks_page_has_each_attack_once() -> None:
    shown = [name for row in ROWS for name in names(parts(row)["Shown by"])]
    assert sorted(shown) == sorted(item.name for item in [*ATTACKS, *REFUSALS])


def test_attacks_page_lists_what_still_works() -> None:
    assert sorted(names(STILL)) == sorted(SUCCEEDING)


def test_attacks_page_cites_its_sources() -> None:
    listed = re.findall(r"^- \[([^\]]+)\]", SOURCES, flags=re.M)
    cited = {source.strip() for group in re.findall(r"\[([^\]]+)\](?!\()", BODY)
             for source in re.sub(r"\s+", " ", group).split(",")}
    assert listed == sorted(listed) and set(listed) == cited
