"""Notices: what devices are told, in order, kept until they have had time to look."""

from __future__ import annotations

from ..ledger import Annex, append_only
from ..ledger.store import Row, Store
from ..limits import SERVICE_NOTICE_S, SERVICE_NOTICES_AT_ONCE, SERVICE_SWEEP_ROWS


def put(store: Store, device: str, kind: str, about: str, now_ns: int) -> None:
    """Add a notice for a device. about: JSON. Numbers of one device go up by one."""
    # Whoever else has something to tell this device waits here.
    list(store.rows(_DEVICE + store.locking("service_devices"), device))
    store.write(_PUT, [(device, kind, about, now_ns, device)])


def since(store: Store, device: str, number: int) -> list[Row]:
    """The next notices after a number: number, kind, JSON, when in ns."""
    return list(store.rows(_SINCE, device, number, SERVICE_NOTICES_AT_ONCE))


def forget(store: Store, now_ns: int) -> None:
    """Delete old notices, some at a time. A device's last one stays: numbers go on from it."""
    store.write(_FORGET, [(now_ns - SERVICE_NOTICE_S * 1_000_000_000, SERVICE_SWEEP_ROWS)])


ANNEX = Annex(
    "notices",
    (
        (
            "CREATE TABLE service_notices (device TEXT NOT NULL, number BIGINT NOT NULL, "
            "kind TEXT NOT NULL, about TEXT NOT NULL, created_at_ns BIGINT NOT NULL, "
            "PRIMARY KEY (device, number))",
            "CREATE INDEX service_notices_to_forget ON service_notices (created_at_ns)",
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
    WHERE device = ? AND number > ? ORDER BY number LIMIT ?"""
_FORGET = """
    DELETE FROM service_notices WHERE (device, number) IN (
        SELECT n.device, n.number FROM service_notices n WHERE n.created_at_ns < ? AND EXISTS (
            SELECT 1 FROM service_notices m WHERE m.device = n.device AND m.number > n.number)
        ORDER BY n.created_at_ns LIMIT ?)"""
