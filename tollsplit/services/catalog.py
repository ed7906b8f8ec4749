"""Which services there are."""

from __future__ import annotations

from ..ledger import Annex
from . import (
    billing_auth,
    card_register,
    device,
    idempotency,
    inbox,
    notice,
    push_payment,
    resource_register,
    secret,
    session,
    sharing,
    transfer,
)
from .operation import Service

SERVICES: tuple[Service, ...] = (
    device.SERVICE, inbox.SERVICE, session.SERVICE, card_register.SERVICE, transfer.SERVICE,
    push_payment.SERVICE, resource_register.SERVICE, billing_auth.SERVICE,
    sharing.SERVICE,
)


def annexes(services: tuple[Service, ...] = SERVICES) -> list[Annex]:
    """The tables of services and of what they share."""
    own = [service.annex for service in services if service.annex is not None]
    return [idempotency.ANNEX, notice.ANNEX, secret.ANNEX, *own]
