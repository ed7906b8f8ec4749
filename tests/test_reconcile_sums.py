"""Reconciling against a plain calculation; JSON in pieces against the whole of it."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import pytest
from bookings import DAY3, HOUR, record
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import document

from tollsplit.errors import ReconcileError
from tollsplit.reconcile import Finding, reconcile, stream
from tollsplit.report import usage_entry

LINES = st.lists(st.tuples(
    st.integers(0, 2), st.sampled_from("ab"), st.sampled_from([None, "x"]), st.integers(0, 3),
    st.integers(0, 3), st.dictionaries(st.sampled_from("vs"), st.integers(0, 3)),
), max_size=8)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(LINES, LINES)
def test_reconcile_is_what_adding_up_by_hand_gives(
    tmp_path_factory: pytest.TempPathFactory, ours: list[Any], theirs: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("hand")
    expected: dict[tuple[Any, ...], dict[str, list[int]]] = {}
    for side, lines in enumerate((ours, theirs)):
        entries = []
        for hour, who, rule, up, down, shares in lines:
            start = DAY3 + HOUR * hour
            entries.append(usage_entry(record(
                0, start, subscriber=who, rule=rule, uplink_octets=up, downlink_octets=down,
                uplink_packets=1, downlink_packets=0, subscriber_octets=7, sponsor_octets=shares)))
            figures = expected.setdefault((hour, who, rule), {})
            for name, octets in {"uplink_octets": up, "downlink_octets": down, "uplink_packets": 1,
                                 "subscriber_octets": 7, "downlink_packets": 0,
                                 **{f"sponsor_octets.{s}": n for s, n in shares.items()}}.items():
                figures.setdefault(name, [0, 0])[side] += octets
        (folder / f"{side}.json").write_text(document(*entries))
    if not expected:
        with pytest.raises(ReconcileError, match="nothing to compare"):
            reconcile(str(folder / "0.json"), str(folder / "1.json"))
        return
    with reconcile(str(folder / "0.json"), str(folder / "1.json")) as found:
        lines = list(found.findings(everything=True))
        apart = list(found.findings())
    got = {
        (found_hour(line), line.key["subscriber"], line.key["rule"]): {
            f.name: [f.ours or 0, f.theirs or 0] for f in line.figures}
        for line in lines}  # fmt: skip
    assert got == expected and len(lines) == len(expected)
    assert len(apart) == sum(
        any(our != their for our, their in figures.values()) for figures in expected.values())
    assert Counter(line.verdict == "agreeing" for line in lines)[False] == len(apart)


def found_hour(line: Finding) -> int:
    assert line.window[0] is not None
    return (line.window[0] // 10**9 - int(DAY3.timestamp())) // 3600


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(JSON, max_size=5), JSON, st.integers(1, 9), st.sampled_from([None, 1]))
def test_stream_gives_what_the_whole_document_has(
    items: list[Any], other: Any, chunk: int, indent: int | None
) -> None:
    text = json.dumps({"head": other, "data": {"usage": items, "n": other}, "foot": other},
                      indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_CHUNK_CHARACTERS", chunk)
        found = list(stream.elements(io.StringIO(text), "x", frozenset({"data.usage"})))
        alone = list(stream.elements(io.StringIO(json.dumps(items)), "x", frozenset()))
    assert found == [("head", other), *(("data.usage", item) for item in items),
                     ("data.n", other), ("foot", other)]
    assert alone == [("", item) for item in items]
