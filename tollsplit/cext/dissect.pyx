"""Frames → PACKET rows: link layers, tunnels, IPv4 and IPv6, transport."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.cursor cimport *
from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import PACKET
from tollsplit.cext.link cimport *
from tollsplit.cext.lpm cimport Trie, trie_s
from tollsplit.cext.network cimport *
from tollsplit.cext.plain cimport PLAIN, PLAIN_GTPU, plain, plain_e, plain_gtpu
from tollsplit.cext.tunnel cimport *

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void*) nogil

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    TUNNELS_MAX = 8

BOUNDS = {
    "LINK_TAGS_MAX": LINK_TAGS_MAX, "TUNNELS_MAX": TUNNELS_MAX,
    "EXTENSION_HEADERS_MAX": EXTENSION_HEADERS_MAX, "GTP_EXTENSIONS_MAX": GTP_EXTENSIONS_MAX,
}

RETRANSMISSIONS = ("charge", "charge_if_identical", "exempt_if_identical")


cdef next_e transport(cursor_s *c, packet_s *row, const meter_s *meter) noexcept nogil:
    """Read ports and payload length; says whether a tunnel follows."""
    cdef const uint8_t *p
    cdef uint32_t size, header
    c.payload_at = 0
    if row.flags & FLAG_LATER_FRAGMENT:
        return NEXT_NOTHING
    if row.protocol == PROTOCOL_AH and row.version == 4:  # IPv6's was stepped over
        if cut(c, row, 12):
            return NEXT_NOTHING
        size = 8 + 4 * <uint32_t>c.octets[c.at + 1]  # RFC 4302 §2.2: in words, minus 2
        if cut(c, row, size):
            return NEXT_NOTHING
        row.protocol = c.octets[c.at]
        row.payload_octets -= min(size, row.payload_octets)
        c.at += size
    if row.protocol == PROTOCOL_TCP:
        size = 20
    elif row.protocol == PROTOCOL_UDP:
        size = 8
    elif row.protocol == PROTOCOL_SCTP:
        size = 12
    elif not endpoints(row, meter):
        return NEXT_NOTHING
    elif row.protocol == PROTOCOL_IPV4:
        return NEXT_IPV4
    elif row.protocol == PROTOCOL_IPV6:
        return NEXT_IPV6
    elif row.protocol == PROTOCOL_GRE:
        return gre(c, row)
    elif row.protocol == PROTOCOL_MPLS:
        return NEXT_MPLS
    else:
        return NEXT_NOTHING
    if cut(c, row, size):
        row.payload_octets = row.payload_octets - size if row.payload_octets > size else 0
        return NEXT_NOTHING
    p = c.octets + c.at
    row.source_port = be16(p)
    row.destination_port = be16(p + 2)
    row.tags |= TAG_PORTS
    header = size
    if row.protocol == PROTOCOL_TCP:
        row.tcp_flags = p[13]
        header = max(20, (p[12] >> 4) * 4)
    row.payload_octets = row.payload_octets - header if row.payload_octets > header else 0
    if row.protocol != PROTOCOL_SCTP and not row.flags & FLAG_FRAGMENT:
        c.payload_at = c.at + header
    if row.protocol != PROTOCOL_UDP:
        return NEXT_NOTHING
    c.at += 8
    return udp_tunnel(c, row, meter)


cdef inline next_e udp_tunnel(cursor_s *c, packet_s *row, const meter_s *meter) noexcept nogil:
    """What a UDP port promises."""
    cdef uint16_t source = row.source_port, destination = row.destination_port
    if not tunnel_port(source, destination) or not endpoints(row, meter):
        return NEXT_NOTHING
    if destination == PORT_GTPU:
        return gtpu(c, row)
    if destination == PORT_VXLAN:
        return vxlan(c, row)
    if destination == PORT_GENEVE:
        return geneve(c, row)
    if destination == PORT_L2TP:
        return l2tp(c)
    if source == PORT_GTPU:
        return gtpu(c, row)
    if source == PORT_L2TP:
        return l2tp(c)
    return NEXT_NOTHING


cdef inline void take_tags(packet_s *row, const packet_s *deepest) noexcept nogil:
    """Copy what was learned inside tunnels onto the outermost packet's row."""
    row.tags = (row.tags & (TAG_PORTS | TAG_FLOW_LABEL)) | (
        deepest.tags & ~<uint16_t>(TAG_PORTS | TAG_FLOW_LABEL))
    row.vlan = deepest.vlan
    row.vlan_inner = deepest.vlan_inner
    row.pppoe_session = deepest.pppoe_session
    row.mpls = deepest.mpls
    row.gtp_teid = deepest.gtp_teid
    row.qfi = deepest.qfi
    row.gre_key = deepest.gre_key
    row.vni = deepest.vni
    row.depth = deepest.depth
    row.flags |= deepest.flags & FLAG_TUNNELLED


cdef void fail(packet_s *row, fault_e fault, uint32_t at) noexcept nogil:
    row.bucket = BUCKET_FAULT
    row.fault = fault
    row.version = 0
    row.octets = row.frame_octets - at


cdef void tunnels(
    cursor_s *c, packet_s *row, const meter_s *meter, next_e step, uint32_t link_octets
) noexcept nogil:
    """Follow tunnels inward from the outermost IP packet, whose row stands already."""
    cdef packet_s outer = row[0]
    cdef packet_s enclosing
    cdef cursor_s before
    cdef fault_e fault = FAULT_NONE
    while step != NEXT_NOTHING and row.depth < TUNNELS_MAX:
        if step == NEXT_CONTROL:
            row.bucket = BUCKET_CONTROL
            break
        before = c[0]
        step = link_layers(c, row, step)
        if step == NEXT_NOTHING or step == NEXT_NONSENSE or step == NEXT_CONTROL:
            c[0] = before
            break
        enclosing = row[0]
        c.jumbo_outside = c.jumbo_octets
        clear_ip(row)
        if step != NEXT_CUT:
            fault = ipv4(c, row, meter.trust_ip_length) if step == NEXT_IPV4 else ipv6(c, row, meter.trust_ip_length)
        if step == NEXT_CUT or fault == FAULT_TRUNCATED:
            if meter.outer:
                row[0] = enclosing
                c.payload_at = 0
                break
            fail(row, FAULT_TRUNCATED, link_octets)
            row.octets = outer.ip_octets
            return
        if fault != FAULT_NONE:  # nonsense on the wire: the enclosing packet is what counts
            row[0] = enclosing
            c[0] = before
            break
        row.depth = enclosing.depth + 1
        step = transport(c, row, meter)
    if row.depth > 1:
        row.flags |= FLAG_TUNNELLED
        if not meter.outer and outer.ip_octets > row.ip_octets:
            row.tunnel_octets = outer.ip_octets - row.ip_octets
    if meter.outer:
        enclosing = row[0]
        row[0] = outer
        row.bucket = enclosing.bucket
        take_tags(row, &enclosing)


cdef void segments(
    const cursor_s *c, packet_s *row, const meter_s *meter, uint32_t outermost, uint32_t whole,
    uint32_t segment_octets,
) noexcept nogil:
    """Give each segment of a coalesced packet its headers, as they were on the wire.

    outermost, whole   where the outermost IP packet begins, and its octets

    The segments are known where the innermost transport payload is whole: what is metered, and
    the outermost packet, end where it ends. Then `octets` and `tunnel_octets` count the headers
    of all of them; a jumbogram's own header (RFC 2675 §2) is on none. Else the packet is one.
    """
    cdef uint32_t start = outermost if meter.outer else c.start
    cdef uint64_t payload, count, headers, overhead
    if segment_octets == SEGMENT_UNKNOWN:
        row.flags |= FLAG_COALESCED
        return
    if meter.layer != LAYER_IP:
        return
    row.flags |= FLAG_COALESCED
    if not (0 < c.payload_at < c.wire and outermost + <uint64_t>whole == c.wire
            and start + <uint64_t>row.ip_octets == c.wire):
        return
    payload = c.wire - c.payload_at
    count = (payload + segment_octets - 1) // segment_octets
    overhead = 0 if meter.outer else start - outermost - c.jumbo_outside
    headers = c.payload_at - outermost - c.jumbo_octets - overhead
    if payload + count * (headers + overhead) > 0xFFFFFFFFU:  # beyond what a row holds
        return
    row.octets = <uint32_t>(payload + count * headers)
    row.tunnel_octets = <uint32_t>(count * overhead)
    row.flags &= ~<uint16_t>FLAG_COALESCED


cdef void dissect(
    const frame_s *frame, uint32_t number, packet_s *row, const meter_s *meter,
    datagram_s *datagrams, inside_s *inside
) noexcept nogil:
    """One frame's row: the metered packet, its tags, and its bucket; `octets` of layer ip.

    datagrams   where a fragment lies in its own, by number of the frame; NULL: nobody asks
    inside      the metered packet itself, all zero so far; NULL: nobody asks
    """
    cdef cursor_s c
    cdef datagram_s outermost
    cdef next_e step
    cdef fault_e fault
    cdef uint32_t link_octets, whole
    memset(row, 0, sizeof(packet_s))
    row.timestamp_ns = frame.timestamp_ns
    row.frame_octets = frame.original_octets
    row.frame = number
    row.ingress = frame.ingress
    row.direction = DIRECTION_NONE
    c.octets = frame.octets
    c.at = 0
    c.wire = frame.original_octets
    c.captured = min(frame.captured_octets, frame.original_octets)
    c.link_tags = 0
    c.ethertype = 0
    c.fragment = False
    c.jumbo_octets = c.jumbo_outside = c.options_octets = 0
    memset(&c.datagram, 0, sizeof(datagram_s))
    if frame.link_type == LINK_SKIPPED:
        fail(row, FAULT_LINK_TYPE, 0)
        return
    step = link_layers(&c, row, link_layer(&c, frame.link_type))
    link_octets = c.at
    if step == NEXT_CUT:
        fail(row, FAULT_TRUNCATED, link_octets)
        return
    if step == NEXT_NONSENSE:
        fail(row, nonsense(&c, frame.link_type), link_octets)
        return
    if step == NEXT_NOTHING:
        row.bucket = BUCKET_NON_IP
        row.octets = row.frame_octets - link_octets
        return
    fault = ipv4(&c, row, meter.trust_ip_length) if step == NEXT_IPV4 else ipv6(&c, row, meter.trust_ip_length)
    if fault != FAULT_NONE:
        fail(row, fault, link_octets)
        return
    row.depth = 1
    whole = row.ip_octets
    outermost = c.datagram
    step = transport(&c, row, meter)
    if step != NEXT_NOTHING:
        tunnels(&c, row, meter, step, link_octets)
    if datagrams != NULL and row.flags & FLAG_FRAGMENT:
        datagrams[number] = outermost if meter.outer else c.datagram
    if inside != NULL and (not meter.outer or row.depth == 1):
        look(&c, row, inside)
    elif inside != NULL and row.bucket != BUCKET_FAULT:  # a tunnel's outer packet, as it is
        inside.packet = c.octets + link_octets
        inside.packet_captured = min(frame.captured_octets, frame.original_octets) - link_octets
        inside.packet_octets = row.ip_octets
    if row.bucket != BUCKET_FAULT:
        row.octets = row.ip_octets
    if frame.segment_octets and row.bucket == BUCKET_METERED:
        segments(&c, row, meter, link_octets, whole, frame.segment_octets)
    if meter.layer == LAYER_PAYLOAD and row.flags & FLAG_PARTIAL:
        # how long the header is was cut off: a guess would bill by the snap length
        fail(row, FAULT_TRUNCATED, link_octets)
        row.octets = whole
        row.tunnel_octets = 0


cdef void look_inside(
    const frame_s *frame, const meter_s *meter, inside_s *inside
) noexcept nogil:
    """The metered packet of a frame itself; dissects it once more, for few are asked for."""
    cdef packet_s row
    memset(inside, 0, sizeof(inside_s))
    dissect(frame, 0, &row, meter, NULL, inside)


cdef void look(const cursor_s *c, const packet_s *row, inside_s *inside) noexcept nogil:
    """What the cursor shows of the packet that it read last, which is the row's."""
    cdef const uint8_t *p
    if row.bucket == BUCKET_FAULT:
        return
    inside.packet = c.octets + c.start
    inside.packet_captured = c.captured - c.start
    inside.packet_octets = row.ip_octets
    if c.options_octets:
        inside.options = c.octets + c.options_at
        inside.options_octets = c.options_octets
    if not c.payload_at or not row.tags & TAG_PORTS:
        return
    if row.protocol == PROTOCOL_TCP:
        p = c.octets + c.at
        inside.sequence = be32(p + 4)
        inside.acknowledgment = be32(p + 8)
        inside.window = be16(p + 14)
    inside.payload = c.octets + min(c.payload_at, c.captured)
    inside.payload_octets = row.payload_octets
    inside.payload_captured = c.captured - min(c.payload_at, c.captured)


cdef fault_e nonsense(const cursor_s *c, uint16_t link_type) noexcept nogil:
    """What is wrong with a frame whose link layers end before any IP."""
    if c.link_tags > LINK_TAGS_MAX:
        return FAULT_LINK_TAGS
    if c.at < c.wire and link_type in (LINK_RAW, LINK_RAW_BSD, LINK_RAW_OPENBSD):
        return FAULT_IP_VERSION
    return FAULT_TRUNCATED


cdef void dissect_batch(
    const frame_s *frames, packet_s *rows, int count, const meter_s *meter, bint detail,
    datagram_s *datagrams
) noexcept nogil:
    """Fill one row per frame; without `detail`, of common packets only the first line.

    datagrams   [count], filled where a row is a fragment; NULL: nobody asks

    Budget: 6 ns a packet for plain Ethernet/IPv4, the frame's first line in cache (the
    reader prefetches). Unchecked are only the two array indexes, both below `count`, and
    what plain() reads below the length that it asks for first; every other octet of a frame
    is read behind has(). Guarded by benchmarks/bench_account.py.
    """
    cdef bint described = detail or meter.layer == LAYER_PAYLOAD
    cdef int i
    cdef packet_s *row
    cdef const frame_s *frame
    cdef plain_e found
    cdef size_t ahead = frames[count - 1].octets - frames[0].octets + 128 if count else 0
    for i in range(count):
        frame = &frames[i]
        row = &rows[i]
        prefetch(frame.octets + ahead)
        found = plain(frame, <uint32_t>i, row, described)
        if found != PLAIN and not (
                found == PLAIN_GTPU and plain_gtpu(frame, <uint32_t>i, row, meter)):
            dissect(frame, <uint32_t>i, row, meter, datagrams, NULL)
        if meter.layer == LAYER_FRAME:
            row.octets = frame.original_octets
        elif meter.layer == LAYER_PAYLOAD and (
                row.bucket == BUCKET_METERED or row.bucket == BUCKET_CONTROL):
            row.octets = row.payload_octets


cdef class Dissection:
    """How frames are metered (accounting §1).

    layer        "ip", "frame" or "payload"
    at           "inner" or "outer"
    endpoints    (version, value, length) prefixes between which tunnels are followed; None: all
    retransmissions, duplicates_ns, unsolicited
                 as rules.rule.Meter has them: for meters that remember what they have met
    """

    def __cinit__(self, str layer="ip", str at="inner", bint trust_ip_length=False,
                  endpoints=None, str retransmissions="charge", uint64_t duplicates_ns=0,
                  bint unsolicited=False):
        if layer not in ("ip", "frame", "payload") or at not in ("inner", "outer"):
            raise ValueError(f"layer {layer!r} or at {at!r} is none of the known ones")
        if retransmissions not in RETRANSMISSIONS:
            raise ValueError(f"retransmissions {retransmissions!r} is none of {RETRANSMISSIONS}")
        self.layer = layer
        self.meter.layer = ("ip", "frame", "payload").index(layer)
        self.meter.outer = at == "outer"
        self.meter.trust_ip_length = trust_ip_length
        self.meter.bounded = endpoints is not None
        self.meter.retransmissions = RETRANSMISSIONS.index(retransmissions)
        self.meter.duplicates_ns = duplicates_ns
        self.meter.unsolicited = unsolicited
        self.endpoints4 = Trie(32, [(v, n, 1) for f, v, n in endpoints or () if f == 4])
        self.endpoints6 = Trie(128, [(v, n, 1) for f, v, n in endpoints or () if f == 6])
        self.meter.endpoints4 = &(<Trie>self.endpoints4).trie
        self.meter.endpoints6 = &(<Trie>self.endpoints6).trie

    def rows(self, frames):
        """PACKET[n] of frames as Reader.frames() and Ring.frames() give them."""
        cdef frame_s frame
        cdef packet_s[::1] packets
        cdef int i
        result = np.zeros(len(frames), PACKET)
        if not len(frames):
            return result
        packets = result
        for i, (octets, timestamp_ns, original, link_type, ingress, segment_octets) in enumerate(
                frames):
            frame.octets = <const uint8_t *>PyBytes_AS_STRING(octets)
            frame.captured_octets = PyBytes_GET_SIZE(octets)
            frame.timestamp_ns = timestamp_ns
            frame.original_octets = original
            frame.link_type = link_type
            frame.ingress = ingress
            frame.segment_octets = segment_octets
            dissect_batch(&frame, &packets[i], 1, &self.meter, True, NULL)
            packets[i].frame = i
        return result


def inside(frame, at="inner"):
    """What look_inside() shows of one frame as Reader.frames() gives it: a dict by inside_s's names.

    Octets as bytes; None for NULL.
    """
    cdef frame_s one
    cdef inside_s found
    octets, one.timestamp_ns, one.original_octets, one.link_type, one.ingress, one.segment_octets = (
        frame)
    one.octets = <const uint8_t *>PyBytes_AS_STRING(octets)
    one.captured_octets = PyBytes_GET_SIZE(octets)
    look_inside(&one, &(<Dissection>Dissection("ip", at)).meter, &found)
    return {
        "packet": found.packet[:found.packet_captured] if found.packet != NULL else None,
        "payload": found.payload[:found.payload_captured] if found.payload != NULL else None,
        "options": found.options[:found.options_octets] if found.options != NULL else None,
        "packet_octets": found.packet_octets, "payload_octets": found.payload_octets,
        "sequence": found.sequence, "acknowledgment": found.acknowledgment,
        "window": found.window,
    }


def rows(frames, layer="ip", at="inner", trust_ip_length=False, endpoints=None):
    """PACKET[n], dissected; see Dissection."""
    return Dissection(layer, at, trust_ip_length, endpoints).rows(frames)
