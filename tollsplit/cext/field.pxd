# What rules ask of a row's fields: value → row of bits, a bit per rule.

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from tollsplit.cext.layout cimport *

cdef enum:
    FIELDS_MAX = 16

cdef enum field_e:
    FIELD_DIRECTION
    FIELD_PROTOCOL
    FIELD_PORT
    FIELD_DSCP
    FIELD_VLAN
    FIELD_VLAN_INNER
    FIELD_QFI
    FIELD_INGRESS
    FIELD_FLOW_LABEL
    FIELD_MPLS
    FIELD_GTP_TEID
    FIELD_GRE_KEY
    FIELD_VNI

# One field's conditions.
cdef struct field_s:
    int kind                     # field_e
    uint16_t absent              # the row where a packet lacks the field
    const uint16_t *rows         # by value; or by slot, then `values` tells whose it is
    const uint32_t *values
    uint32_t mask                # of slots
    const uint64_t *bits         # [rows][words]


@cython.final
cdef class Fields:
    cdef field_s asked[FIELDS_MAX]
    cdef readonly int count
    cdef readonly int words
    cdef dict kept


cdef inline uint16_t row_of(const field_s *field, const packet_s *row) noexcept nogil:
    """The row of bits that a packet's value of a field selects."""
    if field.kind == FIELD_DIRECTION:
        return field.rows[row.direction]
    if field.kind == FIELD_PROTOCOL:
        return field.rows[row.protocol]
    if field.kind == FIELD_PORT:
        return field.rows[row.server_port] if row.tags & TAG_PORTS else field.absent
    if field.kind == FIELD_DSCP:
        return field.rows[row.dscp]
    if field.kind == FIELD_VLAN:
        return field.rows[row.vlan] if row.tags & TAG_VLAN else field.absent
    if field.kind == FIELD_VLAN_INNER:
        return field.rows[row.vlan_inner] if row.tags & TAG_VLAN_INNER else field.absent
    if field.kind == FIELD_QFI:
        return field.rows[row.qfi] if row.tags & TAG_QFI else field.absent
    if field.kind == FIELD_INGRESS:
        return field.rows[row.ingress]
    if field.kind == FIELD_FLOW_LABEL:
        return found(field, row.flow_label) if row.tags & TAG_FLOW_LABEL else field.absent
    if field.kind == FIELD_MPLS:
        return found(field, row.mpls) if row.tags & TAG_MPLS else field.absent
    if field.kind == FIELD_GTP_TEID:
        return found(field, row.gtp_teid) if row.tags & TAG_GTP_TEID else field.absent
    if field.kind == FIELD_GRE_KEY:
        return found(field, row.gre_key) if row.tags & TAG_GRE_KEY else field.absent
    return found(field, row.vni) if row.tags & TAG_VNI else field.absent


cdef inline uint16_t found(const field_s *field, uint32_t value) noexcept nogil:
    """A wide field's row, by hash; `rows` is 0 where a slot is empty."""
    cdef uint32_t slot = slot_of(value) & field.mask
    while field.rows[slot]:
        if field.values[slot] == value:
            return field.rows[slot]
        slot = (slot + 1) & field.mask
    return field.absent


cdef inline uint32_t slot_of(uint32_t value) noexcept nogil:
    return (value * <uint32_t>2654435761) >> 7
