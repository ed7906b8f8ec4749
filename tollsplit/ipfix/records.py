"""What is said of usage: which records there are, and what stands in them.

A usage record becomes one or two flows, one for each direction in which there were packets, and a
share for each payer. Flows are ordinary records that any collector adds up; everything else is in
options records, which speak of something and are no traffic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple, Protocol
from zlib import crc32

from ..model import UsageRecord, Volume
from . import element as ie
from .message import Body, Packer, Template

LAYERS = {"ip": ie.OCTETS, "frame": ie.LAYER2_OCTETS, "payload": ie.TRANSPORT_OCTETS}
UPLINK, DOWNLINK = 0, 1  # flowDirection as the subscriber's side sees it: ingress, egress
NO_RATING_GROUP = 0xFFFFFFFF
OTHER_KEYS = ("teid:", "vlan:", "pppoe:", "mac:")

# (IP version, direction) → the subscriber's address and how much of it counts
_ADDRESSES = {
    (4, UPLINK): (ie.SOURCE_IPV4, ie.SOURCE_IPV4_LENGTH),
    (4, DOWNLINK): (ie.DESTINATION_IPV4, ie.DESTINATION_IPV4_LENGTH),
    (6, UPLINK): (ie.SOURCE_IPV6, ie.SOURCE_IPV6_LENGTH),
    (6, DOWNLINK): (ie.DESTINATION_IPV6, ie.DESTINATION_IPV6_LENGTH),
}
_FLOW = (
    ie.PACKETS, ie.DIRECTION, ie.START, ie.END, ie.COMMON_PROPERTIES, ie.SEQUENCE,
    ie.WINDOW_START, ie.WINDOW_END, ie.RATING_GROUP, ie.SUBSCRIBER, ie.ACCOUNT, ie.RULE,
    ie.SPONSOR, ie.ASP, ie.FLAGS,
)  # fmt: skip
# (layer, IP version, direction) → template; a number means the same for ever.
FLOWS = {
    (layer, version, direction): Template(
        256 + 16 * place + version + direction, (*addresses, octets, *_FLOW))
    for place, (layer, octets) in enumerate(LAYERS.items())
    for (version, direction), addresses in _ADDRESSES.items()
}
ELEMENTS = Template(400, (
    ie.ELEMENT_ENTERPRISE, ie.ELEMENT_ID, ie.ELEMENT_TYPE, ie.ELEMENT_SEMANTICS, ie.ELEMENT_UNITS,
    ie.ELEMENT_RANGE_BEGIN, ie.ELEMENT_RANGE_END, ie.ELEMENT_NAME, ie.ELEMENT_DESCRIPTION,
), scopes=2)  # fmt: skip
PROPERTIES = Template(401, (
    ie.COMMON_PROPERTIES, ie.RECORD_SOURCE, ie.RECORD_EPOCH, ie.RULES_VERSION, ie.LAYER, ie.AT,
), scopes=1)  # fmt: skip
SHARES = Template(402, (
    ie.COMMON_PROPERTIES, ie.SEQUENCE, ie.SPONSOR, ie.PAID_OCTETS,
), scopes=3)  # fmt: skip
BUCKETS = Template(403, (
    ie.OBSERVATION_DOMAIN, ie.BUCKET, ie.BUCKET_PACKETS, ie.BUCKET_OCTETS,
), scopes=2)  # fmt: skip
RELIABILITY = Template(404, (
    ie.OBSERVATION_DOMAIN, ie.EXPORTED_RECORDS, ie.NOT_SENT_RECORDS, ie.NOT_SENT_PACKETS,
    ie.NOT_SENT_OCTETS,
), scopes=1)  # fmt: skip


class Records(Protocol):
    """Usage records, as often as they are asked for."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[UsageRecord]: ...


class Batch(NamedTuple):
    """Usage records that share what is said of all of them.

    volume      all of them together
    layer, at   which octets of a packet they count
    """

    records: Records
    volume: Volume
    source: str
    epoch: str
    rules_version: str
    layer: str
    at: str

    @property
    def properties(self) -> int:
        """A number for what they share; never another's, for it is a digest."""
        said = "\0".join((self.source, self.epoch, self.rules_version, self.layer, self.at))
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big")


def domain_of(source: str) -> int:
    """The observation domain of a source's records: the same from run to run, never 0."""
    return crc32(source.encode()) or 1


def introduction(batch: Batch, octets_max: int) -> list[Body]:
    """What a collector has to know before a batch's records: templates, our own elements'
    definitions (RFC 5610), and what the records share (RFC 5473)."""
    bodies: list[Body] = []
    packer = Packer(octets_max, bodies.append)
    packer.define(ELEMENTS)  # elements are explained before templates name them
    packer.add(*((ELEMENTS, (
        own.enterprise, own.number, ie.TYPES[own.type], ie.SEMANTICS[own.semantics],
        ie.UNITS[own.units], 0, 0, own.name, own.meaning)) for own in ie.OWN))
    packer.flush()
    for (layer, _, _), template in FLOWS.items():
        if layer == batch.layer:
            packer.define(template)
    for template in (PROPERTIES, SHARES, BUCKETS, RELIABILITY):
        packer.define(template)
    packer.add((PROPERTIES, (batch.properties, batch.source, batch.epoch, batch.rules_version,
                             batch.layer, batch.at)))
    packer.flush()
    return bodies


class Writer:
    """Writes batches and totals of one observation domain, and counts what it could not."""

    def __init__(self, domain: int) -> None:
        self._domain = domain
        self._flows = 0  # written
        self.left_out = 0  # usage records
        self._volume_left_out = Volume()

    def write(self, batch: Batch, packer: Packer) -> None:
        """Write all flows and shares of a batch; what no message can hold is left out."""
        properties = batch.properties
        for record in batch.records:
            flows = _flows(record, properties)
            payers = {"": record.subscriber_octets, **record.sponsor_octets}
            shares = ((SHARES, (properties, record.sequence, payer, octets))
                      for payer, octets in payers.items())
            if packer.add(*flows, *shares):
                self._flows += len(flows)
            else:
                packets = record.uplink_packets + record.downlink_packets
                self.leave_out(1, Volume(packets, record.octets))

    def leave_out(self, records: int, volume: Volume) -> None:
        """Count usage records that will not be written."""
        self.left_out += records
        self._volume_left_out += volume

    def write_totals(self, totals: Iterable[tuple[str, Volume]], packer: Packer) -> None:
        """Write what every bucket came to, and what became of the flows."""
        for name, volume in totals:
            packer.add((BUCKETS, (self._domain, name, volume.packets, volume.octets)))
        lost = self._volume_left_out
        packer.add((RELIABILITY, (self._domain, self._flows, self.left_out, lost.packets,
                                  lost.octets)))


def _flows(record: UsageRecord, properties: int) -> list[tuple[Template, tuple[object, ...]]]:
    """One for each direction in which there were packets."""
    version, address = _address(record.subscriber)
    said = (
        record.first_packet_ns // 1_000_000, record.last_packet_ns // 1_000_000, properties,
        record.sequence, _milliseconds(record.window_start), _milliseconds(record.window_end),
        NO_RATING_GROUP if record.rating_group is None else record.rating_group,
        record.subscriber, record.account, record.rule or "", record.sponsor_identity or "",
        record.asp_identity or "", ",".join(record.flags))
    return [
        (FLOWS[record.layer, version, direction], (*address, octets, packets, direction, *said))
        for direction, packets, octets in (
            (UPLINK, record.uplink_packets, record.uplink_octets),
            (DOWNLINK, record.downlink_packets, record.downlink_octets),
        )
        if packets
    ]


def _address(subscriber: str) -> tuple[int, tuple[str, int]]:
    """IP version and prefix of a subscriber's key.

    One that is no address may have any: 0.0.0.0/0. pmacct passes over flows without addresses.
    """
    if subscriber.startswith(OTHER_KEYS):
        return 4, ("0.0.0.0", 0)
    address, _, length = subscriber.partition("/")
    if ":" in address:
        return 6, (address, int(length or 128))
    return 4, (address, int(length or 32))


def _milliseconds(instant: datetime | None) -> int:
    return 0 if instant is None else int(instant.timestamp()) * 1000
