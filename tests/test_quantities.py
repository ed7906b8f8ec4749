"""What is to be paid for is what the usage records say that each payer has."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from strategies import rule_sets, traffic
from test_reference import fast, generated

from tollsplit.model import Tariff, Tier
from tollsplit.rules.rule import RuleSet

NAMES = ("standard", "gold", "silver")
TARIFFS = {name: Tariff(name, "CNY", (Tier(None, Fraction(1)),)) for name in NAMES}


@st.composite
def tariffed(draw: st.DrawFn) -> tuple[RuleSet, int]:
    """Rules whose pools, sponsors and rules name tariffs, and when their traffic begins."""
    rules, start_s = draw(rule_sets())
    named = st.sampled_from(NAMES)
    return replace(
        rules, tariffs=TARIFFS,
        pools=tuple(replace(pool, tariff=draw(named)) for pool in rules.pools),
        sponsors={name: replace(sponsor, tariff=draw(named))
                  for name, sponsor in rules.sponsors.items()},
        rules=tuple(replace(rule, tariff=draw(st.none() | named)) for rule in rules.rules),
    ), start_s  # fmt: skip


@generated
@given(tariffed(), st.data())
def test_quantities_are_the_octets_of_every_payer_of_every_record(
    drawn: tuple[RuleSet, int], data: st.DataObject
) -> None:
    rules, start_s = drawn
    usage = fast(data.draw(traffic(start_s)), rules, files=2).usage
    wanted: Counter[tuple[str, str, int]] = Counter()
    by_id = {rule.id: rule for rule in rules.rules}
    pools = usage.subscribers.pools()
    for record, who in zip(usage, usage.records["subscriber"].tolist(), strict=True):
        own = by_id[record.rule].tariff if record.rule else None
        pool = rules.pools[pools[who] - 1]
        wanted[record.account, own or str(pool.tariff), record.sequence] += record.subscriber_octets
        for name, octets in record.sponsor_octets.items():
            sponsor = rules.sponsors[name]
            wanted[sponsor.account, own or str(sponsor.tariff), record.sequence] += octets
    found: Counter[tuple[str, str, int]] = Counter()
    rows = usage.quantities()
    for account, tariff, record_number, octets in zip(
        rows.account.tolist(), rows.tariff.tolist(), rows.record.tolist(), rows.octets.tolist(),
        strict=True,
    ):  # fmt: skip
        found[rows.accounts[account], rows.tariffs[tariff], record_number] += octets
    assert found == wanted
    starts = [rows.starts_ns[cell] for cell in rows.cell.tolist()]
    windows = [usage.record(number).window_start for number in rows.record.tolist()]
    assert all(window is None or (start is not None and start >= window.timestamp() * 10**9)
               for start, window in zip(starts, windows, strict=True))  # fmt: skip
