"""The broker's streams: what waits for ingesters, what became of it, what cannot be booked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from ..limits import (
    BROKER_ANSWERS_S,
    BROKER_DUPLICATES_S,
    BROKER_PENDING_MAX,
    BROKER_SILENT_S,
)
from .message import (
    SUBJECT,
    answer_subjects,
    own_headers,
    part_subjects,
    post_subjects,
    refused_subjects,
)

if TYPE_CHECKING:
    from nats.js import JetStreamContext

CONSUMER = "ingest"


def answers_of(stream: str) -> str:
    return f"{stream}_answers"


def refused_of(stream: str) -> str:
    return f"{stream}_refused"


async def create(broker: JetStreamContext, stream: str, octets: int, replicas: int) -> None:
    """Make the streams, or bring those that are there to these bounds.

    octets     that may wait; beyond them the broker takes nothing, and gateways wait
    replicas   servers that have each message
    """
    stored = partial(StreamConfig, storage=StorageType.FILE, num_replicas=replicas)
    for config in (
        # What is there stays until it is booked: a full stream takes nothing new.
        stored(
            name=stream, subjects=[post_subjects(stream), part_subjects(stream)],
            retention=RetentionPolicy.WORK_QUEUE, discard=DiscardPolicy.NEW, max_bytes=octets,
            max_msgs_per_subject=1, duplicate_window=BROKER_DUPLICATES_S),
        stored(
            name=answers_of(stream), subjects=[answer_subjects(stream)],
            retention=RetentionPolicy.LIMITS, max_msgs_per_subject=1, max_age=BROKER_ANSWERS_S,
            allow_direct=True),
        stored(
            name=refused_of(stream), subjects=[refused_subjects(stream)],
            retention=RetentionPolicy.LIMITS, discard=DiscardPolicy.NEW, max_bytes=octets),
    ):
        try:
            await broker.stream_info(str(config.name))
        except NotFoundError:
            await broker.add_stream(config)
        else:
            await broker.update_stream(config)
    await broker.add_consumer(stream, ConsumerConfig(
        durable_name=CONSUMER, filter_subject=post_subjects(stream),
        ack_policy=AckPolicy.EXPLICIT, ack_wait=BROKER_SILENT_S,
        max_ack_pending=BROKER_PENDING_MAX))


async def put_back(broker: JetStreamContext, stream: str) -> int:
    """Have ingesters try again what was refused; says how many messages these are."""
    refused = refused_of(stream)
    state = (await broker.stream_info(refused)).state
    count = 0
    for number in range(max(1, state.first_seq), state.last_seq + 1):  # 0: it never held any
        try:
            found = await broker.get_msg(refused, number)
        except NotFoundError:  # taken out before
            continue
        subject = (found.headers or {}).get(SUBJECT, "")
        if not subject.startswith(post_subjects(stream).removesuffix(">")):
            continue
        # Without its id: the broker may know it still.
        await broker.publish(subject, found.data or b"", stream=stream,
                             headers=own_headers(found.headers))
        await broker.delete_msg(refused, number)
        count += 1
    return count
