"""Batches and events as messages: subjects, headers, pieces.

A batch is a segment of a journal, octet for octet, packed. What does not fit into one message goes
ahead in parts; the message that is handed to an ingester holds the last piece and says how many
there are and what the whole is by its digest. Subjects name the source and the batch's key, so that
a broker can hold each gateway to its own, keeps one of each, and knows what was said again.

    STREAM.post.SOURCE.batch.EPOCH.SEQUENCE    the last piece of a batch
    STREAM.post.SOURCE.events.DIGEST           events, as JSON
    STREAM.part.SOURCE.DIGEST.NUMBER           the pieces before the last
    STREAM.answer.SOURCE.EPOCH.SEQUENCE        what became of a batch
    STREAM.refused.SOURCE                      what cannot be booked
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, get_args, get_type_hints
from urllib.parse import quote

from ..errors import UnbookableError
from ..limits import BROKER_BATCH_OCTETS_MAX
from ..model import Event, EventKind

MESSAGE_ID = "Nats-Msg-Id"  # what the broker knows repetitions by
FORM_NAME, FORM = "Tollsplit-Form", "1"
PARTS, DIGEST = "Tollsplit-Parts", "Tollsplit-Digest"
REFUSED, SUBJECT = "Tollsplit-Refused", "Tollsplit-Subject"
BATCH, EVENTS = "batch", "events"
DIGEST_CHARACTERS_MAX = 64
_FIELDS = {name: kind for name, kind in get_type_hints(Event).items() if name != "kind"}


class Key(NamedTuple):
    """Of a batch: that of its first record."""

    source: str
    epoch: str
    first_sequence: int

    @property
    def place(self) -> str:
        """What tells it from the other batches of its source, in subjects."""
        return f"{token(self.epoch)}.{self.first_sequence}"


class Message(NamedTuple):
    subject: str
    payload: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Post:
    """What a message to ingesters is, by its subject and headers alone."""

    kind: str  # BATCH or EVENTS
    source: str  # as a token of subjects
    place: str  # of a batch: epoch and first sequence, as tokens
    parts: int  # that went ahead
    digest: str  # of the whole

    def answer_subject(self, stream: str) -> str:
        """What a batch's gateway looks at."""
        return f"{stream}.answer.{self.source}.{self.place}"

    def part_subject(self, stream: str, number: int | str) -> str:
        return f"{stream}.part.{self.source}.{self.digest}.{number}"


def token(text: str) -> str:
    """A text as one token of a subject."""
    return quote(text, safe="").replace(".", "%2E") or "%"


def digest_of(octets: bytes) -> str:
    """What tells a batch from any other, also under the same key."""
    return hashlib.sha256(octets).hexdigest()


def own_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Those that are ours: others tell the broker what to do."""
    found = headers or {}
    return {name: found[name] for name in (FORM_NAME, PARTS, DIGEST) if name in found}


def post_subjects(stream: str) -> str:
    return f"{stream}.post.>"


def part_subjects(stream: str) -> str:
    return f"{stream}.part.>"


def answer_subjects(stream: str) -> str:
    return f"{stream}.answer.>"


def refused_subjects(stream: str) -> str:
    return f"{stream}.refused.>"


def answer_subject(stream: str, key: Key) -> str:
    return f"{stream}.answer.{token(key.source)}.{key.place}"


def refused_subject(stream: str, source: str) -> str:
    return f"{stream}.refused.{source}"


def batch_messages(stream: str, key: Key, octets: bytes, piece_octets: int) -> list[Message]:
    """A batch in the order in which it has to be sent: who has the last message has all of it.

    Raises UnbookableError where it is too large for anybody.
    """
    if len(octets) > BROKER_BATCH_OCTETS_MAX:
        raise UnbookableError(f"{key.source}: a batch of {len(octets):,} octets: expected at most "
                              f"{BROKER_BATCH_OCTETS_MAX:,}; shorten the window")
    packed = zlib.compress(octets)
    digest = digest_of(octets)
    pieces = [packed[at : at + piece_octets] for at in range(0, len(packed), piece_octets)]
    source = token(key.source)
    messages = [
        Message(f"{stream}.part.{source}.{digest}.{number}", piece,
                {MESSAGE_ID: f"{digest}/{number}"})
        for number, piece in enumerate(pieces[:-1])]
    messages.append(Message(
        f"{stream}.post.{source}.{BATCH}.{key.place}", pieces[-1],
        # The broker may drop what it has seen, and must not drop another batch under the same key.
        {MESSAGE_ID: f"{source}.{key.place}/{digest}", FORM_NAME: FORM,
         PARTS: str(len(pieces) - 1), DIGEST: digest}))
    return messages


class Answer(NamedTuple):
    """What became of a batch."""

    digest: str
    refused: str | None = None  # why; None: it is booked


def answer_payload(answer: Answer) -> bytes:
    return json.dumps(answer._asdict()).encode()


def read_answer(payload: bytes) -> Answer:
    """An answer that nobody can read is one to no batch."""
    try:
        found = json.loads(payload)
        return Answer(str(found["digest"]), found["refused"])
    except (KeyError, TypeError, ValueError):
        return Answer("")


def events_message(stream: str, source: str, events: Sequence[Event]) -> Message:
    payload = json.dumps([asdict(event) for event in events]).encode()
    digest = hashlib.sha256(payload).hexdigest()
    return Message(
        f"{stream}.post.{token(source)}.{EVENTS}.{digest}", payload,
        {MESSAGE_ID: f"{token(source)}/{digest}", FORM_NAME: FORM, PARTS: "0", DIGEST: digest})


def read_post(stream: str, subject: str, headers: Mapping[str, str] | None) -> Post:
    """Raises UnbookableError where it is nothing that a gateway of this version sends."""
    found = headers or {}
    if found.get(FORM_NAME) != FORM:
        raise UnbookableError(f"{subject}: expected form {FORM}, got {found.get(FORM_NAME)}; let a "
                              "newer tollsplit ingest it")
    source, *rest = subject.removeprefix(f"{stream}.post.").split(".")
    parts, digest = found.get(PARTS, ""), found.get(DIGEST, "")
    is_batch = rest[:1] == [BATCH] and len(rest) == 3 and _is_number(rest[2])
    if not (is_batch or (rest[:1] == [EVENTS] and len(rest) == 2)) or not (
        _is_number(parts) and digest.isalnum() and len(digest) <= DIGEST_CHARACTERS_MAX
    ):
        raise UnbookableError(f"{subject}: no batch and no events")
    return Post(rest[0], source, ".".join(rest[1:]), int(parts), digest)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 18


def unpack(post: Post, packed: bytes) -> bytes:
    """A batch's octets. Raises UnbookableError where they are not those that were sent."""
    unpacking = zlib.decompressobj()
    try:
        octets = unpacking.decompress(packed, BROKER_BATCH_OCTETS_MAX)
    except zlib.error as error:
        raise UnbookableError(f"batch of {post.source}: {error}") from error
    if not unpacking.eof:
        raise UnbookableError(f"batch of {post.source}: cut off, or larger than "
                              f"{BROKER_BATCH_OCTETS_MAX:,} octets")
    if digest_of(octets) != post.digest:
        raise UnbookableError(f"batch of {post.source}: its pieces are not those that were sent")
    return octets


def read_events(post: Post, payload: bytes) -> list[Event]:
    """Raises UnbookableError."""
    try:
        found: list[dict[str, Any]] = json.loads(payload)
        events = [Event(**fields) for fields in found]
        if not all(map(_is_well_formed, events)):
            raise ValueError("a kind that is none, or a field that holds what it cannot")
        astray = any(token(event.source) != post.source for event in events)
    except (RecursionError, TypeError, ValueError) as error:
        raise UnbookableError(f"events of {post.source}: {error}") from error
    if astray:
        raise UnbookableError(f"events of {post.source}: sent under another's name")
    return events


def _is_well_formed(event: Event) -> bool:
    """Whether a ledger can keep it. What it fails on otherwise looks as if it were away."""
    return event.kind in get_args(EventKind) and all(
        isinstance(value := getattr(event, name), kind) and not isinstance(value, bool)
        for name, kind in _FIELDS.items())
