"""What a proxy asks the distribution server."""

from __future__ import annotations

import asyncio
from functools import partial

from ..rules.marks import tag
from . import secret
from .claim import Claim, Grant, Payee
from .client import Client
from .problem import Problem
from .session import NOT_PERMITTED, PERMIT, Permit

# What makes no sense to the server is no good claim either.
_REFUSALS = {NOT_PERMITTED.name, "invalid"}


class ServerPermits:
    """See `claim.Permits`: each claim is asked about when it is made, so an end is an end at once.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def permits(self, claim: Claim) -> Grant | None:
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
