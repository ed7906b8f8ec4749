"""Where a broker is, who we are there, and the connection to it."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import nats.errors
from nats.aio.client import Client

from ..errors import BrokerError, UsageError
from ..limits import BROKER_WAIT_S

if TYPE_CHECKING:
    from nats.js import JetStreamContext

EXPECTED = ('expected nats://HOST:PORT or tls://HOST:PORT, several hosts with commas between them; '
            'after them /STREAM and ?credentials=FILE&ca=FILE&certificate=FILE&key=FILE where '
            'needed')
PORT = 4222
STREAM = "tollsplit"
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
        raise UsageError(f'broker "{url}": {EXPECTED}')
    servers = tuple(
        f"{parts.scheme}://{f'[{host.hostname}]' if ':' in str(host.hostname) else host.hostname}"
        f":{port}" for host, port in zip(hosts, ports, strict=True))
    encrypted = parts.scheme == "tls"
    if not encrypted and files.keys() & {"ca", "certificate"}:
        raise UsageError(f'broker "{url}": certificates are for tls://HOST:PORT')
    return Address(url, servers, stream, encrypted, **files)


@asynccontextmanager
async def connected(address: Address, name: str) -> AsyncIterator[tuple[Client, JetStreamContext]]:
    """A connection, until it breaks or is left. Whatever the broker refuses is a BrokerError.

    name   what the broker's own tools call us

    Raises UsageError for files that cannot be read.
    """
    options = _identity(address)
    client = Client()

    async def quiet(error: Exception) -> None:
        """Whoever waits for an answer is told; nats would write a traceback to its logger."""

    try:
        try:
            await client.connect(
                list(address.servers), name=name, allow_reconnect=False, error_cb=quiet,
                connect_timeout=BROKER_WAIT_S, max_reconnect_attempts=1, **options)
            yield client, client.jetstream(timeout=BROKER_WAIT_S)
        finally:
            await client.close()
    except nats.errors.NoServersError as error:
        raise BrokerError(
            f"{address.hosts}: no broker answers, or it does not let us in") from error
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise BrokerError(f"{address.hosts}: {described(error)}") from error


def described(error: BaseException) -> str:
    """What a broker says, without what names the library."""
    found = getattr(error, "description", None) or str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        found = "no answer"
    elif isinstance(error, nats.errors.NoRespondersError) or "NoStreamResponse" in found:
        found = "it has no such stream; `tollsplit ingest --create` makes it"
    return str(found).removeprefix("nats: ")


def _identity(address: Address) -> dict[str, Any]:
    """What tells the broker who we are, and us who it is."""
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
