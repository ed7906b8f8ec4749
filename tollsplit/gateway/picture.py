"""A live run's figures at one instant, made from what was counted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields

import numpy as np

from ..engine.pipeline import Sums, Tally
from ..engine.usage import Usage
from ..snapshot import Heavy


def sums_of(tally: Tally) -> Sums:
    """A tally without its usage, which takes memory."""
    return Sums(*(getattr(tally, field.name) for field in fields(Sums)))


def heaviest(usage: Usage, top: int) -> tuple[Heavy, ...]:
    """The subscribers with the most octets."""
    who = usage.records["subscriber"]
    totals = np.zeros(len(usage.subscribers), np.int64)
    np.add.at(totals, who, usage.octets)
    largest = np.argsort(-totals, kind="stable")[:top]
    wanted = np.zeros(len(totals), bool)
    wanted[largest] = True
    records = defaultdict(list)
    for index in np.flatnonzero(wanted[who]).tolist():
        records[int(who[index])].append(usage.record(index))
    found = []
    for number in largest.tolist():
        paid: dict[str, int] = defaultdict(int)
        for record in records[number]:
            for sponsor, octets in record.sponsor_octets.items():
                paid[sponsor] += octets
        mine = records[number]
        found.append(Heavy(
            usage.subscribers.name(number), usage.subscribers.account(number),
            sum(r.uplink_packets + r.downlink_packets for r in mine),
            sum(r.uplink_octets for r in mine), sum(r.downlink_octets for r in mine),
            sum(r.subscriber_octets for r in mine), dict(paid)))
    return tuple(found)
