"""Events: noticed while metering, told as often as it takes, kept once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple, fields

from ..model import Event
from .account import Key
from .chain import Chain
from .store import Store

# Who noticed what no run did, as a source and an epoch.
LEDGER = "ledger", ""

_COLUMNS = ", ".join(field.name for field in fields(Event))


def record(store: Store, chain: Chain, events: Iterable[Event], now_ns: int) -> int:
    """Keep those that are new; says how many."""
    rows = [(_text(event), *astuple(event)) for event in events]
    new = store.write(_EVENT, rows)
    chain.events((row[0] for row in rows), now_ns)
    return new


def record_ends(
    store: Store, chain: Chain, ended: Iterable[Key], noticed: tuple[str, str], now_ns: int
) -> tuple[Event, ...]:
    """Keep that balances have come to their end.

    ended     accounts that something could be taken from before the transaction, and nothing after
    noticed   source and epoch of the run that did it, or LEDGER
    """
    events = tuple(
        Event("balance_end", now_ns, *noticed, account=name, unit=unit)
        for name, unit in sorted(ended)
    )
    if events:
        record(store, chain, events, now_ns)
    return events


def read(store: Store) -> Iterator[Event]:
    """All of them, as they came in."""
    for row in store.rows(f"SELECT {_COLUMNS} FROM events ORDER BY id"):
        yield Event(*row)


def astray(store: Store) -> Iterator[str]:
    """Events that are not those that were recorded."""
    for number, identity, *row in store.rows(f"SELECT id, identity, {_COLUMNS} FROM events"):
        if identity != (expected := _text(Event(*row))):
            yield f"event {number}: identity {identity}, its row says {expected}"


def _text(event: Event) -> str:
    return json.dumps(event.identity, ensure_ascii=False)


_EVENT = f"""
    INSERT INTO events (identity, {_COLUMNS}) VALUES (?, {", ".join("?" for _ in fields(Event))})
    ON CONFLICT (identity) DO NOTHING"""
