# The structs that leave C. Each stands once, without implicit padding; layout.pyx derives
# the NumPy dtypes from them and tests/test_layout.py pins names, offsets and sizes.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

# A frame as a capture or a ring hands it over. 32 octets.
cdef struct frame_s:
    const uint8_t* octets        # the captured octets; owned by whoever read them
    uint64_t timestamp_ns        # since 1970-01-01 UTC
    uint32_t captured_octets     # how many of them are in memory
    uint32_t original_octets     # how many were on the wire
    uint16_t link_type           # LINKTYPE_* (see link_e)
    uint16_t ingress             # 0: none; else 1 + index into the rule set's ingresses
    uint32_t segment_octets      # payload of each segment of a coalesced packet; 0: one packet

# The segment_octets of a packet that the kernel says is coalesced, but not of what segments:
# it holds any payload, so the packet is metered as one.
cdef enum:
    SEGMENT_UNKNOWN = 0xFFFFFFFF

# LINKTYPE_ values (tcpdump.org/linktypes.html)
cdef enum link_e:
    LINK_NULL = 0
    LINK_ETHERNET = 1
    LINK_PPP = 9
    LINK_RAW_BSD = 12            # DLT_RAW as some systems write it
    LINK_RAW_OPENBSD = 14
    LINK_PPP_HDLC = 50
    LINK_PPP_ETHER = 51
    LINK_RAW = 101
    LINK_C_HDLC = 104
    LINK_LOOP = 108
    LINK_LINUX_SLL = 113
    LINK_PPP_WITH_DIR = 204
    LINK_IPV4 = 228
    LINK_IPV6 = 229
    LINK_LINUX_SLL2 = 276
    LINK_SKIPPED = 0xFFFF        # a link type that --skip-links asked to count only

# Where a frame ends up (accounting §2).
cdef enum bucket_e:
    BUCKET_METERED = 0
    BUCKET_UNATTRIBUTED = 1
    BUCKET_NON_IP = 2
    BUCKET_CONTROL = 3
    BUCKET_DUPLICATE = 4
    BUCKET_FAULT = 5
    BUCKET_RETRANSMITTED = 6

# No frame ends up here: it waits, and is seen when it has been decided where it does.
cdef enum:
    BUCKET_HELD = 7

# Kinds of fault; FAULT_NAMES in layout.pyx spells them in this order.
cdef enum fault_e:
    FAULT_NONE = 0
    FAULT_TRUNCATED = 1          # the capture ends inside a header
    FAULT_LINK_TYPE = 2          # a link type that is not dissected (--skip-links)
    FAULT_LINK_TAGS = 3          # more VLAN tags or MPLS labels than the bound
    FAULT_IP_VERSION = 4
    FAULT_IP_HEADER = 5          # header length below 20, or beyond the packet
    FAULT_IP_LENGTH = 6          # IP length below its own headers
    FAULT_IP_EXCEEDS_WIRE = 7    # IP length greater than what was on the wire
    FAULT_TABLE_FULL = 8         # no room for another counter or subscriber
    FAULT_CELLS_FULL = 9         # no room for another time cell
    FAULTS = 10

cdef enum flag_e:
    FLAG_COALESCED = 1           # several packets in one, metered as it is
    FLAG_MISMATCH = 2            # a claim that the server address contradicts
    FLAG_PARTIAL = 4             # the transport header was not captured
    FLAG_TRUSTED = 8             # metered by an IP length beyond the frame
    FLAG_FRAGMENT = 16           # a fragment, first or later
    FLAG_LATER_FRAGMENT = 32     # offset > 0: no transport header
    FLAG_TUNNELLED = 64
    FLAG_TWICE = 128             # its frame is seen for another subscriber's sake
    FLAG_UNTRACKED = 256         # there was no room to keep what it depends on
    FLAG_SUSPICIOUS = 512        # sent again with other content

# Flags that a counter and a usage record keep.
cdef enum:
    FLAGS_KEPT = 15

cdef enum tag_e:
    TAG_VLAN = 1
    TAG_VLAN_INNER = 2
    TAG_MPLS = 4
    TAG_GTP_TEID = 8
    TAG_QFI = 16
    TAG_GRE_KEY = 32
    TAG_VNI = 64
    TAG_PPPOE = 128
    TAG_PORTS = 256              # source_port and destination_port are real
    TAG_FLOW_LABEL = 512         # the metered packet is IPv6

cdef enum direction_e:
    DIRECTION_UPLINK = 0
    DIRECTION_DOWNLINK = 1
    DIRECTION_NONE = 2

# What of a row's classes is the server's: what 12 bits of pools leave of a trie's value.
cdef enum:
    CLASS_BITS = 19
    CLASS_MASK = (1 << CLASS_BITS) - 1

# One packet's row. 128 octets, two cache lines. The first is what every packet needs; the
# second is filled only where `brief` is 0.
# Addresses and numbers are in host order; an IPv4 address is the low 32 bits of *_lo.
cdef struct packet_s:
    uint64_t timestamp_ns
    uint64_t source_hi           # 0 with IPv4; nothing where the row is brief
    uint64_t source_lo
    uint64_t destination_hi
    uint64_t destination_lo
    uint32_t octets              # of the metered layer: what is billed
    uint32_t subscriber          # IPv4 key, or number of an interned subscriber
    uint32_t classes             # which rules' conditions its ends fulfil: CLASS_BITS of the
                                 # server's, above them the subscriber's
    uint16_t rule                # 0: none; else 1 + index by precedence
    uint16_t flags               # flag_e
    uint8_t version              # 4, 6; 0: no IP
    uint8_t direction            # direction_e; set when a subscriber is found
    uint8_t bucket               # bucket_e
    uint8_t fault                # fault_e
    uint16_t pool                # 0: none; else 1 + index
    uint8_t interned             # subscriber is an interned number
    uint8_t brief                # 1: nobody asks for the second line, which holds nothing
    # second line
    uint16_t tags                # tag_e: which of the tags below are present
    uint16_t source_port
    uint16_t destination_port
    uint16_t server_port         # the other end's port; 0 where TAG_PORTS is missing
    uint16_t subscriber_port
    uint16_t vlan                # VID of the outermost and of the next tag
    uint16_t vlan_inner
    uint16_t pppoe_session
    uint16_t ingress
    uint8_t protocol             # transport, after extension headers
    uint8_t qfi
    uint32_t frame               # index of its frame in the batch
    uint32_t frame_octets        # original length of the frame
    uint32_t ip_octets           # RFC 791 total length; RFC 8200 payload length + 40
    uint32_t payload_octets      # behind the transport header
    uint32_t tunnel_octets       # outer minus inner IP length
    uint32_t flow_label
    uint32_t mpls                # top label
    uint32_t gtp_teid            # the innermost, as are gre_key and vni
    uint32_t gre_key
    uint32_t vni
    uint8_t dscp
    uint8_t ttl                  # hop limit
    uint8_t tcp_flags
    uint8_t depth                # IP headers met, 1: no tunnel

# What is counted for one (subscriber, rule, cell). 64 octets.
cdef struct counter_s:
    uint32_t subscriber
    uint16_t rule                # as in packet_s
    uint8_t interned
    uint8_t flags                # FLAGS_KEPT
    uint32_t cell                # number of the time cell
    uint32_t used                # 0: an empty slot
    uint64_t uplink_packets
    uint64_t uplink_octets
    uint64_t downlink_packets
    uint64_t downlink_octets
    uint64_t first_ns
    uint64_t last_ns

# Who an interned number stands for. 32 octets.
cdef struct subscriber_s:
    uint64_t hi                  # the key: an address, a TEID, a VLAN pair, a MAC …
    uint64_t lo
    uint32_t tenure              # 0: none; else 1 + index into the directory
    uint16_t pool                # 1 + index
    uint8_t kind                 # kind_e
    uint8_t used
    uint64_t reserved

cdef enum kind_e:
    KIND_IPV4 = 0
    KIND_IPV6 = 1
    KIND_GTP_TEID = 2
    KIND_VLAN = 3
    KIND_PPPOE = 4
    KIND_MAC = 5
