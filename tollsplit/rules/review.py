"""What is valid in a rules file and yet hardly meant: warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from tollsplit.rules.document import Document
from tollsplit.rules.prefixes import Cover, prefix_text, shortened
from tollsplit.rules.rule import Ingress, Match, Meter, Pool, Prefix, Rule, Sponsor
from tollsplit.rules.units import PROTOCOLS_WITH_PORTS, shown

_SETS = tuple(
    f.name for f in fields(Match) if f.name not in ("server", "port", "direction", "sticky"))


def review(
    document: Document,
    meter: Meter,
    pools: Sequence[Pool],
    sponsors: dict[str, Sponsor],
    ingresses: dict[str, Ingress],
    rules: Sequence[Rule],
) -> None:
    """Note every warning in the document."""
    for index, pool in enumerate(pools):
        _pool(document, index, pool)
    paying = {split.sponsor for rule in rules for split in rule.splits}
    for name in sponsors:
        if name not in paying:
            _warn(document, ("sponsors", name), f"sponsor {shown(name)}: no rule names it")
    entered = {rule.match.ingress for rule in rules}
    for name in ingresses:
        if name not in entered:
            _warn(document, ("ingress", name), f"ingress {shown(name)}: no rule names it")
    # Without a sponsor too: what passes for signalling nobody pays.
    if meter.at == "inner" and meter.tunnel_endpoints is None:
        _warn(
            document,
            ("meter",),
            'meter: without "tunnel_endpoints" every tunnel is looked into, a subscriber\'s own '
            "too: what he writes inside could be sponsored, or pass for a tunnel's signalling; "
            "list the addresses between which the network itself tunnels ([]: none)",
        )
    subscribers = Cover(p for pool in pools for p in pool.prefixes)
    servers: dict[tuple[Prefix, ...], bool] = {}  # rules often share a file
    for rule in rules:
        server = rule.match.server
        if server and server not in servers:
            servers[server] = subscribers.covers(server)
        if server and servers[server]:
            _rule(document, rule, "every server lies inside a pool and is a subscriber itself")
        if _names_no_server(rule):
            _rule(
                document,
                rule,
                'it sponsors a port or protocol without "server": a subscriber reaches whoever '
                "listens there, a tunnel of his own too; name the servers",
            )
        if rule.match.port and (rule.match.protocol or PROTOCOLS_WITH_PORTS) - PROTOCOLS_WITH_PORTS:
            _rule(document, rule, '"protocol" lists some that have no ports: they never match')
    for rule, earlier in shadowed(rules):
        place = f"rule {shown(earlier.id)} on line {earlier.line}"
        _rule(document, rule, f"it can never match: {place} comes first and takes all of it")


def _names_no_server(rule: Rule) -> bool:
    """Whether it pays for a port or protocol, whoever's server that leads to."""
    match = rule.match
    return (
        bool(rule.splits and (match.port or match.protocol))
        and match.server is None
        and match.marks is None
        and not rule.unverified
    )


def _warn(document: Document, path: tuple[str | int, ...], message: str) -> None:
    document.warnings.append((document.positions.line(path), message))


def _rule(document: Document, rule: Rule, message: str) -> None:
    document.warnings.append((rule.line, f"rule {shown(rule.id)}: {message}"))


def _pool(document: Document, index: int, pool: Pool) -> None:
    keys = {4: pool.ipv4_key, 6: pool.ipv6_key}
    for item in pool.prefixes if pool.key == "address" else ():
        key = keys[item.version]
        if item.length > key:
            _warn(
                document,
                ("pools", index, "prefixes"),
                f"pool {index + 1}: {prefix_text(item)} is less than one subscriber, "
                f"who is {prefix_text(shortened(item, key))} (ipv{item.version}_key = {key})",
            )
    held = Cover(pool.prefixes)
    outside = [t.prefix for t in pool.tenures if held.holder(t.prefix) is None]
    if outside:
        _warn(
            document,
            ("pools", index, "directory"),
            f"pool {index + 1}: the directory names {prefix_text(outside[0])}, "
            f"which is outside the pool ({len(outside)} such rows)",
        )


def shadowed(rules: Sequence[Rule]) -> list[tuple[Rule, Rule]]:
    """(rule, the first rule before it that matches whatever it matches); simple cases only.

    What a rule with marks takes is another thing tomorrow: it shadows none, and none shadows it.
    Server prefixes are compared one by one: several narrow ones that together make up a wide
    one are not seen.
    """
    found = []
    index = _Index()
    covers: dict[tuple[Prefix, ...], Cover] = {}
    for rule in rules:
        if rule.match.marks is not None:
            continue
        for earlier in index.candidates(rule.match):
            if _takes(earlier.match, rule.match, covers):
                found.append((rule, earlier))
                break
        if rule is not rules[-1]:
            index.add(rule)
    return found


class _Index:
    """Earlier rules by one condition that a rule which they shadow has to share with them."""

    def __init__(self) -> None:
        self._rules: dict[object, list[Rule]] = {}
        self._lengths: set[tuple[int, int]] = set()

    def add(self, rule: Rule) -> None:
        match = rule.match
        sets = [(n, getattr(match, n)) for n in _SETS if isinstance(getattr(match, n), frozenset)]
        keys: list[object] = [None]
        if sets:
            name, values = min(sets, key=lambda s: len(s[1]))
            keys = [(name, value) for value in values]
        elif match.server is not None:
            keys = list(match.server)
            self._lengths.update({(p.version, p.length) for p in match.server})
        for key in keys:
            self._rules.setdefault(key, []).append(rule)

    def candidates(self, match: Match) -> list[Rule]:
        """The rules that may take all of it, in order."""
        keys: list[object] = [None]
        for name in _SETS:
            values = getattr(match, name)
            if isinstance(values, frozenset):
                keys.append((name, next(iter(values))))
        if match.server:
            # Who covers every server has a prefix around the first.
            first = match.server[0]
            keys += [
                shortened(first, length)
                for version, length in self._lengths
                if version == first.version and length <= first.length
            ]
        found = {rule.precedence: rule for key in keys for rule in self._rules.get(key, ())}
        return [found[precedence] for precedence in sorted(found)]


def _takes(wide: Match, narrow: Match, covers: dict[tuple[Prefix, ...], Cover]) -> bool:
    """Whether every packet that `narrow` matches is matched by `wide`."""
    if wide.direction not in ("both", narrow.direction):
        return False
    # What it has taken once, it takes of the whole flow.
    if narrow.sticky and not wide.sticky:
        return False
    for name in _SETS:
        allowed, asked = getattr(wide, name), getattr(narrow, name)
        if allowed is None or allowed == asked:
            continue
        if asked is None or not isinstance(asked, frozenset) or not asked <= allowed:
            return False
    if wide.port is not None:
        # Each range has to lie inside one of the other's.
        asked_ports = narrow.port or ((-1, -1),)
        if not all(any(a <= c and d <= b for a, b in wide.port) for c, d in asked_ports):
            return False
    if wide.server is None or wide.server is narrow.server:
        return True
    if narrow.server is None:
        return False
    if wide.server not in covers:
        covers[wide.server] = Cover(wide.server)
    return covers[wide.server].covers(narrow.server)
