"""What the books say, read by the command that exports them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ....ledger.store import OCTET
from .stage import Stage

Account = tuple[str, str]  # name and unit


@dataclass(frozen=True)
class Usage:
    """What is booked of one subscriber's traffic, in octets."""

    uplink: int
    downlink: int
    subscriber: int  # of them the subscriber pays for so many
    sponsors: dict[str, int] = field(default_factory=dict)  # and each sponsor for so many


class Books:
    """The ledger as it was when this was made."""

    def __init__(self, stage: Stage) -> None:
        text = stage.tollsplit(None, "ledger", "export", "--ledger", stage.ledger,
                               "--format", "json")  # fmt: skip
        self._document: dict[str, Any] = json.loads(text)

    def moved(self) -> Counter[Account]:
        """What every account has gained (or lost) by anything but traffic."""
        traffic = {one["transaction"] for one in self._document["transactions"]
                   if one["kind"] == "usage"}  # fmt: skip
        found: Counter[Account] = Counter()
        for posting in self._document["postings"]:
            if posting["transaction"] not in traffic:
                found[posting["account"], posting["unit"]] += posting["amount"]
        return Counter({account: amount for account, amount in found.items() if amount})

    def balance(self, account: str, unit: str) -> int:
        return sum(int(one["balance"]) for one in self._document["accounts"]
                   if (one["account"], one["unit"]) == (account, unit))  # fmt: skip

    def octets(self, account: str) -> int:
        """What an account has lost by traffic."""
        return -self.balance(account, OCTET)

    def usage(self, account: str, rules: frozenset[str] | None = None) -> Usage:
        """Of a subscriber's account.

        rules   under these; None: under all, and under none
        """
        sponsors: Counter[str] = Counter()
        uplink = downlink = subscriber = 0
        for record in self._document["usage"]:
            if record["account"] == account and (rules is None or record["rule"] in rules):
                uplink += record["uplink_octets"]
                downlink += record["downlink_octets"]
                subscriber += record["subscriber_octets"]
                sponsors.update(record["sponsor_octets"])
        return Usage(uplink, downlink, subscriber, dict(sponsors))
