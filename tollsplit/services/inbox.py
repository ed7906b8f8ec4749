"""A device's notices, for those that ask for them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Raw

from . import notice
from .operation import Call, Operation, Service
from .role import EVERY
from .wire import Answer, Request, instant


class Look(Request):
    """What a device was told after a notice that it has."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class Notice(Answer):
    number: int
    kind: str
    about: Raw  # as the service says that gives notices of that kind
    at: datetime


class Notices(Answer):
    """The oldest of them; there may be more after the last."""

    notices: list[Notice]


def _look(call: Call[Look]) -> Notices:
    return Notices([
        Notice(number, kind, Raw(about.encode()), instant(at_ns))
        for number, kind, about, at_ns in notice.since(
            call.store, call.device.id, call.asked.after)
    ])  # fmt: skip


LOOK = Operation(
    "notice.look", "GET", "/notices", "What the device was told", Look, Notices, _look, EVERY)
SERVICE = Service("notices", (LOOK,))
