"""The nouns of a comparison: what a party states, and by what it is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

from ..errors import UsageError

Time = Literal["window", "day", "month"]
TIMES: tuple[Time, ...] = ("window", "day", "month")
KEYS = ("subscriber", "account", "rule", "rating_group")
FIGURES = (
    "uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets", "packets", "octets",
    "subscriber_octets",
)  # fmt: skip
BY = "window,subscriber,rule"


class Line(NamedTuple):
    """One usage record of a party; what it does not state is None."""

    start_ns: int | None  # of its window, nanoseconds since 1970-01-01 UTC; None: unbounded
    end_ns: int | None
    subscriber: str | None
    account: str | None
    rule: str | None
    rating_group: int | None
    uplink_packets: int | None
    uplink_octets: int | None
    downlink_packets: int | None
    downlink_octets: int | None
    packets: int | None
    octets: int | None
    subscriber_octets: int | None
    sponsor_identity: str | None
    sponsor_octets: Mapping[str, int]  # by the sponsor's identity


class Amount(NamedTuple):
    """What an account owes, as a party has it."""

    start_ns: int | None  # of the day or band that it is for; None: not stated
    account: str | None
    currency: str
    amount_micros: int


class Party(Protocol):
    """One side's records: a file or a ledger."""

    name: str  # what messages call it
    states: frozenset[str]  # of "window", KEYS, FIGURES, "sponsor_octets", "amount"
    sponsors: frozenset[str] | None  # whose octets it can state; None: every sponsor's
    layers: frozenset[str]  # that its octets are of, after lines(); empty where it does not say

    def lines(self) -> Iterator[Line | Amount]:
        """Everything it states, in any order. Raises ReconcileError."""


class By(NamedTuple):
    """What makes two lines the same one."""

    time: Time | None
    keys: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> By:
        """Read "window,subscriber,rule". Raises UsageError."""
        words = [word.strip().replace("-", "_") for word in text.split(",")]
        times = [time for time in TIMES if time in words]
        keys = tuple(key for key in KEYS if key in words)
        if len(times) > 1 or len(times) + len(keys) != len(words):
            raise UsageError(
                f"by: expected at most one of {', '.join(TIMES)} and any of {', '.join(KEYS)}, "
                f'each once, with commas between, got "{text}"'
            )
        return cls(times[0] if times else None, keys)

    def __str__(self) -> str:
        return ",".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        return (*([self.time] if self.time else []), *self.keys)
