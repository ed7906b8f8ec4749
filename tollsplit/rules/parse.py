"""Reads a rules file: TOML in, a RuleSet out, or one error that lists all faults by line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import ceil, lcm
from pathlib import PurePath
from typing import Literal, cast

from tollsplit import limits
from tollsplit.rules import expression, units
from tollsplit.rules.document import Document, Table
from tollsplit.rules.marks import Marks, read_marks
from tollsplit.rules.prefixes import (
    Finding,
    prefix,
    prefix_text,
    read_directory,
    read_prefixes,
    shared_subscribers,
)
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
    Match,
    Meter,
    Period,
    Pool,
    PoolKey,
    Prefix,
    Rule,
    RuleSet,
    Split,
    Sponsor,
    Tariff,
    Tenure,
)

_UINT32_MAX = 2**32 - 1
# Highest values of the numbers that a packet carries.
_NUMBERS = {
    "flow_label": 2**20 - 1,  # RFC 8200 §3
    "vlan": 4094,  # IEEE 802.1Q §9.6: 4095 is reserved
    "vlan_inner": 4094,
    "mpls": 2**20 - 1,  # RFC 3032 §2.1
    "gtp_teid": _UINT32_MAX,
    "qfi": 63,  # TS 38.415 §5.5.3.3
    "gre_key": _UINT32_MAX,
    "vni": 2**24 - 1,  # RFC 7348 §5
}


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
        self._files: dict[str, tuple[Prefix, ...]] = {}
        self._prefixes = 0
        self._sticky = 0
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
        rules = self._rules(root)
        root.close()
        if self._prefixes > limits.PREFIXES_MAX:
            root.error(f"expected at most {limits.PREFIXES_MAX:,} prefixes, got {self._prefixes:,}")
        if not self._document.errors:
            used = {payer.tariff for group in (pools, self._sponsors.values(), rules)
                    for payer in group}  # fmt: skip
            unused(self._document, self._tariffs, taxes, used)
            review(self._document, meter, pools, self._sponsors, self._ingresses, rules)
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
            self._document.content,
        )

    # --- sections ------------------------------------------------------------------------

    def _meter(self, table: Table) -> Meter:
        layer = table.read("layer", units.choice("ip", "frame", "payload"), "ip")
        at = table.read("at", units.choice("inner", "outer"), "inner")
        window_s, window_month = table.read("window", units.window, (None, False))
        zone = table.read("zone", units.zone, "UTC")
        # None at all is an answer too: the network makes no tunnels.
        endpoints = self._prefix_list(table, "tunnel_endpoints", may_be_empty=True)
        table.close()
        return Meter(cast(Layer, layer), cast(At, at), window_s, window_month, zone, endpoints)

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
        prefixes = self._prefix_list(table, "prefixes") or ()
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
        return with_tariff(replace(pool, tenures=tenures), self._tariffs, table)

    def _tenures(self, table: Table, pool: Pool, meter: Meter) -> tuple[Tenure, ...]:
        name = table.read("directory", units.string, None)
        if name is None:
            return ()
        try:
            content = self._document.read(name)
        except ValueError as error:
            table.error(str(error), "directory")
            return ()
        tenures, findings = read_directory(content, meter.zone, pool.ipv4_key, pool.ipv6_key)
        self._note(name, findings)
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

    def _rules(self, root: Table) -> tuple[Rule, ...]:
        tables = root.tables("rules", _rule_label)
        if len(tables) > limits.RULES_MAX:
            root.error(f"expected at most {limits.RULES_MAX:,} rules, got {len(tables):,}", "rules")
        return tuple(sorted(map(self._rule, tables), key=lambda r: r.precedence))

    def _rule(self, table: Table) -> Rule:
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
        match = self._match(table.table("match", table.label), unverified)
        splits, per = self._splits(table)
        table.close()
        line = table.line()
        return Rule(
            identity, precedence, match, splits, per, rating_group, unverified, tariff, line
        )

    def _match(self, table: Table, unverified: bool) -> Match:
        directions = units.choice("uplink", "downlink", "both")
        direction = table.read("direction", directions, "both")
        marks = self._marks(table)
        numbers = {
            key: _as_set(table.several(key, units.integer(0, high)))
            for key, high in _NUMBERS.items()
        }
        match = Match(
            server=self._prefix_list(table, "server"),
            subscriber=self._prefix_list(table, "subscriber"),
            port=table.several("port", units.port),
            protocol=_as_set(table.several("protocol", units.protocol)),
            direction=cast(Literal["uplink", "downlink", "both"], direction),
            dscp=_as_set(table.several("dscp", units.dscp)),
            ingress=table.read("ingress", units.string, None),
            where=table.read("where", _where, None),
            sticky=table.read("sticky", units.boolean, False),
            marks=cast(str, table.peek("marks")) if marks is not None else None,
            **numbers,
        )
        if marks is not None:
            match = replace(match, **marks._asdict())
        table.close()
        self._check_match(table, match, unverified)
        return match

    def _check_sticky(self, table: Table, match: Match) -> None:
        if not match.sticky:
            return
        self._sticky += 1
        if match.where is not None:
            table.error('expected no "where" beside it: give its conditions as keys', "sticky")
        if self._sticky == limits.STICKY_RULES_MAX + 1:
            table.error(f"expected at most {limits.STICKY_RULES_MAX} sticky rules", "sticky")
        shown = ("dscp", "ingress", *_NUMBERS)
        if match.marks is None and match.direction == "both" and all(
                getattr(match, key) is None for key in shown):
            table.error("expected a condition that one packet of a flow can fulfil and another "
                        f"not: {units.listed(shown)}, direction", "sticky")

    def _check_match(self, table: Table, match: Match, unverified: bool) -> None:
        ingress = self._ingresses.get(match.ingress) if match.ingress is not None else None
        if match.ingress is not None and ingress is None:
            remedy = units.nearest(match.ingress, self._ingresses)
            remedy = remedy or "; define it as a table under [ingress]"
            table.error(f"unknown ingress {units.shown(match.ingress)}{remedy}", "ingress")
        self._check_sticky(table, match)
        protocols = match.protocol or units.PROTOCOLS_WITH_PORTS
        if match.port is not None and not protocols & units.PROTOCOLS_WITH_PORTS:
            table.error('expected "protocol" tcp, udp or another that has ports', "port")
        everybody = [prefix_text(item) for item in match.server or () if item.length == 0]
        is_server = match.server is not None and not everybody
        is_proven = unverified or is_server or (ingress is not None and ingress.trusted)
        found, remedy = "", 'add "server",'
        if everybody:
            found = f', and "server" holds {everybody[0]}, which is everybody'
            remedy = "list the sponsor's own servers, or add"
        for claim in match.claims if not is_proven else ():
            key = next(k for k in (claim, "marks", "where") if k in table)
            table.error(
                f'users can write {claim} themselves{found}; {remedy} an "ingress" that is '
                "trusted, or unverified = true to the rule",
                key,
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

    # --- prefixes ------------------------------------------------------------------------

    def _prefix_list(
        self, table: Table, key: str, may_be_empty: bool = False
    ) -> tuple[Prefix, ...] | None:
        """The prefixes of an array, or those of the file that a string names."""
        if isinstance(table.peek(key), str):
            found = table.read(key, self._prefix_file, ())
        else:
            several = table.several(key, prefix, may_be_empty)
            if several is None:
                return None
            found = tuple(dict.fromkeys(several))
        self._prefixes += len(found)
        return found

    def _prefix_file(self, value: object) -> tuple[Prefix, ...]:
        name = units.string(value)
        if name not in self._files:
            try:
                content = self._document.read(name)
            except ValueError as error:
                raise ValueError(f"{error}{_address_remedy(name)}") from None
            self._files[name], findings = read_prefixes(content)
            self._note(name, findings)
        return self._files[name]

    def _marks(self, table: Table) -> Marks | None:
        """What a file of marks says instead of "server" and a tag."""
        marks = table.read("marks", self._marks_file, None)
        for key in Marks._fields if "marks" in table else ():
            if key in table:
                table.error(f'"marks" names the {key} too; leave one of them out', key)
        self._prefixes += len(marks.server) if marks else 0
        return marks

    def _marks_file(self, value: object) -> Marks:
        name = units.string(value)
        marks, findings = read_marks(self._document.read(name))
        self._note(name, findings)
        return marks

    def _note(self, name: str, findings: list[Finding]) -> None:
        file = self._document.beside(name)
        self._document.errors += [(file, line, message) for line, message in findings]


def _address_remedy(name: str) -> str:
    """A string is a file's name; an address was meant as a list."""
    try:
        prefix(name)
    except ValueError as error:
        if "did you mean" not in str(error):
            return ""
    return f'; prefixes stand in brackets: ["{PurePath(name)}"]'


def _rule_label(number: int, table: Table) -> str:
    identity = table.peek("id")
    is_named = isinstance(identity, str) and identity.strip()
    return f"rule {units.shown(identity)}" if is_named else f"rule {number}"


def _as_set(values: tuple[int, ...] | None) -> frozenset[int] | None:
    return None if values is None else frozenset(values)


def _where(value: object) -> str:
    text = units.string(value)
    expression.check(text)
    return text


def _percent(total: Fraction) -> str:
    percent = total * 100
    return f"{percent.numerator}%" if percent.denominator == 1 else f"{float(percent):.6g}%"
