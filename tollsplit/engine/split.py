"""Who pays for which octets: exact shares, quotas and budgets (accounting §5).

Everything here is a function of totals, so that the order in which packets were counted, and
by how many workers, cannot change a bill. What a share takes of a total, tollsplit.cext.shares
says; here stands what it is given, and what is shared among subscribers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

from tollsplit.cext.shares import UNLIMITED
from tollsplit.rules.rule import Split


def parts(splits: Sequence[Split]) -> np.ndarray:
    """i8[k, 3]: each split's (numerator, denominator, quota) of what those before it left.

    Shares of the whole as nested shares of the rest: with a common denominator D the first takes
    T·n₁/D and leaves R₁, the second R₁·n₂/(D−n₁), and so on: every denominator stays at most D.
    """
    common = lcm(*(s.share.denominator for s in splits)) if splits else 1
    left = common
    result = []
    for split in splits:
        numerator = int(split.share * common)
        fraction = Fraction(numerator, left) if left else Fraction(0)
        quota = UNLIMITED if split.quota_octets is None else min(split.quota_octets, UNLIMITED)
        result.append((fraction.numerator, fraction.denominator, quota))
        left -= numerator
    return np.array(result, np.int64).reshape(-1, 3)


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
