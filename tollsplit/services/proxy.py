"""The sponsor's proxy: who may pass, whereto, and with what mark."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

from ..errors import TollsplitError, UsageError
from ..limits import PROXY_CONNECT_S
from ..rules.marks import Tag
from .claim import Claim, Grant, Payee, Permits, read_claim
from .exchange import Asked, Place, Refused, Route
from .forwarding import Forwarder, Told, listening
from .marking import reflect_flow_labels

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[Payee], Awaitable[Sequence[Place]]]
# NAT64 (RFC 6052 §2.1): the last 32 bits are an IPv4 address that a gateway goes on to.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Everybody's IPv6 addresses (RFC 4291 §2.4); whatever else there is is some network's own affair,
# or stands for IPv4 in one of the ways that came and went.
_UNICAST = ipaddress.ip_network("2000::/3")
# Nobody's, whatever the library's version knows of them (RFC 6890 §2.2.2, 7526, 9637).
_RESERVED = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))


class Proxy:
    """Passes on what is claimed rightly, to its sponsor's payment servers and nowhere else.

    permits   knows which claims are good
    inside    networks that are reached although they are not public
    source    the address that connections to payment servers begin at
    resolve   a name's addresses; they are checked, and what was checked is connected to
    """

    def __init__(
        self, permits: Permits, told: Told, *, inside: Sequence[Network] = (),
        source: str | None = None, resolve: Resolve | None = None,
    ) -> None:  # fmt: skip
        self._permits = permits
        self._inside = inside
        self._source = source
        self._resolve = resolve or resolved
        self._forwarder = Forwarder(self._route, told)
        self.places: list[tuple[str, int]] = []

    async def listen(
        self, places: Sequence[tuple[str, int]], *, flow_labels: bool = False
    ) -> None:
        """Take requests at these addresses; each may be a mark by itself.

        flow_labels   answers carry the flow label that the terminal's packets carry

        Raises UsageError.
        """
        listeners: list[socket.socket] = []
        try:
            for address, port in places:
                listeners.append(listening(address, port))
                if flow_labels and listeners[-1].family == socket.AF_INET6:
                    reflect_flow_labels(listeners[-1])
        except UsageError:
            for listener in listeners:
                listener.close()
            raise
        self.places = [listener.getsockname()[:2] for listener in listeners]
        await self._forwarder.listen(listeners)

    async def close(self, patience_s: float = 0.0) -> None:
        await self._forwarder.close(patience_s)

    async def _route(self, asked: Asked) -> Route:
        """Where a request goes. Whatever is wrong with it, the answer is the same: 403."""
        shown = asked.header(b"proxy-authorization")
        claim = read_claim(shown, asked.source, asked.preset) if shown else None
        if claim is None:
            raise Refused(403, "no claim")
        grant = await self._permitted(claim)
        if grant is None:
            raise Refused(403, "not permitted")
        if asked.payee not in grant.payees:
            raise Refused(403, "not a payment server of its sponsor")
        places = [place for place in await self._addresses(asked.payee)
                  if may_be_reached(place.address, self._inside)]
        if not places:
            raise Refused(403, "not a public address")
        return Route(
            places, {"session": grant.session, "sponsor": grant.sponsor},
            _toward(grant.tag, places), self._source, _dscp(grant.tag),
            stays=lambda: self._stays(claim))

    async def _permitted(self, claim: Claim) -> Grant | None:
        try:
            return await self._permits.permits(claim)
        except (TollsplitError, OSError, TimeoutError):
            raise Refused(503, "permission cannot be asked for") from None

    async def _stays(self, claim: Claim) -> bool:
        try:
            return await self._permitted(claim) is not None
        except Refused:
            return True  # the session's end is told when it can be; the tunnel's time is bounded

    async def _addresses(self, payee: Payee) -> Sequence[Place]:
        try:
            async with asyncio.timeout(PROXY_CONNECT_S):
                return await self._resolve(payee)
        except (OSError, UnicodeError):
            raise Refused(502, "name: unknown") from None
        except TimeoutError:
            raise Refused(504, "name: not in time") from None


async def resolved(payee: Payee) -> Sequence[Place]:
    """A name's addresses, as the system's resolver knows them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        payee.host, payee.port, type=socket.SOCK_STREAM)
    return [Place(family, str(address[0]), payee.port) for family, _, _, _, address in found]


def may_be_reached(address: str, inside: Sequence[Network]) -> bool:
    """Whether an address is everybody's, or in one of the networks that are listed.

    A name may lead anywhere: to the proxy's own machine, the operator's network, or a cloud's
    metadata. So does an IPv6 address that stands for an IPv4 one.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # with a scope: of this link only
        return False
    embedded = _embedded(found)
    return any(found in network for network in inside) or (
        found.is_global and not found.is_multicast
        and (found.version == 4 or found in _UNICAST or found in _NAT64)
        and not any(found in network for network in _RESERVED)
        and (embedded is None or may_be_reached(str(embedded), inside)))


def _embedded(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 one leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _dscp(tag: Tag | None) -> int:
    return tag.value if tag is not None and tag.kind == "dscp" else 0


def _toward(tag: Tag | None, places: Sequence[Place]) -> Tag | None:
    """What the way to a payment server can carry: an IPv4 packet has no flow label."""
    is_fit = _dscp(tag) or all(place.family == socket.AF_INET6 for place in places)
    return tag if is_fit else None
