"""What requests and answers are made of."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct

from ..limits import SERVICE_AMOUNT_MAX


class Request(Struct, forbid_unknown_fields=True):
    """What is asked. Fields that the path names come from it, the others from the body's JSON
    object or, of a GET, from the query.
    """


class Answer(Struct):
    """What is answered: a JSON object. Clients ignore fields that they don't know."""


def whole(pattern: str) -> str:
    """A pattern of a text from its first character to its last. `$` alone lets a newline follow, in
    Python and not in the API's description: two names would look like one.
    """
    return rf"^(?:{pattern})$(?!\n)"


# Control characters would reach terminals and logs; and what nobody sees, or what turns text
# around, makes one name look like another.
VISIBLE = r"[^\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+"
Line = Annotated[str, Meta(min_length=1, max_length=256, pattern=whole(VISIBLE))]
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=whole(r"[A-Za-z0-9_-]+"))]
AccountName = Annotated[str, Meta(min_length=1, max_length=128, pattern=whole(VISIBLE))]
Unit = Annotated[str, Meta(max_length=16, pattern=whole(r"octet|[A-Z]{3}/1000000"))]
Amount = Annotated[int, Meta(ge=1, le=SERVICE_AMOUNT_MAX)]  # of its unit: micro-units, or octets


def new_id() -> str:
    """An id that nobody guesses: 128 random bits, 22 characters."""
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()


def instant(at_ns: int) -> datetime:
    """The instant as the wire has it: UTC, to the microsecond below."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).replace(
        microsecond=at_ns // 1_000 % 1_000_000
    )
