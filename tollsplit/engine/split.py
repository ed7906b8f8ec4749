"""Who pays for which octets: exact shares, quotas and budgets (accounting §5).

Everything here is a function of totals, so that the order in which packets were counted, and
by how many workers, cannot change a bill.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np

from tollsplit.rules.rule import Split

UNLIMITED = np.iinfo(np.int64).max


class Part(NamedTuple):
    """One step of a nested split: ⌊R · numerator / denominator⌋ of what is left, capped."""

    numerator: int
    denominator: int
    quota_octets: int | None


def parts(splits: Sequence[Split]) -> list[Part]:
    """Shares of the whole as nested shares of the rest.

    With a common denominator D the first takes T·n₁/D and leaves R₁, the second R₁·n₂/(D−n₁),
    and so on: every denominator stays at most D.
    """
    common = lcm(*(s.share.denominator for s in splits)) if splits else 1
    left = common
    result = []
    for split in splits:
        numerator = int(split.share * common)
        fraction = Fraction(numerator, left) if left else Fraction(0)
        result.append(Part(fraction.numerator, fraction.denominator, split.quota_octets))
        left -= numerator
    return result


def paid(totals: np.ndarray, steps: Sequence[Part]) -> np.ndarray:
    """What each sponsor has paid of running totals: i8[len(steps), n] from i8[n].

    A quota caps its own sponsor; what it cuts off is the subscriber's, not the next sponsor's,
    who never agreed to more than a share of the whole.
    """
    left = totals.astype(np.int64)
    result = np.empty((len(steps), len(totals)), np.int64)
    for row, step in zip(result, steps, strict=True):
        whole, rest = np.divmod(left, step.denominator)
        share = whole * step.numerator + rest * step.numerator // step.denominator
        left = left - share
        row[:] = share if step.quota_octets is None else np.minimum(share, step.quota_octets)
    return result


def increments(
    new: np.ndarray, octets: np.ndarray, before: np.ndarray, steps: Sequence[Part]
) -> np.ndarray:
    """What each sponsor pays of each row: i8[len(steps), n].

    new      b1[n], where another running total begins; its rows follow in order of time
    octets   i8[n], what each row adds to its total
    before   i8[n], the total before its first row
    """
    after = running(new, octets) + before
    result: np.ndarray = paid(after, steps) - paid(after - octets, steps)
    return result


def running(new: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Sums of the amounts up to each row, started afresh where a row is new."""
    sums = np.cumsum(amounts)
    first = np.flatnonzero(new)
    before = np.repeat(sums[first] - amounts[first], np.diff(np.append(first, len(new))))
    result: np.ndarray = sums - before
    return result


def grant(demands: np.ndarray, left: int) -> np.ndarray:
    """Divide what is left of a budget among demands that exceed it, pro rata.

    Each gets ⌊demand · left / Σ⌋; the octets that remain go to the largest remainders, the
    earlier row first among equals.
    """
    wanted = [int(d) for d in demands]
    total = sum(wanted)
    if total <= left:
        return demands.copy()
    shares = [d * left // total for d in wanted]
    remainders = sorted(range(len(wanted)), key=lambda i: (-(wanted[i] * left % total), i))
    for i in remainders[: left - sum(shares)]:
        shares[i] += 1
    return np.array(shares, np.int64)


def within_budget(
    window: np.ndarray, demands: np.ndarray, budget_octets: int, spent: int
) -> np.ndarray:
    """Demands on one sponsor in one budget period, cut to its budget window by window.

    window    [n], equal and adjacent within a window, windows in order of time
    demands   i8[n]
    """
    result = demands.copy()
    first = np.flatnonzero(np.concatenate(([True], window[1:] != window[:-1])))
    sums = [int(s) for s in np.add.reduceat(demands, first)] if len(demands) else []
    ends = [*first[1:], len(window)]
    left = max(budget_octets - spent, 0)
    for start, end, total in zip(first, ends, sums, strict=True):
        if total > left:
            result[start:end] = grant(demands[start:end], left)
        left -= min(total, left)
    return result
