"""IPFIX files: messages, one after the other (RFC 5655)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import IO

from ..model import Volume
from .message import OCTETS_MAX, Body, Packer, Stream
from .records import Batch, Writer, domain_of, introduction


def write_file(
    stream: IO[bytes], parts: Iterable[tuple[Batch, Iterable[tuple[str, Volume]]]]
) -> None:
    """Write batches, each with its totals; what describes them stands before them."""
    messages: Stream | None = None
    writer: Writer | None = None

    def put(body: Body) -> None:
        assert messages is not None
        stream.write(messages.message(body))
        messages.sent(body)

    for batch, totals in parts:
        if messages is None or writer is None:
            domain = domain_of(batch.source)
            messages, writer = Stream(domain, time.time), Writer(domain)
        for body in introduction(batch, OCTETS_MAX):
            put(body)
        packer = Packer(OCTETS_MAX, put)
        writer.write(batch, packer)
        writer.write_totals(totals, packer)
        packer.flush()
