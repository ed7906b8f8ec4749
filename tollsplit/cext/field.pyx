"""What rules ask of a row's fields."""

import numpy as np

from libc.stdint cimport uint16_t, uint32_t, uint64_t

# In the order of field_e; the first ones are tables by value, the rest hashed.
FIELDS = ("direction", "protocol", "port", "dscp", "vlan", "vlan_inner", "qfi", "ingress",
          "flow_label", "mpls", "gtp_teid", "gre_key", "vni")
DIRECT_FIELDS = FIELDS[:8]


cdef class Fields:
    """The fields that some rule asks for.

    words    of a set of rules
    fields   name → (absent row, rows u2[…], values u4[…] or None, bits u8[rows, words]); row 0
             holds the rules that leave the field open
    """

    def __cinit__(self, int words, dict fields not None):
        if len(fields) >= FIELDS_MAX:
            raise ValueError(f"{len(fields)} fields: out of bounds")
        self.words = words
        self.kept = fields
        for name, field in fields.items():
            self.add(name, *field)

    def add(self, name, absent, rows, values, bits):
        cdef field_s *field = &self.asked[self.count]
        cdef const uint16_t[::1] table = rows
        cdef const uint32_t[::1] keys
        cdef const uint64_t[:, ::1] matrix = bits
        if matrix.shape[1] != self.words:
            raise ValueError(f"field {name}: {matrix.shape[1]} words, not {self.words}")
        field.kind = FIELDS.index(name)
        field.absent = absent
        field.rows = &table[0]
        field.bits = &matrix[0, 0]
        if values is not None:
            keys = values
            field.values = &keys[0]
            field.mask = <uint32_t>keys.shape[0] - 1
        self.count += 1


def hashed(values):
    """(rows u2[slots], values u4[slots]) of a wide field: value → row, rows ≥ 1."""
    cdef uint32_t size = 8, slot
    while size < 2 * len(values):
        size *= 2
    rows = np.zeros(size, np.uint16)
    keys = np.zeros(size, np.uint32)
    for value, row in values.items():
        slot = slot_of(value) & (size - 1)
        while rows[slot]:
            slot = (slot + 1) & (size - 1)
        rows[slot] = row
        keys[slot] = value
    return rows, keys
