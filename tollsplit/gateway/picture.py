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
    records = usage.records
    who = records["subscriber"]
    # As floats they are in order, whatever a sum beyond 2^53 loses.
    totals = np.bincount(who, usage.octets, len(usage.subscribers))
    if len(totals) > top:
        candidates = np.flatnonzero(totals >= np.partition(totals, -top)[-top])
    else:
        candidates = np.arange(len(totals))
    order = candidates[np.argsort(-totals[candidates], kind="stable")[:top]].tolist()
    wanted = np.zeros(len(totals), bool)
    wanted[order] = True
    rows = np.flatnonzero(wanted[who])
    paid: dict[int, dict[str, int]] = {number: defaultdict(int) for number in order}
    for number, rule, parts in zip(
        who[rows].tolist(), records["rule"][rows].tolist(), usage.paid[rows].tolist(), strict=True
    ):
        splits = usage.rules.rules[rule - 1].splits if rule else ()
        for split, octets in zip(splits, parts, strict=False):
            paid[number][split.sponsor] += octets
    sums = dict.fromkeys(order, (0, 0, 0, 0))
    columns = (usage.packets, records["uplink_octets"], records["downlink_octets"],
               usage.subscriber_octets)
    for number, *more in zip(
        who[rows].tolist(), *(column[rows].tolist() for column in columns), strict=True
    ):
        packets, uplink, downlink, own = (a + b for a, b in zip(sums[number], more, strict=True))
        sums[number] = packets, uplink, downlink, own
    return tuple(
        Heavy(usage.subscribers.name(number), usage.subscribers.account(number), *sums[number],
              dict(paid[number]))
        for number in order)
