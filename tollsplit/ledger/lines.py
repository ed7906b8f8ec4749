"""Transfers as lines of JSON, in which other programs hand them in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from ..errors import PostingError
from ..model import Posting
from .transfer import Provenance, Transfer

_AMOUNT_MAX = 2**63 - 1  # what a database's column holds
_TEXTS = {"key": True, "kind": True, "description": False, "service_request": False}
_FIELDS = {*_TEXTS, "postings"}
_POSTING = ("account", "unit", "amount")


def read_transfers(lines: Iterable[bytes], place: str) -> Iterator[Transfer]:
    """The transfers of lines in UTF-8, one object each; blank lines are passed over.

    place  what messages call the source of the lines

    An object has "key" (idempotency key), "kind", "postings" (a list of objects with "account",
    "unit" and a whole "amount"), and may have "description" and "service_request". Raises
    PostingError, which names the line.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _transfer(json.loads(line, object_pairs_hook=_object))
        except RecursionError:
            raise PostingError(f"{place}: line {number}: nested too deep") from None
        except ValueError as error:
            raise PostingError(f"{place}: line {number}: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("expected each name once in an object")
    return found


def _transfer(found: Any) -> Transfer:
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {found!r:.40}")
    if unknown := sorted(found.keys() - _FIELDS):
        raise ValueError(f'"{unknown[0]}": expected {", ".join(sorted(_FIELDS))}')
    texts = {name: _text(found, name, needed=needed) for name, needed in _TEXTS.items()}
    postings = found.get("postings")
    if not isinstance(postings, list):
        raise ValueError('"postings": expected a list')
    return Transfer(
        cast(str, texts["key"]), cast(str, texts["kind"]),
        tuple(_posting(posting) for posting in postings),
        texts["description"] or "", Provenance(service_request=texts["service_request"]),
    )  # fmt: skip


def _posting(found: Any) -> Posting:
    if not isinstance(found, dict) or set(found) != set(_POSTING):
        raise ValueError(f'"postings": expected objects with {", ".join(_POSTING)}')
    amount = found["amount"]
    if type(amount) is not int or abs(amount) > _AMOUNT_MAX:
        raise ValueError(f'"amount": expected a whole number of 63 bits, got {amount!r:.40}')
    account, unit = (cast(str, _text(found, name, needed=True)) for name in _POSTING[:2])
    return Posting(account, unit, amount)


def _text(found: dict[str, Any], name: str, *, needed: bool) -> str | None:
    text = found.get(name)
    if text is None and not needed:
        return None
    # NUL and half of a surrogate pair are no text for a database.
    if not isinstance(text, str) or not text or "\0" in text or not _is_unicode(text):
        raise ValueError(f'"{name}": expected a text, got {text!r:.40}')
    return text


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
