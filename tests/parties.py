"""Usage records as two parties have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bookings import record

from tollsplit.report import usage_entry

START, END = "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z"


def usage(**more: object) -> dict[str, Any]:
    """The usage record of bookings.record, as a document has it."""
    return {**usage_entry(record()), **more}


def document(*records: Mapping[str, Any], **more: object) -> str:
    whole = {"schema": "tollsplit.account/1", "layer": "ip", "usage": records, "charges": []}
    return json.dumps({**whole, **more})
