"""How much a worker remembers of the packets that it has met, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from tollsplit.limits import (
    CALLS_MAX,
    COPIED_PACKETS_MAX,
    FLOW_HOLD_S,
    FLOW_IDLE_S,
    FLOWS_MAX,
    FRAGMENT_DATAGRAMS_MAX,
    FRAGMENT_TIMEOUT_S,
    FRAGMENTS_WAITING_MAX,
    HELD_COUNTERS_MAX,
    REQUESTS_MAX,
    SENT_MAX,
    STREAMS_MAX,
    TALKS_MAX,
)

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """What limits say; others are for tests of what happens when there is no room."""

    datagrams: int = FRAGMENT_DATAGRAMS_MAX
    fragments: int = FRAGMENTS_WAITING_MAX
    fragment_timeout_ns: int = FRAGMENT_TIMEOUT_S * SECOND_NS
    flows: int = FLOWS_MAX
    held: int = HELD_COUNTERS_MAX
    flow_idle_ns: int = FLOW_IDLE_S * SECOND_NS
    flow_hold_ns: int = FLOW_HOLD_S * SECOND_NS
    copies: int = COPIED_PACKETS_MAX
    streams: int = STREAMS_MAX
    sent: int = SENT_MAX
    calls: int = CALLS_MAX
    talks: int = TALKS_MAX
    requests: int = REQUESTS_MAX
