"""Rates: how often a device or an address may ask."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Annotated

import msgspec

from ..limits import SERVICE_BUCKETS_MAX
from .problem import TOO_MANY, Problem

Rate = Annotated[float, msgspec.Meta(ge=0)]


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls in a second, on average, and at once; 0 in a second: as many as they like."""

    device_per_s: Rate = 10
    device_burst: Rate = 40
    # A sponsor's proxy asks for many terminals.
    proxy_per_s: Rate = 500
    proxy_burst: Rate = 1000
    # Behind one address there may be a household, or an operator's translation of many.
    address_per_s: Rate = 50
    address_burst: Rate = 200


class Buckets:
    """A token bucket for each name, as many as fit a bound: who was quiet longest is forgotten,
    and his bucket is full again.
    """

    def __init__(
        self, per_s: float, burst: float, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._monotonic_s = monotonic_s
        self._lock = Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name → tokens, when

    def take(self, name: str) -> None:
        """Take a token; raises Problem TOO_MANY that says when there will be one."""
        if not self._per_s:
            return
        with self._lock:
            now_s = self._monotonic_s()
            left, then_s = self._left.pop(name, (self._burst, now_s))
            left = min(self._burst, left + (now_s - then_s) * self._per_s)
            wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
            self._left[name] = (left if wait_s else left - 1, now_s)
            if len(self._left) > SERVICE_BUCKETS_MAX:
                self._left.popitem(last=False)
        if wait_s:
            raise Problem(TOO_MANY, "come again later",
                          headers={"Retry-After": str(math.ceil(wait_s))})  # fmt: skip


def network_of(address: str) -> str:
    """Whom an address stands for: an IPv4 host, or the /64 that a household has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((found, 64), strict=False))
        return str(found.ipv4_mapped)
    return str(found)
