"""Reads a rule's conditions, and refuses those that a user could fulfil at will."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

from tollsplit import limits
from tollsplit.rules import expression, units
from tollsplit.rules.document import Table
from tollsplit.rules.lists import Lists
from tollsplit.rules.prefixes import prefix_text
from tollsplit.rules.rule import SPOKEN, Ingress, Match, Meter, Sponsor

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


class Matches:
    """Reads `match` tables, whose conditions may name what stands elsewhere in the file."""

    def __init__(
        self,
        lists: Lists,
        meter: Meter,
        sponsors: Mapping[str, Sponsor],
        ingresses: Mapping[str, Ingress],
        has_keys: bool,
    ) -> None:
        self._lists = lists
        self._meter = meter
        self._sponsors = sponsors
        self._ingresses = ingresses
        self._has_keys = has_keys
        self._facts = 0

    def read(self, table: Table, unverified: bool) -> Match:
        """A rule's conditions; what is wrong with them is noted."""
        directions = units.choice("uplink", "downlink", "both")
        direction = table.read("direction", directions, "both")
        marks = self._lists.marks(table)
        numbers = {
            key: _as_set(table.several(key, units.integer(0, high)))
            for key, high in _NUMBERS.items()
        }
        match = Match(
            server=self._lists.prefixes(table, "server"),
            subscriber=self._lists.prefixes(table, "subscriber"),
            port=table.several("port", units.port),
            protocol=_as_set(table.several("protocol", units.protocol)),
            direction=cast(Literal["uplink", "downlink", "both"], direction),
            dscp=_as_set(table.several("dscp", units.dscp)),
            ingress=table.read("ingress", units.string, None),
            where=table.read("where", _where, None),
            sni=self._lists.names(table, "sni"),
            host=self._lists.names(table, "host"),
            dns=self._lists.names(table, "dns"),
            token=self._token(table),
            ech=table.read("ech", units.boolean, False),
            sticky=table.read("sticky", units.boolean, False),
            marks=cast(str, table.peek("marks")) if marks is not None else None,
            **numbers,
        )
        if marks is not None:
            match = replace(match, **marks._asdict())
        table.close()
        self._check_ingress(table, match)
        self._check_flow(table, match)
        self._check_sticky(table, match)
        self._check_trust(table, match, unverified)
        protocols = match.protocol or units.PROTOCOLS_WITH_PORTS
        if match.port is not None and not protocols & units.PROTOCOLS_WITH_PORTS:
            table.error('expected "protocol" tcp, udp or another that has ports', "port")
        return match

    def _token(self, table: Table) -> frozenset[str] | None:
        found = table.several("token", units.string)
        for name in found or ():
            if name not in self._sponsors:
                remedy = units.nearest(name, self._sponsors)
                remedy = remedy or f"; define it as [sponsors.{name}]"
                table.error(f"unknown sponsor {units.shown(name)}{remedy}", "token")
        return None if found is None else frozenset(found)

    def _check_ingress(self, table: Table, match: Match) -> None:
        if match.ingress is None or match.ingress in self._ingresses:
            return
        remedy = units.nearest(match.ingress, self._ingresses)
        remedy = remedy or "; define it as a table under [ingress]"
        table.error(f"unknown ingress {units.shown(match.ingress)}{remedy}", "ingress")

    def _check_flow(self, table: Table, match: Match) -> None:
        """What flows are asked for is bounded, and asks for no expression beside it."""
        before, self._facts = self._facts, self._facts + len(match.needs)
        keys = [key for key in ("sticky", *SPOKEN) if key in table]
        if before <= limits.FACTS_MAX < self._facts:
            table.error(
                f"expected at most {limits.FACTS_MAX} conditions on flows in all rules "
                f"({units.listed(('sticky', *SPOKEN))}), this is one more", keys[-1])
        if match.where is not None and match.needs:
            table.error('expected no "where" beside it: give its conditions as keys', keys[0])
        if match.dns is not None and not self._meter.resolvers:
            table.error(
                'expected [meter] "resolvers" beside it: the addresses of the resolvers whose '
                "answers are believed", "dns")
        if match.token is not None and not self._has_keys:
            table.error(
                'expected [tokens] "keys" beside it: the files of the keys that tokens are checked '
                "with", "token")
        if match.ech and match.sni is None:
            table.error('expected an "sni" beside it', "ech")

    def _check_sticky(self, table: Table, match: Match) -> None:
        shown = ("dscp", "ingress", *_NUMBERS)
        if match.sticky and match.marks is None and match.direction == "both" and all(
                getattr(match, key) is None for key in shown):
            table.error("expected a condition that one packet of a flow can fulfil and another "
                        f"not: {units.listed(shown)}, direction", "sticky")

    def _check_trust(self, table: Table, match: Match, unverified: bool) -> None:
        """What a user can write sponsors only beside something that he cannot (accounting §4)."""
        ingress = self._ingresses.get(match.ingress) if match.ingress is not None else None
        everybody = [prefix_text(item) for item in match.server or () if item.length == 0]
        is_proven = (
            unverified
            or (match.server is not None and not everybody)
            or match.dns is not None
            or match.token is not None
            or (ingress is not None and ingress.trusted)
        )
        found, remedy = "", 'add "server",'
        if everybody:
            found = f', and "server" holds {everybody[0]}, which is everybody'
            remedy = "list the sponsor's own servers, or add"
        for claim in match.claims if not is_proven else ():
            key = next(k for k in (claim, "marks", "where") if k in table)
            table.error(
                f'users can write {claim} themselves{found}; {remedy} "dns", a "token", an '
                '"ingress" that is trusted, or unverified = true to the rule', key)


def _as_set(values: tuple[int, ...] | None) -> frozenset[int] | None:
    return None if values is None else frozenset(values)


def _where(value: object) -> str:
    text = units.string(value)
    expression.check(text)
    return text
