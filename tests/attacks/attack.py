"""An attack: packets, the rules that they are aimed at, and the bill, worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from judges import Frame

ALICE, BOB = "10.0.0.7", "10.0.0.8"  # subscribers; Alice is who attacks, or is attacked
SHOP = "203.0.113.5"  # a server of the sponsor's
ELSEWHERE = "198.51.100.9"  # a server of Alice's friends
ALICE6, SHOP6, ELSEWHERE6 = "2001:db8:0:7::1", "2001:db8:ffff::5", "2001:db8:eeee::9"
KEY6 = "2001:db8:0:7::/64"  # what Alice is called on a bill by her IPv6 addresses

SHOPS = 'server = ["203.0.113.0/24", "2001:db8:ffff::/48"]'
ALL = '{ sponsor = "shop" }'  # the sponsor pays for all of it
POOL = '[[pools]]\nprefixes = ["10.0.0.0/8", "2001:db8::/40"]'
OWN_TUNNELS = 'tunnel_endpoints = ["192.0.2.0/28"]'
REST = """
[sponsors.shop]

[ingress.edge]
interface = "s1-u"

[ingress.core]
interface = "eth0"
trusted = true
"""


@dataclass(frozen=True)
class Attack:
    """A row of docs/attacks.md.

    rules     the `[[rules]]` that are attacked
    pays      the bill: octets by subscriber, and by the sponsor "shop"
    counted   octets in all other buckets and counts of a run that are not 0
    owed      what each would pay if nobody could be deceived; None: the attack fails, as `pays`
    warns     what `rules check` says of such rules, in part
    files     what the rules file names, by name: for its owner's eyes alone
    """

    name: str
    packets: Sequence[Frame]
    rules: str
    pays: Mapping[str, int]
    counted: Mapping[str, int] = field(default_factory=dict)
    owed: Mapping[str, int] | None = None
    warns: str = ""
    meter: str = OWN_TUNNELS
    pool: str = POOL
    sponsors: str = REST
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The whole rules file."""
        return f"[meter]\n{self.meter}\n{self.pool}\n{self.sponsors}\n{self.rules}"

    @property
    def agreed(self) -> int:
        """The octets that the sponsor ought to pay for at most."""
        return (self.pays if self.owed is None else self.owed).get("shop", 0)

    @property
    def succeeds(self) -> bool:
        """Whether somebody pays for what he should not."""
        return self.owed is not None and self.owed != self.pays


@dataclass(frozen=True)
class Refusal:
    """Rules that would let everybody ride free: they are not loaded.

    message   what is said of them, in part
    """

    name: str
    rules: str
    message: str

    @property
    def file(self) -> str:
        return f"{POOL}\n{REST}\n{self.rules}"


def sponsored(match: str, split: str = ALL, *, identity: str = "shop", precedence: int = 1) -> str:
    """A rule: its conditions, and who pays."""
    return (f'[[rules]]\nid = "{identity}"\nprecedence = {precedence}\nmatch = {{ {match} }}\n'
            f"split = {split}\n")
