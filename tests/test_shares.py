"""Shares in the core against the slow reference: edges of the arithmetic, and running totals."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tollsplit.cext.shares import UNLIMITED, divide, paid
from tollsplit.engine.cells import Cell
from tollsplit.engine.reference.bill import shares
from tollsplit.engine.split import parts
from tollsplit.engine.terms import Terms
from tollsplit.limits import SHARE_DENOMINATOR_MAX
from tollsplit.rules.rule import Match, Rule, RuleSet, Split

LARGEST = 2**63 - 1
# cells in order of time: (window, day); two days, a window over their border
CELLS = [((0, 2), 1), ((0, 2), 1), ((2, 4), 1), ((2, 4), 5), ((4, 6), 5), ((6, 8), 5)]


def rule(*splits: Split, per: str = "window") -> Rule:
    return Rule("r", 1, Match(), splits, per)  # type: ignore[arg-type]


@st.composite
def nested(draw: st.DrawFn) -> tuple[Split, ...]:
    """Up to four splits with one denominator and at most 100 % together; quotas on some."""
    denominator = draw(st.one_of(
        st.integers(1, 100), st.integers(SHARE_DENOMINATOR_MAX - 100, SHARE_DENOMINATOR_MAX)))
    left, splits = denominator, []
    for name in "abcd"[: draw(st.integers(1, 4))]:
        if left:
            numerator = draw(st.integers(1, left))
            left -= numerator
            quota = draw(st.one_of(st.none(), st.integers(0, 5000), st.integers(0, 2**70)))
            splits.append(Split(name, Fraction(numerator, denominator), quota))
    return tuple(splits)


NEARLY = Fraction(SHARE_DENOMINATOR_MAX - 1, SHARE_DENOMINATOR_MAX)


@given(nested(), st.lists(st.one_of(st.integers(0, 10_000), st.integers(0, LARGEST)), max_size=9))
@example((Split("a", NEARLY),), [0, 1, SHARE_DENOMINATOR_MAX, LARGEST - 1, LARGEST])
@example((Split("a", NEARLY), Split("b", 1 - NEARLY)), [0, 1, SHARE_DENOMINATOR_MAX, LARGEST])
@example((Split("a"),), [0, 1, LARGEST])
@example((Split("a", Fraction(1, 3), UNLIMITED),), [LARGEST])
def test_shares_equal_the_reference(splits: tuple[Split, ...], totals: list[int]) -> None:
    found = paid(np.array(totals, np.int64), parts(splits))
    assert found.T.tolist() == [shares(rule(*splits), total) for total in totals]


def cell(window: tuple[int, int], day: int) -> Cell:
    return Cell(0, 0, window, day, 0)


def columns(rows: list[tuple[int, int, int, int, int]]) -> dict[str, np.ndarray]:
    """Rows of (cell, subscriber, rule, uplink octets, downlink octets)."""
    kinds = {"cell": np.uint32, "subscriber": np.uint32, "rule": np.uint16,
             "uplink_octets": np.uint64, "downlink_octets": np.uint64}
    return {name: np.array([row[i] for row in rows], kind)
            for i, (name, kind) in enumerate(kinds.items())}


def judged(
    rows: list[tuple[int, int, int, int, int]], rules: tuple[Rule, ...], before: list[int]
) -> list[list[int]]:
    """What each split pays of each row, one running total after the other."""
    totals: dict[tuple[int, int, int], int] = {}
    result = []
    for (at, who, number, uplink, downlink), start in zip(rows, before, strict=True):
        mine = rules[number - 1] if number else rule()
        window, day = CELLS[at]
        period = {"window": window[0], "day": day, "month": 0, "session": -1}[mine.per]
        total = totals.setdefault((who, number, period), start)
        after = total + uplink + downlink
        result.append([new - old for new, old in zip(
            shares(mine, after), shares(mine, total), strict=True)])
        totals[who, number, period] = after
    return result


@pytest.mark.parametrize("pers", [("window",), ("window", "day"), ("month", "session", "day")])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("earlier", [False, True])
def test_totals_run_over_the_cells_of_a_period(
    pers: tuple[str, ...], seed: int, earlier: bool
) -> None:
    """Periods within a window, and over several of them; quotas are crossed on the way."""
    draw = random.Random(seed)
    splits = ((Split("a", Fraction(1, 3), 2000), Split("b", Fraction(1, 7))),
              (Split("a", Fraction(2, 3), 3000),), (), (Split("b"),))
    rules = tuple(replace(rule(*s, per=draw.choice(pers)), id=f"r{n}", precedence=n)
                  for n, s in enumerate(splits))
    keys = {(draw.randrange(len(CELLS)), draw.randrange(9), draw.randrange(len(rules) + 1))
            for _ in range(300)}
    rows = [(*key, draw.randrange(1500), draw.choice([0, 1, 2**40]) + draw.randrange(99))
            for key in sorted(keys, key=lambda k: (CELLS[k[0]][0], k[1], k[2] or 99, k[0]))]
    terms = Terms(RuleSet("t", "v", rules=rules), [cell(*item) for item in CELLS])
    assert terms.spanning == any(r.splits and r.per != "window" for r in rules)
    numbers: dict[tuple[int, int], int] = {}
    pair = np.array([numbers.setdefault(row[1:3], len(numbers)) for row in rows], np.uint32)
    starts = defaultdict(lambda: draw.randrange(5000) if earlier else 0)
    before = [starts[row[1:3]] for row in rows]
    result = np.zeros((terms.width, len(rows)), np.int64)
    sums, left, least = divide(
        columns(rows), terms.steps, terms.first, terms.period, terms.per,
        pair if terms.spanning else None, len(numbers),
        np.array(before, np.int64) if earlier else None, result)
    wanted = judged(rows, rules, before)
    assert [shared[: len(mine)] for shared, mine in zip(
        result.T.tolist(), wanted, strict=True)] == wanted
    by_step = [0] * len(terms.steps)
    for row, mine in zip(rows, wanted, strict=True):
        for n, octets in enumerate(mine):
            by_step[terms.first[row[2]] + n] += octets
    assert sums.tolist() == by_step
    assert left + sum(by_step) == sum(row[3] + row[4] for row in rows)
    assert least == 0


def test_periods_over_cells_of_one_window_need_no_memory() -> None:
    """Where a window holds whole days, rows of one period follow each other."""
    days = [cell((0, 9), 1), cell((0, 9), 1), cell((0, 9), 5)]
    terms = Terms(RuleSet("t", "v", rules=(rule(Split("a", quota_octets=100), per="day"),)), days)
    assert not terms.spanning
    rows = [(0, 7, 1, 60, 0), (1, 7, 1, 60, 0), (2, 7, 1, 60, 0), (2, 8, 1, 99, 2)]
    result = np.zeros((1, 4), np.int64)
    _, left, _ = divide(columns(rows), terms.steps, terms.first, terms.period, terms.per, None, 0,
                        None, result)
    assert result.tolist() == [[60, 40, 60, 100]]
    assert left == 21


def test_a_payer_that_would_be_given_back_octets_is_seen() -> None:
    """Only a wrong denominator can do that; the identity has to notice."""
    result = np.zeros((1, 1), np.int64)
    _, left, least = divide(
        columns([(0, 0, 1, 10, 0)]), np.array([[3, 2, UNLIMITED]], np.int64),
        np.array([0, 0, 1], np.uint32), np.ones((4, 1), np.uint32), np.zeros(2, np.uint8), None, 0,
        None, result)
    assert (result.tolist(), left, least) == ([[15]], -5, -5)
