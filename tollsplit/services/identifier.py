"""The communication identifier: who a terminal is to the operator."""

from __future__ import annotations

import ipaddress
from typing import Literal, NamedTuple, cast

from ..errors import UsageError

Kind = Literal["imsi", "msisdn", "address"]
# An IMSI has 15 digits at most (E.212 §3.1), a number with its country code too (E.164 §6).
_DIGITS = {"imsi": range(6, 16), "msisdn": range(7, 16)}


class Identifier(NamedTuple):
    """An IMSI, an MSISDN, or a subscriber's address; as text "imsi:460001234567890"."""

    kind: Kind
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def identifier(text: str) -> Identifier:
    """The identifier that a text names, spelled one way. Raises UsageError."""
    kind, colon, value = text.partition(":")
    if kind == "address" and colon:
        try:
            return Identifier("address", str(ipaddress.ip_address(value)))
        except ValueError:
            raise UsageError(f"identifier {text!r}: expected an address behind address:") from None
    if kind in _DIGITS:
        digits = value.removeprefix("+") if kind == "msisdn" else value
        if digits.isascii() and digits.isdigit() and len(digits) in _DIGITS[kind]:
            return Identifier(cast(Kind, kind), digits)
        lengths = _DIGITS[kind]
        raise UsageError(f"identifier {text!r}: expected {lengths.start} to {lengths.stop - 1} "
                         f"digits behind {kind}:")
    raise UsageError(f"identifier {text!r}: expected imsi:DIGITS, msisdn:DIGITS or address:IP")
