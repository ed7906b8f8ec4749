"""Each attack, run as a user runs it: no octet is lost, and everybody pays what stands there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from strategies import capture
from test_reference import assert_same

from tollsplit.cli import main
from tollsplit.errors import RulesError
from tollsplit.rules import load

from . import (
    addresses,
    datagrams,
    lengths,
    marks,
    names,
    quotas,
    repeats,
    requests,
    resolvers,
    tokens,
    tunnels,
)
from .attack import Attack, Refusal

MODULES = (
    marks, addresses, tunnels, datagrams, lengths, quotas, names, requests, resolvers, tokens,
    repeats)
ATTACKS = [attack for module in MODULES for attack in module.ATTACKS]
REFUSALS = [refusal for module in MODULES for refusal in getattr(module, "REFUSALS", ())]
attacks = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
# The reference engine knows no tokens, no hosts, and no resolvers.
judged = pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack not in (
        *tokens.ATTACKS, *requests.ATTACKS, *resolvers.ATTACKS)],
    ids=lambda attack: attack.name)


def write_rules(attack: Attack, folder: Path) -> Path:
    """The rules file, and what it names."""
    for name, content in attack.files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    (folder / "rules.toml").write_text(attack.file, "utf-8")
    return folder / "rules.toml"


def accounted(attack: Attack, folder: Path) -> dict[str, Any]:
    """The document of `tollsplit account`, which has to end well."""
    rules = write_rules(attack, folder)
    (folder / "attack.pcapng").write_bytes(capture(attack.packets))
    assert main(["account", str(folder / "attack.pcapng"), "--rules", str(rules),
                 "--format", "json", "--output", str(folder / "bill.json")]) == 0
    document: dict[str, Any] = json.loads((folder / "bill.json").read_text("utf-8"))
    return document


def paid(document: dict[str, Any]) -> dict[str, int]:
    """Octets by payer."""
    octets: Counter[str] = Counter()
    for record in document["usage"]:
        octets[record["subscriber"]] += record["subscriber_octets"]
        octets.update(record["sponsor_octets"])
    return {payer: number for payer, number in octets.items() if number}


def counted(document: dict[str, Any]) -> dict[str, int]:
    """Octets by whatever a run counts beside what is metered."""
    volumes = {name: value["octets"] for name, value in document.items()
               if name not in ("seen", "metered") and isinstance(value, dict) and "octets" in value}
    volumes |= {f"fault:{kind}": value["octets"] for kind, value in document["faults"].items()}
    volumes |= {f"refused_token:{reason}": value["octets"]
                for reason, value in document["refused_tokens"].items()}
    volumes["tunnel_overhead"] = document["tunnel_overhead_octets"]
    return {name: number for name, number in volumes.items() if number}


@attacks
def test_attacks_bill(attack: Attack, tmp_path: Path) -> None:
    document = accounted(attack, tmp_path)
    assert document["identity"]["holds"]
    assert document["seen"]["packets"] == len(attack.packets)
    bill = paid(document)
    assert bill == attack.pays
    assert counted(document) == attack.counted
    assert sum(bill.values()) == document["metered"]["octets"]
    assert attack.succeeds or bill.get("shop", 0) <= attack.agreed


@judged
def test_attacks_bill_is_what_the_reference_says(attack: Attack, tmp_path: Path) -> None:
    rules = load(write_rules(attack, tmp_path))
    assert any(attack.warns in warning for warning in rules.warnings) or not attack.warns
    assert_same(list(attack.packets), rules)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_attacks_rules_that_invite_them_are_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(refusal.file, "utf-8")
    with pytest.raises(RulesError, match=refusal.message):
        load(tmp_path / "rules.toml")
