"""What a proxy asks the distribution server."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from ..limits import (
    PERMIT_ASKS_BURST,
    PERMIT_ASKS_PER_S,
    PERMIT_KEPT_S,
    PERMITS_KEPT_MAX,
)
from ..rules.marks import tag
from . import secret
from .claim import Claim, Grant, Payee
from .client import Client
from .problem import Problem
from .rate import Buckets
from .session import NOT_PERMITTED, PERMIT, Permit

# What makes no sense to the server is no good claim either.
_REFUSALS = {NOT_PERMITTED.name, "invalid", "unfit"}


class ServerPermits:
    """See `claim.Permits`. What was answered is good for a moment: a page with many pictures asks
    once. Who makes up claims is refused here, before the server takes the proxy for a flood.
    """

    def __init__(
        self, client: Client, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._monotonic_s = monotonic_s
        self._asks = Buckets(PERMIT_ASKS_PER_S, PERMIT_ASKS_BURST, monotonic_s)
        # Found by a keyed hash: how long that takes says nothing of a secret.
        self._kept: OrderedDict[Claim, tuple[Grant | None, float]] = OrderedDict()

    async def permits(self, claim: Claim) -> Grant | None:
        kept, until_s = self._kept.get(claim, (None, 0.0))
        if until_s > self._monotonic_s():
            return kept
        try:
            self._asks.take(claim.source)
        except Problem:
            return None
        found = await self._asked(claim)
        self._kept[claim] = found, self._monotonic_s() + PERMIT_KEPT_S
        self._kept.move_to_end(claim)
        if len(self._kept) > PERMITS_KEPT_MAX:
            self._kept.popitem(last=False)
        return found

    async def _asked(self, claim: Claim) -> Grant | None:
        asked = Permit(
            claim.identifier, claim.source, claim.preset, str(claim.tag) if claim.tag else "",
            secret.digest(claim.credential) if claim.credential else "")
        try:
            found = await asyncio.to_thread(partial(self._client.call, PERMIT, asked))
        except Problem as problem:
            if problem.kind.name in _REFUSALS:
                return None
            raise
        payees = frozenset(Payee(one.host, one.port) for one in found.payees)
        return Grant(found.session, found.sponsor, payees, tag(found.tag) if found.tag else None)
