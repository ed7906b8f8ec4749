"""Lenders: who says that a device lends data, where, and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...ledger.store import Store
from ...limits import SHARE_LENDERS_MAX
from ..operation import Call
from ..problem import UNFIT
from ..wire import instant
from .wire import Lend, Lending

EARTH_RADIUS_M = 6_371_009  # the mean one (IUGG)
_MICRODEGREES = 1_000_000
Place = tuple[int, int]  # latitude and longitude, microdegrees


@dataclass(frozen=True, slots=True)
class Lender:
    device: str
    account: str
    label: str
    distance_m: int | None  # None: nobody asked from where


def place(latitude: float | None, longitude: float | None) -> Place | None:
    """Where that is; None: not said. Raises Problem where half of it is missing."""
    if latitude is None and longitude is None:
        return None
    if latitude is None or longitude is None:
        raise UNFIT("expected both latitude and longitude, or neither", at="$.latitude")
    return round(latitude * _MICRODEGREES), round(longitude * _MICRODEGREES)


def distance_m(one: Place, other: Place) -> float:
    """The way over the ground (haversine: exact for near places, half a percent off at worst)."""
    (a, b), (c, d) = (
        (math.radians(lat / _MICRODEGREES), math.radians(lon / _MICRODEGREES))
        for lat, lon in (one, other)
    )
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(half)))


def lend(call: Call[Lend]) -> Lending:
    asked = call.asked
    where = place(asked.latitude, asked.longitude) or (None, None)
    until_ns = call.now_ns + asked.available_s * 1_000_000_000
    call.store.write(_LEND, [(call.device.id, *where, until_ns)])
    return Lending(lender=call.device.id, until=instant(until_ns))


def available(
    store: Store, borrower_account: str, where: Place | None, range_m: int, now_ns: int
) -> list[Lender]:
    """Who lends to somebody now: those within a range, nearest first; without a place all."""
    found = list(_within(store, borrower_account, where, range_m, now_ns))
    found.sort(key=lambda one: (one.distance_m or 0, one.device))
    return found[:SHARE_LENDERS_MAX]


def _within(
    store: Store, borrower_account: str, where: Place | None, range_m: int, now_ns: int
) -> Iterator[Lender]:
    for device, account, label, latitude, longitude in store.rows(
        _AVAILABLE, now_ns, borrower_account
    ):
        if where is None:
            yield Lender(device, account, label, None)
        elif latitude is not None:
            far = distance_m(where, (latitude, longitude))
            if far <= range_m:
                # To tens of metres: a lender is found, not located.
                yield Lender(device, account, label, math.ceil(far / 10) * 10)


def forget_places(store: Store, now_ns: int) -> None:
    """Nobody needs to know where somebody lent once."""
    store.write(_FORGET, [(now_ns,)])


TABLES = (
    "CREATE TABLE service_share_lenders (device TEXT PRIMARY KEY REFERENCES service_devices (id), "
    "latitude BIGINT, longitude BIGINT, until_ns BIGINT NOT NULL)",
)
_LEND = """
    INSERT INTO service_share_lenders (device, latitude, longitude, until_ns) VALUES (?, ?, ?, ?)
    ON CONFLICT (device) DO UPDATE SET latitude = excluded.latitude,
        longitude = excluded.longitude, until_ns = excluded.until_ns"""
_AVAILABLE = """
    SELECT l.device, d.account, d.label, l.latitude, l.longitude
    FROM service_share_lenders l JOIN service_devices d ON d.id = l.device
    WHERE l.until_ns > ? AND d.revoked_at_ns IS NULL AND d.account <> ?"""
_FORGET = """
    UPDATE service_share_lenders SET latitude = NULL, longitude = NULL
    WHERE until_ns <= ? AND latitude IS NOT NULL"""
