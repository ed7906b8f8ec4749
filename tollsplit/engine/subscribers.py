"""Subscribers: from the core's keys to names, accounts and tariffs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from socket import inet_ntoa
from typing import NamedTuple

import numpy as np

from tollsplit.cext.subscribers import order_of
from tollsplit.rules.compile import Compiled, holders
from tollsplit.rules.rule import Pool, RuleSet

KIND_IPV4, KIND_IPV6, KIND_GTP_TEID, KIND_VLAN, KIND_PPPOE, KIND_MAC = range(6)
FIELDS = ("kind", "hi", "lo", "pool", "tenure")
INTERNED = 1 << 32  # added to the number of an interned subscriber; addresses lie below
NAMES_KEPT = 1024
BEHIND_ADDRESSES = 1 << 33  # an address and the interned keys before it: less than 2^32 + 2^31


def name(kind: int, hi: int, lo: int, pool: Pool) -> str:
    """A subscriber's key as documents show it."""
    if kind == KIND_IPV4:
        return str(IPv4Address(lo)) + ("" if pool.ipv4_key == 32 else f"/{pool.ipv4_key}")
    if kind == KIND_IPV6:
        address = IPv6Address(hi << 64 | lo)
        return str(address) + ("" if pool.ipv6_key == 128 else f"/{pool.ipv6_key}")
    if kind == KIND_GTP_TEID:
        return f"teid:{lo:#010x}"
    if kind == KIND_VLAN:
        return f"vlan:{hi}" + (f".{lo - 1}" if lo else "")
    if kind == KIND_PPPOE:
        return f"pppoe:{lo:#06x}"
    return "mac:" + ":".join(f"{octet:02x}" for octet in lo.to_bytes(6, "big"))


class Subscribers:
    """The subscribers of one run in their order, by kind and key."""

    def __init__(
        self, rules: RuleSet, compiled: Compiled, members: np.ndarray, interned: np.ndarray
    ) -> None:
        """members   u8[n]: an IPv4 address, or 2^32 + the number of an interned one
        interned  SUBSCRIBER[m] by number
        """
        self.rules = rules
        self._members = members
        self._interned = interned
        self._compiled = compiled
        # elsewhere the core has told the holders apart already
        self._holders = [
            holders(p) if p.tenures and not p.held_by_packet else None for p in rules.pools
        ]
        # The records of one subscriber follow each other. Not lru_cache: over a method of ours it
        # would be a cycle, and keep a live run's columns until somebody collects those.
        self._names: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def _row(self, index: int) -> tuple[int, int, int, int, int]:
        """Kind, key (hi, lo), pool and tenure; as SUBSCRIBER has them."""
        member = int(self._members[index])
        if member < INTERNED:
            return KIND_IPV4, 0, member, self._compiled.pool_of(member), 0
        row = self._interned[member - INTERNED]
        kind, hi, lo, pool, tenure = (int(row[field]) for field in FIELDS)
        return kind, hi, lo, pool, tenure

    def name(self, index: int) -> str:
        return self._named(index)[0]

    def account(self, index: int) -> str:
        """Who held the subscriber's address; the subscriber itself where nobody did."""
        return self._named(index)[1]

    def _named(self, index: int) -> tuple[str, str]:
        """Name and account."""
        found = self._names.get(index)
        if found is None:
            if len(self._names) >= NAMES_KEPT:
                self._names.clear()
            kind, hi, lo, pool, _ = self._row(index)
            shown = name(kind, hi, lo, self.rules.pools[pool - 1])
            found = self._names[index] = shown, self._account(index) or shown
        return found

    def _account(self, index: int) -> str | None:
        """Who the directory says held it; None: nobody."""
        kind, hi, lo, pool, tenure = self._row(index)
        if tenure:
            return self._compiled.tenures[tenure - 1].account
        holder = self._holders[pool - 1]
        if holder is not None and kind in (KIND_IPV4, KIND_IPV6):
            return holder(4, lo) if kind == KIND_IPV4 else holder(6, hi << 64 | lo)
        return None

    def pools(self) -> np.ndarray:
        """u2[len], the pool of each, from 1 on."""
        plain = self._members < INTERNED
        result = np.empty(len(self), np.uint16)
        result[plain] = self._compiled.pools_of(self._members[plain].astype(np.uint32))
        result[~plain] = self._interned["pool"][self._members[~plain] - np.uint64(INTERNED)]
        return result

    def accounts(self) -> list[str]:
        """What account() says of each."""
        direct = np.array([holder is None for holder in self._holders], bool)
        direct = (self._members < INTERNED) & direct[self.pools() - 1]
        # A plain address that no directory names is its own account.
        octets = self._members.astype(">u4").tobytes()
        return [
            inet_ntoa(octets[4 * i : 4 * i + 4]) if plain else self.account(i)
            for i, plain in enumerate(direct.tolist())
        ]


def changes(*columns: np.ndarray) -> np.ndarray:
    """b1[n]: where any of the columns differs from the row before; the first row does."""
    result = np.ones(len(columns[0]), bool)
    result[1:] = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        result[1:] |= column[1:] != column[:-1]
    return result


class Interned(NamedTuple):
    """The order of interned subscribers, and where they stand among plain addresses.

    A plain address stands at address + how many breaks are at most 2 × address. An interned IPv4
    key stands beside the address that it is, all other keys behind every address.
    """

    order: np.ndarray  # u4[m], their numbers
    values: np.ndarray  # u8[m], where each stands, ascending
    value_of: np.ndarray  # u8[m], the same by number
    breaks: np.ndarray  # u8[j], ascending


def intern(compiled: Compiled, rows: np.ndarray) -> Interned:
    """Put SUBSCRIBER[m] in order by kind, key, pool and tenure.

    Of an interned IPv4 key and the plain address that equals it, the lower pool comes first.
    """
    order = order_of(rows)
    addresses = order[: np.count_nonzero(rows["kind"] == KIND_IPV4)]
    keys = rows["lo"][addresses]
    behind = compiled.pools_of(keys.astype(np.uint32)) <= rows["pool"][addresses]
    values = np.arange(len(rows), dtype=np.uint64)
    values[: len(addresses)] += keys + behind
    values[len(addresses) :] += np.uint64(BEHIND_ADDRESSES)
    value_of = np.empty_like(values)
    value_of[order] = values
    return Interned(order, values, value_of, keys * np.uint64(2) + behind)
