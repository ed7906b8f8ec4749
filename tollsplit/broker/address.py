"""Where a broker is, who we are there, and the connection to it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError, NotFoundError

from ..errors import BrokerError, UsageError
from ..limits import BROKER_WAIT_S

if TYPE_CHECKING:
    from nats.js import JetStreamContext

EXPECTED = ('expected nats://HOST:PORT or tls://HOST:PORT, several hosts with commas between them; '
            'after them /STREAM and ?credentials=FILE&ca=FILE&certificate=FILE&key=FILE where '
            'needed')
PORT = 4222
STREAM = "tollsplit"
CLOSE_S = 1.0
FILES = ("credentials", "ca", "certificate", "key")
_SEED = re.compile(r"SU[A-Z2-7]{56}")


@dataclass(frozen=True, slots=True)
class Address:
    """A broker as a URL names it; of secrets it has the files' names only."""

    url: str
    servers: tuple[str, ...]
    stream: str
    is_encrypted: bool
    credentials: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def hosts(self) -> str:
        """What messages call it."""
        return ",".join(self.servers)


def parse_url(url: str) -> Address:
    """Raises UsageError; what it says of a password does not have it."""
    try:
        parts = urlsplit(url)
        asked = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        hosts = [urlsplit(f"//{host}") for host in parts.netloc.split(",")]
        ports = [PORT if host.port is None else host.port for host in hosts]
    except ValueError:
        raise UsageError(f"broker: {EXPECTED}") from None
    if any(host.username is not None for host in hosts):
        raise UsageError("broker: what stands in a command line everybody on the machine can read: "
                         "write USER:PASSWORD into a file and name it: ?credentials=FILE")
    files = {name: Path(value[-1]) for name, value in asked.items()}
    stream = parts.path.strip("/") or STREAM
    if (
        parts.scheme not in ("nats", "tls")
        or not all(host.hostname for host in hosts)
        or parts.fragment
        or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", stream)
        or not files.keys() <= set(FILES)
        or ("key" in files) != ("certificate" in files)
    ):
        # Where there is an @, there may be a password in a place where none belongs.
        raise UsageError(f"broker: {EXPECTED}" if "@" in url else f'broker "{url}": {EXPECTED}')
    servers = tuple(
        f"{parts.scheme}://{f'[{host.hostname}]' if ':' in str(host.hostname) else host.hostname}"
        f":{port}" for host, port in zip(hosts, ports, strict=True))
    encrypted = parts.scheme == "tls"
    if not encrypted and files.keys() & {"ca", "certificate"}:
        raise UsageError(f'broker "{url}": certificates are for tls://HOST:PORT; {EXPECTED}')
    return Address(url, servers, stream, encrypted, **files)


@asynccontextmanager
async def connected(address: Address, name: str) -> AsyncIterator[tuple[Client, JetStreamContext]]:
    """A connection, until it breaks or is left. Whatever the broker refuses is a BrokerError.

    name   what the broker's own tools call us
    """
    try:
        options = identity(address)
    except UsageError as error:  # they could be read when it began
        raise BrokerError(str(error)) from error
    client = Client()
    said: list[Exception] = []

    async def hear(error: Exception) -> None:
        """What it says by itself: also why something that was asked for gets no answer."""
        said.append(error)

    try:
        try:
            async with asyncio.timeout(BROKER_WAIT_S * (1 + len(address.servers))):
                await client.connect(
                    list(address.servers), name=name, allow_reconnect=False, error_cb=hear,
                    connect_timeout=BROKER_WAIT_S, max_reconnect_attempts=1,
                    reconnect_time_wait=0, **options)
            yield client, client.jetstream(timeout=BROKER_WAIT_S)
        finally:
            # An encrypted connection that never came about would be waited for without end.
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await client.close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        silent = isinstance(error, TimeoutError | nats.errors.NoServersError)
        why = said[-1] if said and silent else error
        raise BrokerError(f"{address.hosts}: {_described(why)}") from error


def _described(error: Exception) -> str:
    """What a broker says, without what names the library."""
    if isinstance(error, NotFoundError | NoStreamResponseError):
        return f"it has no stream of that name; `tollsplit ingest --create` makes it ({error})"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionRefusedError):
        return "no broker answers: connection refused; start one: nats-server --jetstream"
    found = getattr(error, "description", None) or str(error) or type(error).__name__
    return str(found).removeprefix("nats: ").strip("'")


def identity(address: Address) -> dict[str, Any]:
    """What tells the broker who we are, and us who it is. Raises UsageError."""
    options: dict[str, Any] = {}
    if address.credentials is not None:
        text = _read(address.credentials)
        if "-----BEGIN NATS USER JWT-----" in text:
            options["user_credentials"] = str(address.credentials)
        elif _SEED.fullmatch(text):
            options["nkeys_seed_str"] = text
        else:
            user, colon, password = text.partition(":")
            if not colon:
                raise UsageError(f"{address.credentials}: expected a credentials file of NATS, an "
                                 "nkey's seed (SU…), or USER:PASSWORD")
            options |= {"user": user, "password": password}
    if address.is_encrypted:
        try:
            context = ssl.create_default_context(cafile=address.ca)
            if address.certificate is not None:
                context.load_cert_chain(address.certificate, address.key)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(str(path) for path in (
                address.ca, address.certificate, address.key) if path)
            raise UsageError(f"{named}: no certificates that can be used: {error}") from error
        options["tls"] = context
    return options


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        cause = (isinstance(error, OSError) and error.strerror) or "no text"
        raise UsageError(f"{path}: cannot be read: {cause}") from error
