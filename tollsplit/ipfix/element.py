"""Information elements (RFC 7012): those of IANA's that are used here, and our own."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from socket import AF_INET, AF_INET6, inet_pton
from typing import Literal, NamedTuple

# The enterprise number for examples and documentation (RFC 5612); ours until there is one.
ENTERPRISE = 32473

Type = Literal[
    "unsigned8", "unsigned16", "unsigned32", "unsigned64", "macAddress", "string",
    "dateTimeMilliseconds", "ipv4Address", "ipv6Address",
]  # fmt: skip
Semantics = Literal["default", "quantity", "totalCounter", "deltaCounter", "identifier", "flags"]
Units = Literal["none", "octets", "packets"]
# Their numbers in IANA's registries (RFC 5610 §3).
TYPES: dict[Type, int] = {
    "unsigned8": 1, "unsigned16": 2, "unsigned32": 3, "unsigned64": 4, "macAddress": 12,
    "string": 13, "dateTimeMilliseconds": 15, "ipv4Address": 18, "ipv6Address": 19,
}  # fmt: skip
SEMANTICS: dict[Semantics, int] = {
    "default": 0, "quantity": 1, "totalCounter": 2, "deltaCounter": 3, "identifier": 4, "flags": 5,
}  # fmt: skip
UNITS: dict[Units, int] = {"none": 0, "octets": 2, "packets": 3}

VARIABLE = 65_535  # a template's word for "each value says how long it is"
LONG = 255  # from this length on three octets say it


def _number(form: str) -> Callable[[int], bytes]:
    return struct.Struct(form).pack


def _string(value: str) -> bytes:
    text = value.encode()
    if len(text) < LONG:
        return bytes((len(text),)) + text
    return struct.pack(">BH", LONG, len(text)) + text


# type → octets of a value in a template, and its encoder
ENCODERS: dict[Type, tuple[int, Callable[..., bytes]]] = {
    "unsigned8": (1, _number(">B")),
    "unsigned16": (2, _number(">H")),
    "unsigned32": (4, _number(">I")),
    "unsigned64": (8, _number(">Q")),
    "macAddress": (6, bytes),
    "string": (VARIABLE, _string),
    "dateTimeMilliseconds": (8, _number(">Q")),
    "ipv4Address": (4, partial(inet_pton, AF_INET)),
    "ipv6Address": (16, partial(inet_pton, AF_INET6)),
}


class Element(NamedTuple):
    """One information element; `meaning` is its definition where it is our own."""

    number: int
    name: str
    type: Type
    enterprise: int = 0  # 0: IANA's
    semantics: Semantics = "default"
    units: Units = "none"
    meaning: str = ""

    @property
    def specifier(self) -> bytes:
        """As a template names it (RFC 7011 §3.2)."""
        length = ENCODERS[self.type][0]
        if not self.enterprise:
            return struct.pack(">HH", self.number, length)
        return struct.pack(">HHI", self.number | 0x8000, length, self.enterprise)


def _own(
    number: int, name: str, kind: Type, meaning: str, semantics: Semantics = "default",
    units: Units = "none",
) -> Element:
    return Element(number, name, kind, ENTERPRISE, semantics, units, meaning)


OCTETS = Element(1, "octetDeltaCount", "unsigned64")
PACKETS = Element(2, "packetDeltaCount", "unsigned64")
SOURCE_IPV4 = Element(8, "sourceIPv4Address", "ipv4Address")
SOURCE_IPV4_LENGTH = Element(9, "sourceIPv4PrefixLength", "unsigned8")
DESTINATION_IPV4 = Element(12, "destinationIPv4Address", "ipv4Address")
DESTINATION_IPV4_LENGTH = Element(13, "destinationIPv4PrefixLength", "unsigned8")
SOURCE_IPV6 = Element(27, "sourceIPv6Address", "ipv6Address")
DESTINATION_IPV6 = Element(28, "destinationIPv6Address", "ipv6Address")
SOURCE_IPV6_LENGTH = Element(29, "sourceIPv6PrefixLength", "unsigned8")
DESTINATION_IPV6_LENGTH = Element(30, "destinationIPv6PrefixLength", "unsigned8")
EXPORTED_MESSAGES = Element(41, "exportedMessageTotalCount", "unsigned64")
EXPORTED_RECORDS = Element(42, "exportedFlowRecordTotalCount", "unsigned64")
DIRECTION = Element(61, "flowDirection", "unsigned8")
COMMON_PROPERTIES = Element(137, "commonPropertiesId", "unsigned64")
OBSERVATION_DOMAIN = Element(149, "observationDomainId", "unsigned32")
START = Element(152, "flowStartMilliseconds", "dateTimeMilliseconds")
END = Element(153, "flowEndMilliseconds", "dateTimeMilliseconds")
NOT_SENT_RECORDS = Element(166, "notSentFlowTotalCount", "unsigned64")
NOT_SENT_PACKETS = Element(167, "notSentPacketTotalCount", "unsigned64")
NOT_SENT_OCTETS = Element(168, "notSentOctetTotalCount", "unsigned64")
LAYER2_OCTETS = Element(352, "layer2OctetDeltaCount", "unsigned64")
TRANSPORT_OCTETS = Element(401, "transportOctetDeltaCount", "unsigned64")

# What describes elements themselves (RFC 5610).
ELEMENT_ID = Element(303, "informationElementId", "unsigned16")
ELEMENT_TYPE = Element(339, "informationElementDataType", "unsigned8")
ELEMENT_DESCRIPTION = Element(340, "informationElementDescription", "string")
ELEMENT_NAME = Element(341, "informationElementName", "string")
ELEMENT_RANGE_BEGIN = Element(342, "informationElementRangeBegin", "unsigned64")
ELEMENT_RANGE_END = Element(343, "informationElementRangeEnd", "unsigned64")
ELEMENT_SEMANTICS = Element(344, "informationElementSemantics", "unsigned8")
ELEMENT_UNITS = Element(345, "informationElementUnits", "unsigned16")
ELEMENT_ENTERPRISE = Element(346, "privateEnterpriseNumber", "unsigned32")

SEQUENCE = _own(
    1, "usageSequence", "unsigned64",
    "The number of a usage record among those of its source and epoch.", "identifier")
SUBSCRIBER = _own(
    2, "usageSubscriber", "string",
    "The subscriber's key: an address, a prefix, teid:, vlan:, pppoe: or mac:.")
ACCOUNT = _own(3, "usageAccount", "string", "Who held the subscriber's address.")
RULE = _own(4, "usageRule", "string", "The id of the rule; empty where none matched.")
RATING_GROUP = _own(
    5, "usageRatingGroup", "unsigned32", "The rule's rating group; 4294967295 where it has none.",
    "identifier")
SPONSOR = _own(
    6, "usageSponsorIdentity", "string",
    "A sponsor's identity (TS 32.298): of a flow the first of its rule's split, empty where it "
    "has none; of a share who pays it, empty for the subscriber.")
ASP = _own(
    7, "usageAspIdentity", "string",
    "The application service provider's identity (TS 32.298); empty where none is named.")
FLAGS = _own(
    8, "usageFlags", "string",
    "What is particular, with commas between: coalesced, mismatch, partial, trusted.")
WINDOW_START = _own(
    9, "usageWindowStart", "dateTimeMilliseconds",
    "Where the record's window begins; 0 where all time is one window.")
WINDOW_END = _own(
    10, "usageWindowEnd", "dateTimeMilliseconds",
    "Where the record's window ends, itself outside; 0 where all time is one window.")
PAID_OCTETS = _own(
    11, "usagePaidOctetDeltaCount", "unsigned64",
    "Octets of a usage record, both directions together, that one payer pays for.",
    "deltaCounter", "octets")
RECORD_SOURCE = _own(
    12, "usageSource", "string", "The first part of a usage record's key; empty where it is not "
    "booked.")
RECORD_EPOCH = _own(
    13, "usageEpoch", "string", "The second part of a usage record's key.")
RULES_VERSION = _own(
    14, "usageRulesVersion", "string", "A digest of the rules that were in force.")
LAYER = _own(
    15, "usageLayer", "string",
    "Which octets count: ip (octetDeltaCount), frame (layer2OctetDeltaCount) or payload "
    "(transportOctetDeltaCount).")
AT = _own(
    16, "usageMeteredAt", "string", "Which IP packet of a tunnel counts: inner or outer.")
BUCKET = _own(
    17, "usageBucket", "string",
    "Where frames ended up: metered, metered_twice, unattributed, non_ip, control, duplicate, "
    "fault:KIND and others; seen is the sum of all, lost:kernel and lost:interface are outside "
    "of it.")
BUCKET_PACKETS = _own(
    18, "usageBucketPacketTotalCount", "unsigned64", "Packets of a bucket since the run began.",
    "totalCounter", "packets")
BUCKET_OCTETS = _own(
    19, "usageBucketOctetTotalCount", "unsigned64",
    "Octets of a bucket since the run began, of the metered layer.", "totalCounter", "octets")

OWN = (
    SEQUENCE, SUBSCRIBER, ACCOUNT, RULE, RATING_GROUP, SPONSOR, ASP, FLAGS, WINDOW_START,
    WINDOW_END, PAID_OCTETS, RECORD_SOURCE, RECORD_EPOCH, RULES_VERSION, LAYER, AT, BUCKET,
    BUCKET_PACKETS, BUCKET_OCTETS,
)  # fmt: skip
