"""Refusals, as the wire has them: RFC 9457 problem documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import (
    IdempotencyError,
    LedgerError,
    MissingError,
    OverdraftError,
    StateError,
    TollsplitError,
)

MEDIA_TYPE = "application/problem+json"
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of refusal: what clients branch on. Its type is the URI reference /problems/NAME."""

    name: str
    status: int
    title: str

    @property
    def type(self) -> str:
        return f"/problems/{self.name}"

    def __call__(self, detail: str, **extensions: Any) -> Problem:
        """A problem of this kind. detail: what was found, what was expected."""
        return Problem(self, detail, extensions)


class Problem(TollsplitError):
    """A request that is refused.

    Raised by a handler it undoes all that the call has written; returned by it, what was written
    stays (a wrong answer is counted, a wait is over) and the refusal is kept as the call's answer.
    """

    def __init__(
        self, kind: Kind, detail: str, extensions: Mapping[str, Any] = NONE,
        headers: Mapping[str, str] = NONE,
    ) -> None:  # fmt: skip
        super().__init__(f"{kind.title}: {detail}")
        self.kind = kind
        self.detail = detail
        self.extensions = dict(extensions)
        self.headers = dict(headers)

    @property
    def body(self) -> bytes:
        """The document. Extensions never replace its own members."""
        return json.dumps({
            **self.extensions, "type": self.kind.type, "title": self.kind.title,
            "status": self.kind.status, "detail": self.detail,
        }).encode()  # fmt: skip


MALFORMED = Kind("malformed", 400, "The request cannot be read")
INVALID = Kind("invalid", 422, "The request says something that it may not")
# What types cannot say, and handlers find.
UNFIT = Kind("unfit", 422, "What is asked for makes no sense")
UNSIGNED = Kind("unsigned", 401, "No valid signature by a registered device")
FORBIDDEN = Kind("forbidden", 403, "This device may not do that")
NOT_FOUND = Kind("not-found", 404, "There is no such thing")
METHOD = Kind("method-not-allowed", 405, "That is not done here")
SLOW = Kind("request-timeout", 408, "The request did not come in time")
WRONG_STATE = Kind("wrong-state", 409, "It is not in the state for that")
OVERDRAFT = Kind("overdraft", 409, "The account does not cover it")
KEY_IN_PROGRESS = Kind("key-in-progress", 409, "A request with this Idempotency-Key is under way")
EXPIRED = Kind("expired", 410, "Its time is over")
TOO_LARGE = Kind("too-large", 413, "The request is too large")
MEDIA = Kind("unsupported-media-type", 415, "The body is not JSON")
KEY_REUSED = Kind("key-reused", 422, "The Idempotency-Key was used for another request")
TOO_MANY = Kind("too-many-requests", 429, "Too many requests")
INTERNAL = Kind("internal", 500, "Something is broken here")
UNAVAILABLE = Kind("unavailable", 503, "The ledger cannot be reached at present")

# What the ledger refuses, in the wire's words. Whatever else it raises is its being away.
OF_LEDGER: Mapping[type[LedgerError], Kind] = {
    OverdraftError: OVERDRAFT, StateError: WRONG_STATE, MissingError: NOT_FOUND,
    IdempotencyError: KEY_REUSED,
}  # fmt: skip

_REFUSED = {
    OVERDRAFT: "an account is closed, or would be below its floor",
    WRONG_STATE: "an account is closed, or what was held is over",
    NOT_FOUND: "an account that it needs is not open in this unit; the operator opens one",
    KEY_REUSED: "the ledger has something else under it",
}


def of_ledger(error: LedgerError) -> Problem:
    """What to answer. Messages of the ledger name accounts and places, so they are not told."""
    for kind, told in OF_LEDGER.items():
        if isinstance(error, kind):
            return told(_REFUSED[told])
    return Problem(UNAVAILABLE, "try again later", headers={"Retry-After": "1"})
