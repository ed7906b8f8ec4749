"""The dtypes of what leaves C, derived from the structs themselves."""

import numpy as np

cdef frame_s frame
cdef packet_s packet
cdef counter_s counter
cdef subscriber_s subscriber


def _dtype(view):
    return np.asarray(view).dtype


FRAME = np.dtype([(name, "<u8" if name == "octets" else kind) for name, kind in [
    ("octets", "<u8"), ("timestamp_ns", "<u8"), ("captured_octets", "<u4"),
    ("original_octets", "<u4"), ("link_type", "<u2"), ("ingress", "<u2"),
    ("segment_octets", "<u4")]])
PACKET = _dtype(<packet_s[:1]>&packet)
COUNTER = _dtype(<counter_s[:1]>&counter)
SUBSCRIBER = _dtype(<subscriber_s[:1]>&subscriber)

if FRAME.itemsize != sizeof(frame_s):
    raise ImportError("FRAME does not match frame_s")

FAULT_NAMES = (
    "none", "truncated", "link_type", "link_tags", "ip_version", "ip_header",
    "ip_length", "ip_exceeds_wire", "table_full", "cells_full",
)
BUCKET_NAMES = (
    "metered", "unattributed", "non_ip", "control", "duplicate", "fault", "retransmitted")
SUSPICIOUS = FLAG_SUSPICIOUS  # in a row, never in a record
FLAG_NAMES = ("coalesced", "mismatch", "partial", "trusted")
TAGS = {"vlan": TAG_VLAN, "vlan_inner": TAG_VLAN_INNER, "mpls": TAG_MPLS,
        "gtp_teid": TAG_GTP_TEID, "qfi": TAG_QFI, "gre_key": TAG_GRE_KEY, "vni": TAG_VNI,
        "pppoe_session": TAG_PPPOE, "ports": TAG_PORTS, "flow_label": TAG_FLOW_LABEL}
LINK_NAMES = {
    LINK_NULL: "NULL", LINK_ETHERNET: "ETHERNET", LINK_PPP: "PPP", LINK_RAW_BSD: "RAW",
    LINK_RAW_OPENBSD: "RAW", LINK_PPP_HDLC: "PPP_HDLC", LINK_PPP_ETHER: "PPP_ETHER",
    LINK_RAW: "RAW", LINK_C_HDLC: "C_HDLC", LINK_LOOP: "LOOP", LINK_LINUX_SLL: "LINUX_SLL",
    LINK_PPP_WITH_DIR: "PPP_WITH_DIR", LINK_IPV4: "IPV4", LINK_IPV6: "IPV6",
    LINK_LINUX_SLL2: "LINUX_SLL2",
}
