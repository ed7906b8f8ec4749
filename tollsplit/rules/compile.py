"""A rule set → the classifier of the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tollsplit.cext.classify import CLASSES_MAX, HOLDERS_MAX, Classifier
from tollsplit.cext.covering import Covering
from tollsplit.cext.field import DIRECT_FIELDS, FIELDS, Fields, hashed
from tollsplit.cext.lpm import Trie
from tollsplit.cext.resolvers import Resolvers
from tollsplit.cext.suffixes import Suffixes
from tollsplit.errors import RulesError
from tollsplit.rules.expression import check
from tollsplit.rules.facts import Facts
from tollsplit.rules.rule import Match, Pool, Prefix, Rule, RuleSet, Tenure
from tollsplit.rules.seal import seal_of

if TYPE_CHECKING:
    from tollsplit.rules.expression import WherePredicate

Subscribed = tuple[np.ndarray, np.ndarray, np.ndarray]

POOL_BITS = 12
# Pool key kinds as the core numbers them (kind_e).
KINDS = {"address": 0, "gtp_teid": 2, "vlan": 3, "pppoe_session": 4, "mac": 5}
# Fields that only the first fragment of a datagram has.
TRANSPORT = frozenset({
    "protocol", "source_port", "destination_port", "server_port", "subscriber_port", "tcp_flags"})
# How many values a field's table has; wide fields are hashed.
SIZES = {"direction": 2, "protocol": 256, "port": 65536, "dscp": 64, "vlan": 4096,
         "vlan_inner": 4096, "qfi": 64, "ingress": 256}  # fmt: skip


class Compiled:
    """The classifier of a rule set and what must live as long as it.

    tenures   every pool's directory in one row; the core's tenure n is tenures[n - 1]
    """

    def __init__(self, rules: RuleSet) -> None:
        words = max(1, -(-len(rules.rules) // 64))
        self._trie4, trie6, server, subscribed = _addresses(rules, words)
        self.tenures, pools, segments = _pools(rules.pools)
        self.where = _where(rules.rules)
        fields = Fields(words, _fields(rules, words))
        spoken = _bits((i for i, r in enumerate(rules.rules) if r.match.is_spoken), words)
        claims = ~spoken & _bits(
            (i for i, r in enumerate(rules.rules) if r.match.claims and r.match.server is not None),
            words,
        )
        where = None
        if self.where is not None:
            plain = _bits((i for i, r in enumerate(rules.rules) if not r.match.where), words)
            where = (self.where.address, plain)
        covering = _covering(rules, fields, server, subscribed)
        self.classifier = Classifier(
            self._trie4,
            trie6,
            pools,
            segments,
            server & ~spoken,  # no packet matches those by itself
            subscribed,
            fields,
            claims if claims.any() else None,
            where,
            tracks(rules),
            covering,
        )
        self.classifier.resolvers = Resolvers(
            ((p.version, p.value, p.length) for p in rules.meter.resolvers),
            self._trie4, trie6, covering)  # fmt: skip
        self.classifier.seal = seal_of(rules.rules)

    def pool_of(self, address: int) -> int:
        """The pool (from 1 on) of an IPv4 address; 0: none."""
        return self._trie4.lookup(address) & ((1 << POOL_BITS) - 1)

    def pools_of(self, addresses: np.ndarray) -> np.ndarray:
        """u2[n], the pool (from 1 on) of each IPv4 address u4[n]; 0: none."""
        return (self._trie4.values(addresses) & ((1 << POOL_BITS) - 1)).astype(np.uint16)


def tracks(rules: RuleSet) -> bool:
    """Whether some rule asks for what not every packet shows, but others of its flow do, or the
    meter for what was met before."""
    return rules.meter.remembers or any(
        rule.match.needs or rule.match.port is not None or rule.match.protocol is not None
        or (rule.match.where is not None and not TRANSPORT.isdisjoint(check(rule.match.where)))
        for rule in rules.rules)


def _covering(
    rules: RuleSet, fields: Fields, server: np.ndarray, subscribed: Subscribed | None
) -> Covering:
    """The rules that cover flows."""
    facts = Facts.of(rules.rules)
    return Covering(fields, server, subscribed[1] if subscribed is not None else None,
                    facts.rules, facts.kinds, Suffixes(facts.names), facts.tokens, facts.outer,
                    facts.conditions)


def _bits(rules: Iterable[int], words: int) -> np.ndarray:
    """u8[words] with a bit set for each rule."""
    result = np.zeros(words, np.uint64)
    for rule in rules:
        result[rule // 64] |= np.uint64(1 << rule % 64)
    return result


def _where(rules: tuple[Rule, ...]) -> WherePredicate | None:
    expressions = [(i, r.match.where) for i, r in enumerate(rules) if r.match.where]
    if not expressions:
        return None
    from tollsplit.rules import expression  # imports Numba

    return expression.compile(expressions)


def _addresses(
    rules: RuleSet, words: int
) -> tuple[Trie, Trie, np.ndarray, Subscribed | None]:
    """Tries address → class << POOL_BITS | pool, and the sets of rules that each class is.

    A class is a set of rules whose server condition an address fulfils, and of those whose
    subscriber condition it does, by numbers behind the others': the rules of every prefix that
    covers it. Those without such a condition come on top.
    """
    count = len(rules.rules)
    owners: dict[Prefix, tuple[int, list[int]]] = {}
    for number, pool in enumerate(rules.pools, 1):
        for prefix in pool.prefixes:
            owners[prefix] = (number, [])
    for index, rule in enumerate(rules.rules):
        for number, prefixes in ((index, rule.match.server),
                                 (count + index, rule.match.subscriber)):  # fmt: skip
            for prefix in prefixes or ():
                owner = owners.get(prefix)
                if owner is None:
                    owners[prefix] = (0, [number])
                elif not owner[1] or owner[1][-1] != number:
                    owner[1].append(number)
    classes: dict[frozenset[int], int] = {frozenset(): 0}
    leaves: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}
    for version in (4, 6):
        owned = sorted((p.value, p.length, *o) for p, o in owners.items() if p.version == version)
        leaves[version] = _leaves(owned, 32 if version == 4 else 128, classes)
    if len(classes) > CLASSES_MAX:
        raise RulesError(
            f"{rules.path}: the rules' prefixes overlap in {len(classes)} different ways, "
            f"expected at most {CLASSES_MAX}: let fewer rules name overlapping prefixes"
        )
    free = [i for i, r in enumerate(rules.rules) if r.match.server is None]
    server = np.stack([
        _bits([*(m for m in members if m < count), *free], words) for members in classes])
    return (Trie(32, leaves[4]), Trie(128, leaves[6]), server,
            _subscribed(rules, words, list(classes)))  # fmt: skip


def _subscribed(
    rules: RuleSet, words: int, classes: list[frozenset[int]]
) -> Subscribed | None:
    """(a row of each class, each row's set of rules, the rules without a subscriber condition)."""
    count = len(rules.rules)
    free = [i for i, r in enumerate(rules.rules) if r.match.subscriber is None]
    if len(free) == count:
        return None
    rows: dict[tuple[int, ...], int] = {}
    numbers = [
        rows.setdefault(tuple(sorted(m - count for m in members if m >= count)), len(rows))
        for members in classes
    ]
    if len(rows) > HOLDERS_MAX:
        raise RulesError(
            f"{rules.path}: the rules' subscribers overlap in {len(rows)} different ways, "
            f"expected at most {HOLDERS_MAX}: let fewer rules name overlapping prefixes"
        )
    bits = np.stack([_bits([*members, *free], words) for members in rows])
    return np.array(numbers, np.uint16), bits, _bits(free, words)


def _leaves(
    owned: list[tuple[int, int, int, list[int]]], bits: int, classes: dict[frozenset[int], int]
) -> list[tuple[int, int, int]]:
    """(value, length, leaf) of each prefix, what encloses it taken into account."""
    result = []
    unions: dict[tuple[int, tuple[int, ...]], int] = {}
    members = list(classes)
    above: list[tuple[int, int, int]] = []  # (last address, class, pool) of enclosing prefixes
    for value, length, pool, indexes in owned:
        while above and value > above[-1][0]:
            above.pop()
        outer_class, outer_pool = above[-1][1:] if above else (0, 0)
        number = outer_class
        if indexes:
            key = (outer_class, tuple(indexes))
            if key not in unions:
                union = members[outer_class] | frozenset(indexes)
                unions[key] = classes.setdefault(union, len(classes))
                if unions[key] == len(members):
                    members.append(union)
            number = unions[key]
        pool = pool or outer_pool
        above.append((value | ((1 << (bits - length)) - 1), number, pool))
        result.append((value, length, number << POOL_BITS | pool))
    return result


def _fields(rules: RuleSet, words: int) -> dict[str, tuple[object, ...]]:
    """name → (absent row, rows, values, bits) of every field that some rule looks at."""
    ingress_numbers = {name: i for i, name in enumerate(rules.ingresses, 1)}
    result: dict[str, tuple[object, ...]] = {}
    for name in FIELDS:
        wanted = [_values(name, r.match, ingress_numbers) for r in rules.rules]
        if all(values is None for values in wanted):
            continue
        holders: dict[int, list[int]] = {}
        for index, values in enumerate(wanted):
            for value in values or ():
                holders.setdefault(value, []).append(index)
        free = [i for i, values in enumerate(wanted) if values is None]
        rows: dict[tuple[int, ...], int] = {(): 0}  # row 0: only the rules that do not care
        row_of = {v: rows.setdefault(tuple(h), len(rows)) for v, h in holders.items()}
        if len(rows) > 65535:
            raise RulesError(
                f"{rules.path}: {len(rows)} different sets of rules by {name}, expected at "
                "most 65535: give several values to one rule"
            )
        bits = np.stack([_bits([*members, *free], words) for members in rows])
        table: np.ndarray
        if name in DIRECT_FIELDS:
            table, keys = np.zeros(SIZES[name], np.uint16), None
            for value, row in row_of.items():
                table[value] = row
        else:
            table, keys = hashed(row_of)
        result[name] = (0, table, keys, bits)
    return result


def _values(name: str, match: Match, ingress_numbers: Mapping[str, int]) -> Iterable[int] | None:
    """The values of a field that a rule allows; None: all."""
    if name == "direction":
        return None if match.direction == "both" else [int(match.direction == "downlink")]
    if name == "port":
        if match.port is None:
            return None
        return {port for first, last in match.port for port in range(first, last + 1)}
    if name == "ingress":
        return None if match.ingress is None else [ingress_numbers[match.ingress]]
    values: frozenset[int] | None = getattr(match, name)
    return values


def _pools(
    pools: tuple[Pool, ...],
) -> tuple[
    list[Tenure],
    list[tuple[int, int, int, Trie | None, Trie | None]],
    tuple[np.ndarray, np.ndarray, np.ndarray],
]:
    """The directory in one list, the core's pools, and the timelines of their addresses."""
    tenures: list[Tenure] = []
    compiled: list[tuple[int, int, int, Trie | None, Trie | None]] = []
    timelines: list[list[tuple[int, int]]] = [[]]  # group 0: none
    for pool in pools:
        first = len(tenures) + 1
        tenures.extend(pool.tenures)
        # tenures of one account share a number: who holds an address twice is one subscriber
        numbers: dict[str, int] = {}
        for number, tenure in enumerate(pool.tenures, first):
            numbers.setdefault(tenure.account, number)
        tries: dict[int, Trie | None] = {4: None, 6: None}
        if pool.held_by_packet:
            for version, bits in ((4, 32), (6, 128)):
                tries[version] = Trie(
                    bits,
                    list(_groups(pool.tenures, numbers, version, bits, timelines.append,
                                 lambda: len(timelines))),
                )  # fmt: skip
        compiled.append((KINDS[pool.key], pool.ipv4_key, pool.ipv6_key, tries[4], tries[6]))
    group_at = np.cumsum([0] + [len(t) for t in timelines]).astype(np.uint32)
    flat = [segment for timeline in timelines for segment in timeline]
    starts = np.array([s for s, _ in flat], np.uint64)
    holders = np.array([h for _, h in flat], np.uint32)
    return tenures, compiled, (group_at, starts, holders)


def _groups(
    tenures: tuple[Tenure, ...],
    numbers: Mapping[str, int],
    version: int,
    bits: int,
    add: Callable[[list[tuple[int, int]]], None],
    count: Callable[[], int],
) -> Iterable[tuple[int, int, int]]:
    """(value, length, group) of each prefix in a directory; a group is a timeline."""
    own: dict[Prefix, list[int]] = {}
    for index, tenure in enumerate(tenures):
        if tenure.prefix.version == version:
            own.setdefault(tenure.prefix, []).append(index)
    above: list[tuple[int, list[int]]] = []  # (last address, tenures from outermost in)
    for prefix in sorted(own, key=lambda p: (p.value, p.length)):
        while above and prefix.value > above[-1][0]:
            above.pop()
        line = [*(above[-1][1] if above else ()), *own[prefix]]
        above.append((prefix.value | ((1 << (bits - prefix.length)) - 1), line))
        group = count()
        add(_timeline(tenures, line, numbers))
        yield prefix.value, prefix.length, group


def _timeline(
    tenures: tuple[Tenure, ...], line: list[int], numbers: Mapping[str, int]
) -> list[tuple[int, int]]:
    """(start_ns, tenure number) segments; the innermost prefix's tenure goes first."""
    instants = {0}
    for index in line:
        instants.add(tenures[index].valid_from_ns or 0)
        end = tenures[index].valid_to_ns
        if end is not None:
            instants.add(end)
    result: list[tuple[int, int]] = []
    for instant in sorted(instants):
        holder = 0
        for index in line:
            tenure = tenures[index]
            if (tenure.valid_from_ns or 0) <= instant and (
                tenure.valid_to_ns is None or instant < tenure.valid_to_ns
            ):
                holder = numbers[tenure.account]  # later in the line: a longer prefix
        if not result or result[-1][1] != holder:
            result.append((instant, holder))
    return result


def holders(pool: Pool) -> Callable[[int, int], str | None]:
    """(version, address) → account by a directory whose tenures have no limits in time."""
    tries = {}
    for version, bits in ((4, 32), (6, 128)):
        tries[version] = Trie(
            bits,
            [
                (t.prefix.value, t.prefix.length, i)
                for i, t in enumerate(pool.tenures, 1)
                if t.prefix.version == version
            ],
        )

    def holder(version: int, address: int) -> str | None:
        found = tries[version].lookup(address)
        return pool.tenures[found - 1].account if found else None

    return holder
