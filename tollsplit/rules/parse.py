"""Reads a rules file: TOML in, a RuleSet out, or one error that lists all faults by line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import ceil, lcm
from typing import Literal, cast

from tollsplit import limits
from tollsplit.rules import units
from tollsplit.rules.document import Document, Table
from tollsplit.rules.leases import read_holders
from tollsplit.rules.lists import Lists
from tollsplit.rules.match import Matches
from tollsplit.rules.prefixes import prefix_text, shared_subscribers
from tollsplit.rules.pricing import (
    named_tariff,
    read_tariffs,
    read_taxes,
    unused,
    with_tariff,
)
from tollsplit.rules.review import review
from tollsplit.rules.rule import (
    At,
    Budget,
    Ingress,
    Layer,
    Meter,
    Period,
    Pool,
    PoolKey,
    Prefix,
    Retransmissions,
    Rule,
    RuleSet,
    Split,
    Sponsor,
    Tariff,
    Tenure,
)

_UINT32_MAX = 2**32 - 1


def load(
    path: str | os.PathLike[str], content: Mapping[str, bytes] | None = None
) -> RuleSet:
    """The rules of a file, checked.

    content   a RuleSet's `content`: what the files held then, instead of what they hold now

    Raises RulesError whose message has a line for each fault: file, line, what was found, what
    was expected, and the remedy where there is one. What is merely odd is in `warnings`.
    """
    document = Document(path, content)
    return _Reader(document).rule_set()


class _Reader:
    """Reads the sections in an order in which names are known before they are used."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._lists = Lists(document)
        self._tariffs: dict[str, Tariff] = {}
        self._sponsors: dict[str, Sponsor] = {}
        self._ingresses: dict[str, Ingress] = {}
        self._pool_lines: dict[Prefix, int] = {}
        self._rule_lines: dict[tuple[str, object], int] = {}

    def rule_set(self) -> RuleSet:
        root = self._document.root
        meter = self._meter(root.table("meter", "meter"))
        taxes = read_taxes(root)
        self._tariffs = read_tariffs(root, taxes)
        pools = self._pools(root, meter)
        self._read_sponsors(root)
        self._read_ingresses(root)
        tokens = root.table("tokens", "tokens")
        # Files that are read where tokens are checked, and nowhere else.
        token_keys = tokens.several("keys", units.string) or ()
        tokens.close()
        rules = self._rules(root, meter, has_keys="keys" in tokens)
        root.close()
        self._lists.check_counts(root)
        if not self._document.errors:
            used = {payer.tariff for group in (pools, self._sponsors.values(), rules)
                    for payer in group}  # fmt: skip
            unused(self._document, self._tariffs, taxes, used)
            review(self._document, meter, pools, self._sponsors, self._ingresses, rules)
            if token_keys and not any(rule.match.token for rule in rules):
                root.warn('no rule asks for a "token"', "tokens")
        warnings = self._document.finish()
        return RuleSet(
            self._document.name,
            self._document.version,
            meter,
            pools,
            self._sponsors,
            rules,
            self._tariffs,
            self._ingresses,
            warnings,
            token_keys,
            self._document.content,
        )

    # --- sections ------------------------------------------------------------------------

    def _meter(self, table: Table) -> Meter:
        layer = table.read("layer", units.choice("ip", "frame", "payload"), "ip")
        at = table.read("at", units.choice("inner", "outer"), "inner")
        window_s, window_month = table.read("window", units.window, (None, False))
        zone = table.read("zone", units.zone, "UTC")
        # None at all is an answer too: the network makes no tunnels.
        endpoints = self._lists.prefixes(table, "tunnel_endpoints", may_be_empty=True)
        resolvers = self._lists.prefixes(table, "resolvers") or ()
        retransmissions = table.read("retransmissions", units.choice(
            "charge", "charge_if_identical", "exempt_if_identical"), "charge")
        duplicates_ns = table.read("duplicates", units.moment, 0)
        unsolicited = table.read("unsolicited", units.boolean, False)
        table.close()
        return Meter(
            cast(Layer, layer), cast(At, at), window_s, window_month, zone, endpoints,
            resolvers, cast(Retransmissions, retransmissions), duplicates_ns, unsolicited)

    def _pools(self, root: Table, meter: Meter) -> tuple[Pool, ...]:
        if "pools" not in root:
            root.error("expected at least one [[pools]] table: who the subscribers are")
        tables = root.tables("pools", lambda number, _: f"pool {number}")
        if len(tables) > limits.POOLS_MAX:
            root.error(f"expected at most {limits.POOLS_MAX} pools, got {len(tables)}", "pools")
        pools = tuple(self._pool(table, meter) for table in tables)
        for number, part, subscriber, other, rival in shared_subscribers(pools):
            key = f"ipv{part.version}_key"
            tables[number].error(
                f"{prefix_text(part)} is less than one subscriber, who is "
                f"{prefix_text(subscriber)} ({key} = {subscriber.length}), and "
                f"{prefix_text(rival)} of pool {other + 1} holds the rest or some of it: that "
                f"would be two subscribers of one name; set {key} = {part.length}, or put both "
                "prefixes into one pool",
                "prefixes",
            )
        return pools

    def _pool(self, table: Table, meter: Meter) -> Pool:
        if "prefixes" not in table:
            table.error('key "prefixes" is missing')
        prefixes = self._lists.prefixes(table, "prefixes") or ()
        keys = units.choice("address", "gtp_teid", "vlan", "pppoe_session", "mac")
        pool = Pool(
            prefixes,
            table.read("ipv4_key", units.integer(0, 32), 32),
            table.read("ipv6_key", units.integer(0, 128), 64),
            cast(PoolKey, table.read("key", keys, "address")),
            (),
            named_tariff(table, self._tariffs),
        )
        for item in prefixes:
            earlier = self._pool_lines.setdefault(item, table.line())
            if earlier != table.line():
                place = f"the pool on line {earlier}"
                table.error(f"{prefix_text(item)} is in {place} already", "prefixes")
        tenures = self._tenures(table, pool, meter)
        table.close()
        named = cast(str | None, table.peek("directory"))
        return with_tariff(
            replace(pool, tenures=tenures, directory=named), self._tariffs, table)

    def _tenures(self, table: Table, pool: Pool, meter: Meter) -> tuple[Tenure, ...]:
        name = table.read("directory", units.string, None)
        if name is None:
            return ()
        try:
            content = self._document.read(name)
        except ValueError as error:
            table.error(str(error), "directory")
            return ()
        tenures, findings = read_holders(content, meter.zone, pool.ipv4_key, pool.ipv6_key)
        self._lists.note(name, findings)
        return tenures

    def _read_sponsors(self, root: Table) -> None:
        for name, table in root.entries("sponsors", "sponsor"):
            sponsor = Sponsor(
                name,
                table.read("account", units.string, f"sponsor:{name}"),
                table.read("asp_identity", units.string, None),
                self._budget(table),
                named_tariff(table, self._tariffs),
            )
            table.close()
            self._sponsors[name] = with_tariff(sponsor, self._tariffs, table)
        if len(self._sponsors) > limits.SPONSORS_MAX:
            found = len(self._sponsors)
            root.error(f"expected at most {limits.SPONSORS_MAX} sponsors, got {found}", "sponsors")

    @staticmethod
    def _budget(table: Table) -> Budget | None:
        octets = table.read("budget", units.size, None)
        per = table.read("per", units.choice("day", "month", "campaign"), "campaign")
        if "per" in table and "budget" not in table:
            table.error('expected a "budget" beside it', "per")
        if octets is None:
            return None
        return Budget(octets, None if per == "campaign" else cast(Literal["day", "month"], per))

    def _read_ingresses(self, root: Table) -> None:
        interfaces: dict[str, int] = {}
        for name, table in root.entries("ingress", "ingress"):
            interface = table.require("interface", units.string, "")
            trusted = table.read("trusted", units.boolean, False)
            table.close()
            line = interfaces.setdefault(interface, table.line())
            if line != table.line() and interface:
                shown = units.shown(interface)
                table.error(f"{shown} is the ingress on line {line} already", "interface")
            self._ingresses[name] = Ingress(name, interface, trusted)
        if len(self._ingresses) > limits.INGRESSES_MAX:
            found = len(self._ingresses)
            root.error(f"expected at most {limits.INGRESSES_MAX} of them, got {found}", "ingress")

    # --- rules ---------------------------------------------------------------------------

    def _rules(self, root: Table, meter: Meter, has_keys: bool) -> tuple[Rule, ...]:
        tables = root.tables("rules", _rule_label)
        if len(tables) > limits.RULES_MAX:
            root.error(f"expected at most {limits.RULES_MAX:,} rules, got {len(tables):,}", "rules")
        matches = Matches(self._lists, meter, self._sponsors, self._ingresses, has_keys)
        return tuple(sorted(
            (self._rule(table, matches) for table in tables), key=lambda r: r.precedence))

    def _rule(self, table: Table, matches: Matches) -> Rule:
        identity = table.require("id", units.string, "")
        precedence = table.require("precedence", units.integer(0, _UINT32_MAX), -1)
        for key, value in (("id", identity), ("precedence", precedence)):
            earlier = self._rule_lines.setdefault((key, value), table.line())
            if earlier != table.line() and value not in ("", -1):
                found = f"{units.shown(value)} of the rule on line {earlier}"
                table.error(f"expected one of its own, got {found}", key)
        rating_group = table.read("rating_group", units.integer(0, _UINT32_MAX), None)
        unverified = table.read("unverified", units.boolean, False)
        tariff = named_tariff(table, self._tariffs)
        match = matches.read(table.table("match", table.label), unverified)
        splits, per = self._splits(table)
        table.close()
        line = table.line()
        return Rule(
            identity, precedence, match, splits, per, rating_group, unverified, tariff, line
        )

    def _splits(self, table: Table) -> tuple[tuple[Split, ...], Period]:
        tables = table.tables("split", lambda *_: table.label)
        if len(tables) > limits.SPLITS_MAX:
            found = len(tables)
            table.error(f"expected at most {limits.SPLITS_MAX} sponsors, got {found}", "split")
        splits: list[Split] = []
        pers: list[str] = []
        for entry in tables:
            split = self._split(entry)
            if split.sponsor and any(split.sponsor == s.sponsor for s in splits):
                entry.error(f"{units.shown(split.sponsor)} has a part already", "sponsor")
            splits.append(split)
            per = entry.read("per", units.choice("window", "day", "month", "session"), None)
            if per is not None:
                if pers and per != pers[0]:
                    first = units.shown(pers[0])
                    entry.error(f"expected {first} as before, got {units.shown(per)}", "per")
                pers.append(per)
            entry.close()
        total = sum((s.share for s in splits), Fraction(0))
        if total > 1 and len(splits) > 1:
            table.error(f"expected shares of at most 100% together, got {_percent(total)}", "split")
        if lcm(*(s.share.denominator for s in splits)) > limits.SHARE_DENOMINATOR_MAX:
            bound = f"{limits.SHARE_DENOMINATOR_MAX:,}"
            table.error(f"expected shares with a common denominator of at most {bound}", "split")
        return tuple(splits), cast(Period, pers[0] if pers else "window")

    def _split(self, entry: Table) -> Split:
        sponsor = entry.require("sponsor", units.string, "")
        if sponsor and sponsor not in self._sponsors:
            remedy = units.nearest(sponsor, self._sponsors)
            remedy = remedy or f"; define it as [sponsors.{sponsor}]"
            entry.error(f"unknown sponsor {units.shown(sponsor)}{remedy}", "sponsor")
        quota = entry.read("quota", units.size, None)
        if quota is not None and "per" not in entry:
            entry.warn('a "quota" without "per" holds for each window anew', "quota")
        share = entry.read("share", units.share, Fraction(1))
        thresholds = entry.several("thresholds", units.threshold) or ()
        if quota is None and any(isinstance(threshold, Fraction) for threshold in thresholds):
            entry.error('expected a "quota" beside it, or sizes instead of shares', "thresholds")
        octets = {ceil(t * (quota or 0)) if isinstance(t, Fraction) else t for t in thresholds}
        if quota is not None and any(threshold > quota for threshold in octets):
            entry.error('expected thresholds up to the "quota"', "thresholds")
        return Split(sponsor, share, quota, tuple(sorted(octets)))


def _rule_label(number: int, table: Table) -> str:
    identity = table.peek("id")
    is_named = isinstance(identity, str) and identity.strip()
    return f"rule {units.shown(identity)}" if is_named else f"rule {number}"


def _percent(total: Fraction) -> str:
    percent = total * 100
    return f"{percent.numerator}%" if percent.denominator == 1 else f"{float(percent):.6g}%"
