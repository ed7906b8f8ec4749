"""Usage by way of a broker: what the commands hand over to be sent, and to be taken in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..broker.address import Address
    from ..gateway.options import Publish


def address_of(url: str) -> Address:
    """Raises UsageError."""
    # It warns of how the client ends encrypted connections, each time.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        from ..broker.address import identity, parse_url
    except ImportError as error:
        raise UsageError(f"broker: {error}; pip install 'tollsplit[nats]'") from error
    address = parse_url(url)
    identity(address)
    return address


def publisher(url: str, source: str) -> Publish:
    """How a live run takes its segments to a broker. Raises UsageError."""
    address = address_of(url)
    from ..broker.dispatch import Dispatch

    return lambda leftovers, noticed: Dispatch(address, source, leftovers, noticed)
