"""The fast core and the slow reference behind one shape: frames in, rows as dicts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from tollsplit.engine import reference


class Frame(NamedTuple):
    octets: bytes
    timestamp_ns: int
    original: int
    link_type: int
    ingress: int = 0
    segment_octets: int = 0


Rows = list[dict[str, int]]
Judge = Callable[..., Rows]


def reference_rows(frames: Sequence[Frame], **options: Any) -> Rows:
    return [reference.dissect(f.octets, f.original, f.link_type,
                              segment_octets=f.segment_octets, **options) for f in frames]


def core_rows(frames: Sequence[Frame], **options: Any) -> Rows:
    core = pytest.importorskip("tollsplit.cext.dissect")
    packed = core.rows(list(frames), **options)
    rows = [dict(zip(packed.dtype.names, row.tolist(), strict=True)) for row in packed]
    for row in rows:
        for end in ("source", "destination"):
            row[end] = row.pop(f"{end}_hi") << 64 | row.pop(f"{end}_lo")
    return rows
