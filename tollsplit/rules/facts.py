"""What flows have to show: the conditions that no single packet fulfils, as bits of a flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tollsplit.rules.rule import Match, Rule, sponsor_digest


@dataclass
class Facts:
    """A bit for each condition of each rule that its flow has to fulfil."""

    rules: list[tuple[int, int]] = field(default_factory=list)  # (index, bits that it needs)
    kinds: dict[str, int] = field(default_factory=dict)  # kind of condition → all its bits
    names: dict[str, tuple[int, int]] = field(default_factory=dict)  # bits of it, and of all below
    tokens: dict[int, int] = field(default_factory=dict)  # what a token calls a sponsor → bits
    # Of each bit what is asked for, so that it can be told again under other rules; packets and
    # tokens are asked themselves.
    conditions: list[tuple[str, frozenset[str]] | None] = field(default_factory=list)
    outer: int = 0  # bits of names that are believed where a hello may hide another

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> Facts:
        """The facts of rules in order of precedence."""
        found = cls()
        count = 0
        for index, rule in enumerate(rules):
            needs = 0
            for kind in rule.match.needs:
                bit = 1 << count
                count += 1
                needs |= bit
                found.kinds[kind] = found.kinds.get(kind, 0) | bit
                found._name(rule.match, kind, bit)
                for sponsor in (rule.match.token or ()) if kind == "token" else ():
                    called = int.from_bytes(sponsor_digest(sponsor)[:4], "big")
                    found.tokens[called] = found.tokens.get(called, 0) | bit
                found.conditions.append(_condition(rule.match, kind))
            if needs:
                found.rules.append((index, needs))
        return found

    def _name(self, match: Match, kind: str, bit: int) -> None:
        for name, own in _names(match, kind):
            before = self.names.get(name, (0, 0))
            self.names[name] = (before[0] | (bit if own else 0), before[1] | bit)
        if kind == "sni" and match.ech:
            self.outer |= bit


def _names(match: Match, kind: str) -> Iterator[tuple[str, bool]]:
    """Each name of a condition, and whether it stands for itself too."""
    if kind in ("sni", "host", "dns"):
        for name in getattr(match, kind):
            yield name.removeprefix("*."), not name.startswith("*.")


def _condition(match: Match, kind: str) -> tuple[str, frozenset[str]] | None:
    """What a fact is about: whoever asks for all of it, and maybe more, has it fulfilled too."""
    if kind in ("packet", "token"):
        return None
    return "outer" if kind == "sni" and match.ech else kind, frozenset(getattr(match, kind))
