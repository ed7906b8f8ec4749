"""What the billing server signs: that an operation may be done now, or offline until an instant.

Who has a server's public key can tell its word from a fake server's, without asking anybody.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ProhibitedError
from ..limits import BILLING_LICENCE_CHARACTERS_MAX, SERVICE_SKEW_S

_VERDICT, _LICENCE = "tollsplit.verdict/1", "tollsplit.licence/1"
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """An operation is allowed, this once."""

    resource: str
    operation: str
    device: str  # of the resource: the id of its key
    account: str
    nonce: str  # the resource's, of this one question

    @property
    def text(self) -> str:
        return _text(_VERDICT, asdict(self))


@dataclass(frozen=True, slots=True)
class Licence:
    """A resource may be operated without asking, for a while."""

    resource: str  # the audience: for no other one
    device: str  # of the resource: a copy elsewhere has no such key
    account: str
    serial: str
    not_before_ns: int
    expires_at_ns: int

    @property
    def text(self) -> str:
        return _text(_LICENCE, asdict(self))

    def write(self, path: Path, signature: str) -> None:
        """Keep it in a file, which is whole or as it was."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps({"licence": asdict(self), "signature": signature}), "utf-8")
        partial.replace(path)


def read_licence(path: Path, public_key: str) -> Licence:
    """A licence that the key's owner has signed. Raises ProhibitedError."""
    from ..ledger.signing import is_signed

    try:
        with path.open(encoding="utf-8") as file:
            found = json.loads(file.read(BILLING_LICENCE_CHARACTERS_MAX))
        licence = Licence(**found["licence"])
        signature = str(found["signature"])
    except OSError as error:
        raise ProhibitedError(f"{path}: no licence: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProhibitedError(f"{path}: expected a licence of the billing server") from error
    # What was signed has these types; a text that only looks like it is not the same text.
    if not is_signed(licence.text, public_key, signature):
        raise ProhibitedError(f"{path}: the licence is not signed by this billing server")
    return licence


def expect_licensed(licence: Licence, resource: str, device: str, now_ns: int) -> None:
    """Raises ProhibitedError where a licence is another resource's or device's, or not for now.

    now_ns  by the terminal's clock, which may be off by some seconds
    """
    if licence.resource != resource:
        raise ProhibitedError(f'the licence is for "{licence.resource}", not for "{resource}"')
    if licence.device != device:
        raise ProhibitedError("the licence is for another copy of this resource")
    if now_ns < licence.not_before_ns - SERVICE_SKEW_S * _SECOND_NS:
        raise ProhibitedError("the licence begins later; set the clock")
    if now_ns >= licence.expires_at_ns:
        raise ProhibitedError("the licence has expired; connect to the billing server")


def _text(schema: str, fields: dict[str, object]) -> str:
    return json.dumps({"schema": schema, **fields}, sort_keys=True, separators=(",", ":"))
