"""How much a worker remembers of the packets that it has met, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from tollsplit.limits import (
    FRAGMENT_DATAGRAMS_MAX,
    FRAGMENT_TIMEOUT_S,
    FRAGMENTS_WAITING_MAX,
)

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """What limits say; others are for tests of what happens when there is no room."""

    datagrams: int = FRAGMENT_DATAGRAMS_MAX
    fragments: int = FRAGMENTS_WAITING_MAX
    fragment_timeout_ns: int = FRAGMENT_TIMEOUT_S * SECOND_NS
