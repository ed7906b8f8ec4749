"""Notices: what devices are told, kept until they have it."""

from __future__ import annotations

from ..ledger import Annex, append_only
from ..ledger.store import Row, Store


def put(store: Store, device: str, kind: str, about: str, now_ns: int) -> None:
    """Add a notice for a device. about: JSON. Numbers of one device go up by one."""
    # Whoever else has something to tell this device waits here.
    list(store.rows(_DEVICE + store.locking("service_devices"), device))
    store.write(_PUT, [(device, kind, about, now_ns, device)])


def since(store: Store, device: str, number: int) -> list[Row]:
    """Notices after a number: number, kind, JSON, when in ns."""
    return list(store.rows(_SINCE, device, number))


ANNEX = Annex(
    "notices",
    (
        (
            "CREATE TABLE service_notices (device TEXT NOT NULL, number BIGINT NOT NULL, "
            "kind TEXT NOT NULL, about TEXT NOT NULL, created_at_ns BIGINT NOT NULL, "
            "PRIMARY KEY (device, number))",
            append_only("service_notices", "notices stay as they were given")[0],
        ),
    ),
)

_DEVICE = "SELECT id FROM service_devices WHERE id = ?"
_PUT = """
    INSERT INTO service_notices (device, number, kind, about, created_at_ns)
    SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ? FROM service_notices WHERE device = ?"""
_SINCE = """
    SELECT number, kind, about, created_at_ns FROM service_notices
    WHERE device = ? AND number > ? ORDER BY number LIMIT 1000"""
