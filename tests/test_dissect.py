"""The table of packets, whole and at every truncation, on the core and on the reference."""

from __future__ import annotations

import pytest
from judges import Frame, Judge, core_rows, reference_rows
from packets import CASES, FAULT, METERED, Case

FAULTS = (
    "none", "truncated", "link_type", "link_tags", "ip_version", "ip_header",
    "ip_length", "ip_exceeds_wire")
FLAGS = {"coalesced": 1, "partial": 4, "trusted": 8, "fragment": 16, "later_fragment": 32,
         "tunnelled": 64}
TAGS = {"vlan": 1, "vlan_inner": 2, "mpls": 4, "gtp_teid": 8, "qfi": 16, "gre_key": 32, "vni": 64,
        "pppoe_session": 128, "source_port": 256, "flow_label": 512}
# What a frame that is not metered is held to: its addresses bill nobody.
VOLUME = ("bucket", "fault", "octets", "frame_octets", "tunnel_octets")

judges = pytest.mark.parametrize("judge", [reference_rows, core_rows])
cases = pytest.mark.parametrize("case", CASES, ids=[c.description for c in CASES])
at_both = pytest.mark.parametrize("at", ["inner", "outer"])


def expected(case: Case, at: str) -> dict[str, object]:
    row = {"bucket": METERED, "fault": "none", "frame_octets": case.original, **case.row}
    if at == "outer":
        row |= case.outer
    row = {name: value for name, value in row.items() if value is not None}
    if row["bucket"] == METERED:
        row.setdefault("tunnel_octets", 0)
        if row["version"] == 6:
            row.setdefault("flow_label", 0)
        row["tags"] = sum(bit for tag, bit in TAGS.items() if tag in row)
        row["flags"] = sum(FLAGS[flag] for flag in row.get("flags", ()))
    return {**row, "fault": FAULTS.index(row["fault"])}


def prefixes(case: Case, *, on_the_wire: bool) -> list[Frame]:
    """The packet cut at every octet: by the capture, or on the wire already."""
    return [Frame(case.octets[:n], 0, n if on_the_wire else case.original, case.link_type)
            for n in range(len(case.octets) + 1)]


def conserve(inner: dict[str, int], outer: dict[str, int]) -> None:
    """Every frame is in one bucket, and outer is inner and overhead."""
    for row in (inner, outer):
        assert (row["bucket"] == FAULT) == (row["fault"] != 0)
        assert row["frame_octets"] == inner["frame_octets"]
    assert outer["tunnel_octets"] == 0
    if outer["bucket"] == FAULT:
        assert inner["bucket"] == FAULT
    # An inner packet longer than the outer one is in a first fragment.
    if not outer["flags"] & FLAGS["fragment"]:
        assert outer["octets"] == inner["octets"] + inner["tunnel_octets"]


@judges
@cases
@at_both
def test_dissect_gives_the_row(judge: Judge, case: Case, at: str) -> None:
    frame = Frame(case.octets, 0, case.original, case.link_type)
    (row,) = judge([frame], at=at, trust_ip_length=case.trust)
    want = expected(case, at)
    assert {name: row[name] for name in want} == want


@judges
@cases
@pytest.mark.parametrize("on_the_wire", [False, True])
def test_dissect_every_truncation_is_one_row_that_balances(
    judge: Judge, case: Case, on_the_wire: bool
) -> None:
    frames = prefixes(case, on_the_wire=on_the_wire)
    inner, outer = (judge(frames, at=at, trust_ip_length=case.trust) for at in ("inner", "outer"))
    assert len(inner) == len(outer) == len(frames)
    for one, other in zip(inner, outer, strict=True):
        conserve(one, other)


@cases
def test_dissect_a_shorter_capture_never_changes_a_metered_length(case: Case) -> None:
    """Snap length changes no bill: what is metered at all, is metered alike."""
    rows = reference_rows(prefixes(case, on_the_wire=False), trust_ip_length=case.trust)
    whole = rows[-1]
    for row in rows:
        if row["bucket"] == METERED and not row["flags"] & FLAGS["partial"]:
            names = ("octets", "source", "destination", "source_port", "destination_port", "tags")
            assert {n: row[n] for n in names} == {n: whole[n] for n in names}


@cases
@at_both
@pytest.mark.parametrize("on_the_wire", [False, True])
@pytest.mark.parametrize("layer", ["ip", "frame", "payload"])
def test_dissect_core_equals_reference_at_every_truncation(
    case: Case, at: str, on_the_wire: bool, layer: str
) -> None:
    frames = prefixes(case, on_the_wire=on_the_wire)
    options = {"at": at, "layer": layer, "trust_ip_length": case.trust}
    for count, (fast, slow) in enumerate(zip(
            core_rows(frames, **options), reference_rows(frames, **options), strict=True)):
        names = slow if slow["bucket"] == METERED else VOLUME
        assert {n: fast[n] for n in names} == {n: slow[n] for n in names}, f"{count} octets"
