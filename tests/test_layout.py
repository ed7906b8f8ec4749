"""The structs that leave C: a field that moves breaks files, ledgers and Numba kernels."""

from __future__ import annotations

import numpy as np
import pytest

from tollsplit import limits
from tollsplit.cext import (
    classify,
    copies,
    covering,
    dissect,
    dns,
    exchange,
    fragments,
    hello,
    http,
    quic,
    state,
    streams,
    talk,
)
from tollsplit.cext.layout import (
    BUCKET_NAMES,
    COUNTER,
    FAULT_NAMES,
    FLAG_NAMES,
    FRAME,
    PACKET,
    SUBSCRIBER,
    TAGS,
)

# name, offset, NumPy kind with octets
FRAME_FIELDS = """
octets              0 u8
timestamp_ns        8 u8
captured_octets    16 u4
original_octets    20 u4
link_type          24 u2
ingress            26 u2
segment_octets     28 u4
"""

PACKET_FIELDS = """
timestamp_ns        0 u8
source_hi           8 u8
source_lo          16 u8
destination_hi     24 u8
destination_lo     32 u8
octets             40 u4
subscriber         44 u4
classes            48 u4
rule               52 u2
flags              54 u2
version            56 u1
direction          57 u1
bucket             58 u1
fault              59 u1
pool               60 u2
interned           62 u1
brief              63 u1
tags               64 u2
source_port        66 u2
destination_port   68 u2
server_port        70 u2
subscriber_port    72 u2
vlan               74 u2
vlan_inner         76 u2
pppoe_session      78 u2
ingress            80 u2
protocol           82 u1
qfi                83 u1
frame              84 u4
frame_octets       88 u4
ip_octets          92 u4
payload_octets     96 u4
tunnel_octets     100 u4
flow_label        104 u4
mpls              108 u4
gtp_teid          112 u4
gre_key           116 u4
vni               120 u4
dscp              124 u1
ttl               125 u1
tcp_flags         126 u1
depth             127 u1
"""

COUNTER_FIELDS = """
subscriber          0 u4
rule                4 u2
interned            6 u1
flags               7 u1
cell                8 u4
used               12 u4
uplink_packets     16 u8
uplink_octets      24 u8
downlink_packets   32 u8
downlink_octets    40 u8
first_ns           48 u8
last_ns            56 u8
"""

SUBSCRIBER_FIELDS = """
hi                  0 u8
lo                  8 u8
tenure             16 u4
pool               20 u2
kind               22 u1
used               23 u1
reserved           24 u8
"""

STRUCTS = [
    pytest.param(FRAME, 32, FRAME_FIELDS, id="frame_s"),
    pytest.param(PACKET, 128, PACKET_FIELDS, id="packet_s"),
    pytest.param(COUNTER, 64, COUNTER_FIELDS, id="counter_s"),
    pytest.param(SUBSCRIBER, 32, SUBSCRIBER_FIELDS, id="subscriber_s"),
]


@pytest.mark.parametrize(("dtype", "size", "fields"), STRUCTS)
def test_layout_names_offsets_and_sizes_stay(dtype: np.dtype, size: int, fields: str) -> None:
    rows = [line.split() for line in fields.split("\n") if line]
    expected = [(name, int(offset), np.dtype(kind)) for name, offset, kind in rows]
    assert dtype.fields is not None
    found = [(name, dtype.fields[name][1], dtype.fields[name][0]) for name in dtype.names]
    assert found == expected
    assert dtype.itemsize == size


@pytest.mark.parametrize(("dtype", "size", "fields"), STRUCTS)
def test_layout_has_no_implicit_padding(dtype: np.dtype, size: int, fields: str) -> None:
    assert sum(dtype.fields[name][0].itemsize for name in dtype.names) == size


def test_layout_one_packet_and_one_counter_fill_whole_cache_lines() -> None:
    assert PACKET.itemsize % 64 == 0
    assert COUNTER.itemsize == 64
    # What every packet needs lies in the first line.
    for name in ("octets", "subscriber", "classes", "direction", "bucket", "rule", "flags"):
        assert PACKET.fields[name][1] < 64
    assert PACKET.fields["brief"][1] == 63


def test_layout_names_are_unique_and_complete() -> None:
    assert len(set(FAULT_NAMES)) == len(FAULT_NAMES) == 10
    assert FAULT_NAMES[0] == "none"
    assert BUCKET_NAMES == (
        "metered", "unattributed", "non_ip", "control", "duplicate", "fault", "retransmitted",
    )
    assert FLAG_NAMES == ("coalesced", "mismatch", "partial", "trusted")
    assert all(tag & (tag - 1) == 0 for tag in TAGS.values())
    assert len(set(TAGS.values())) == len(TAGS)


def test_layout_bounds_of_the_core_are_those_of_limits() -> None:
    """cext imports nothing of ours, so it repeats them."""
    assert {name: getattr(limits, name) for name in covering.BOUNDS} == covering.BOUNDS
    assert {name: getattr(limits, name) for name in dissect.BOUNDS} == dissect.BOUNDS
    assert {name: getattr(limits, name) for name in classify.BOUNDS} == classify.BOUNDS
    assert {name: getattr(limits, name) for name in fragments.BOUNDS} == fragments.BOUNDS
    assert {name: getattr(limits, name) for name in hello.BOUNDS} == hello.BOUNDS
    assert {name: getattr(limits, name) for name in exchange.BOUNDS} == exchange.BOUNDS
    assert {name: getattr(limits, name) for name in http.BOUNDS} == http.BOUNDS
    assert {name: getattr(limits, name) for name in quic.BOUNDS} == quic.BOUNDS
    assert {name: getattr(limits, name) for name in dns.BOUNDS} == dns.BOUNDS
    assert {name: getattr(limits, name) for name in state.BOUNDS} == state.BOUNDS
    assert {name: getattr(limits, name) for name in copies.BOUNDS} == copies.BOUNDS
    assert {name: getattr(limits, name) for name in streams.BOUNDS} == streams.BOUNDS
    assert {name: getattr(limits, name) for name in talk.BOUNDS} == talk.BOUNDS
