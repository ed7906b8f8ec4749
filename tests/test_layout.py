"""The structs that leave C: a field that moves breaks files, ledgers and Numba kernels."""

from __future__ import annotations

import numpy as np
import pytest

from tollsplit import limits
from tollsplit.cext import classify, dissect
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
server_class       48 u4
source_port        52 u2
destination_port   54 u2
version            56 u1
protocol           57 u1
direction          58 u1
bucket             59 u1
rule               60 u2
flags              62 u2
tags               64 u2
pool               66 u2
frame              68 u4
frame_octets       72 u4
ip_octets          76 u4
payload_octets     80 u4
tunnel_octets      84 u4
flow_label         88 u4
mpls               92 u4
gtp_teid           96 u4
gre_key           100 u4
vni               104 u4
vlan              108 u2
vlan_inner        110 u2
pppoe_session     112 u2
server_port       114 u2
subscriber_port   116 u2
ingress           118 u2
qfi               120 u1
dscp              121 u1
ttl               122 u1
tcp_flags         123 u1
fault             124 u1
depth             125 u1
interned          126 u1
link_octets       127 u1
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
    for name in ("octets", "subscriber", "server_class", "direction", "bucket", "rule", "flags"):
        assert PACKET.fields[name][1] < 64


def test_layout_names_are_unique_and_complete() -> None:
    assert len(set(FAULT_NAMES)) == len(FAULT_NAMES) == 11
    assert FAULT_NAMES[0] == "none"
    assert BUCKET_NAMES == (
        "metered", "unattributed", "non_ip", "control", "duplicate", "fault",
    )
    assert FLAG_NAMES == ("coalesced", "mismatch", "partial", "trusted")
    assert all(tag & (tag - 1) == 0 for tag in TAGS.values())
    assert len(set(TAGS.values())) == len(TAGS)


def test_layout_bounds_of_the_core_are_those_of_limits() -> None:
    """cext imports nothing of ours, so it repeats them."""
    assert {name: getattr(limits, name) for name in dissect.BOUNDS} == dissect.BOUNDS
    assert {name: getattr(limits, name) for name in classify.BOUNDS} == classify.BOUNDS
