"""Accounting requests, and the way to a server that takes them (RFC 2866)."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import TollsplitError, UsageError
from ..limits import RADIUS_END_S, RADIUS_SECRET_OCTETS_MIN, RADIUS_TRIES, RADIUS_WAIT_S
from ..model import UsageRecord
from ..snapshot import Notice
from .session import SUBSCRIBER, Counters, Report, Sessions

if TYPE_CHECKING:
    from pyrad.dictionary import Dictionary

PORT = 1813
EXPECTED = 'expected radius://HOST:PORT ("radius://[2001:db8::7]:1813")'
DICTIONARY = Path(__file__).with_name("dictionary.txt")
REQUEST_OCTETS_MAX = 4096  # RFC 2865 §3
TEXT_OCTETS_MAX = 253  # of an attribute's value
GIGAWORD = 1 << 32
RETRY_S = 1.0
RETRY_MAX_S = 30.0


class Address(NamedTuple):
    host: str
    port: int


def parse_url(url: str) -> Address:
    """Raises UsageError."""
    try:
        parts = urlsplit(url)
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise UsageError(f'server "{url}": {EXPECTED}') from None
    rest = parts.path or parts.query or parts.fragment or parts.username
    if parts.scheme != "radius" or not parts.hostname or rest:
        raise UsageError(f'server "{url}": {EXPECTED}')
    return Address(parts.hostname, port)


def read_secret(path: Path) -> bytes:
    """The secret that is shared with the other side: a file's content without its line's end.

    Raises UsageError.
    """
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(secret) < RADIUS_SECRET_OCTETS_MIN:
        raise UsageError(f"{path}: expected a secret of {RADIUS_SECRET_OCTETS_MIN} octets or more, "
                         f"got {len(secret)}; anybody who sees a request could find it out")
    return secret


def load_dictionary() -> Dictionary:
    """The attributes. Raises UsageError without pyrad."""
    try:
        from pyrad.dictionary import Dictionary
    except ImportError as error:
        raise UsageError(
            "radius: pyrad is not installed; pip install 'tollsplit[radius]'") from error
    return Dictionary(str(DICTIONARY))


def attributes(report: Report, source: str) -> dict[str, Any]:
    """What a request says, by the attributes' names with _ for -."""
    session = report.session
    said: dict[str, Any] = {
        "Acct_Status_Type": report.status,
        "Acct_Session_Id": session.id,
        "Acct_Multi_Session_Id": session.multi_id,
        "User_Name": _fitted(session.account),
        "NAS_Identifier": _fitted(source),
        "Event_Timestamp": report.at_s,
        "Class": _fitted(session.payer).encode(),
        **_place(session.subscriber),
    }
    if report.status == "Start":
        return said
    counters = session.counters
    garden = Counters() if session.payer == SUBSCRIBER else counters
    other = counters if session.payer == SUBSCRIBER else Counters()
    said |= {
        "Acct_Session_Time": session.seconds,
        **_octets("Acct_", counters), **_octets("ChilliSpot_Garden_", garden),
        **_octets("ChilliSpot_Other_", other),
        "Acct_Input_Packets": counters.input_packets % GIGAWORD,
        "Acct_Output_Packets": counters.output_packets % GIGAWORD,
    }
    if report.cause is not None:
        said["Acct_Terminate_Cause"] = report.cause
    return said


def _octets(prefix: str, counters: Counters) -> dict[str, int]:
    """64 bits in two attributes of 32 (RFC 2869 §5.1)."""
    return {
        f"{prefix}Input_Octets": counters.input_octets % GIGAWORD,
        f"{prefix}Input_Gigawords": counters.input_octets // GIGAWORD,
        f"{prefix}Output_Octets": counters.output_octets % GIGAWORD,
        f"{prefix}Output_Gigawords": counters.output_octets // GIGAWORD,
    }


def _place(subscriber: str) -> dict[str, str]:
    """Where a subscriber is: its address or prefix (RFC 2865, 3162, 6911), else its key."""
    address, _, length = subscriber.partition("/")
    if ":" not in address and "." in address:
        if not length:
            return {"Framed_IP_Address": address}
        mask = (0xFFFFFFFF << 32 - int(length)) & 0xFFFFFFFF
        return {"Framed_IP_Address": address,
                "Framed_IP_Netmask": ".".join(str(octet) for octet in mask.to_bytes(4, "big"))}
    if length:
        return {"Framed_IPv6_Prefix": subscriber}
    if subscriber.count(":") > 1 and not subscriber.startswith("mac:"):
        return {"Framed_IPv6_Address": address}
    return {"Calling_Station_Id": subscriber}


def _fitted(text: str) -> str:
    """A text that an attribute can hold; of a longer one as much as it can."""
    return text.encode()[:TEXT_OCTETS_MAX].decode(errors="ignore")


class Accountant:
    """Sends requests to a server, one after the other, each until it is answered.

    The first one opens its socket. Raises UsageError.
    """

    def __init__(self, url: str, secret: bytes, source: str) -> None:
        self.url = url
        self._address = parse_url(url)
        self._secret = secret
        self._source = source
        self._dictionary = load_dictionary()
        self._socket: socket.socket | None = None
        self._sent = 0

    def send(self, report: Report) -> None:
        """Raises OSError where nobody answers; TimeoutError is one."""
        said = attributes(report, self._source)
        began_s = time.monotonic()
        for _ in range(RADIUS_TRIES):
            waited_s = int(time.monotonic() - began_s)
            if self._is_answered(said | ({"Acct_Delay_Time": waited_s} if waited_s else {})):
                return
        raise TimeoutError("no answer")

    def _is_answered(self, said: dict[str, Any]) -> bool:
        from pyrad.packet import AcctPacket, PacketError

        # Another try says how late it is, so it is another request (RFC 2866 §5.2).
        self._sent += 1
        request = AcctPacket(id=self._sent % 256, secret=self._secret, dict=self._dictionary,
                             message_authenticator=True, **said)
        opened = self._socket or self._open()
        ends_s = time.monotonic() + RADIUS_WAIT_S
        opened.send(request.RequestPacket())
        while (left_s := ends_s - time.monotonic()) > 0:
            opened.settimeout(left_s)
            try:
                answer = opened.recv(REQUEST_OCTETS_MAX)
                if request.VerifyReply(request.CreateReply(packet=answer), answer):
                    return True
            except (TimeoutError, PacketError):
                continue
        return False

    def _open(self) -> socket.socket:
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(
            *self._address, type=socket.SOCK_DGRAM)
        self._socket = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        self._socket.connect(address)
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def account(
    url: str, secret: bytes, source: str, run: str, records: Iterable[UsageRecord]
) -> None:
    """Report usage that is over: a Start and a Stop for each session.

    run   names the run; sessions of the same one have the same ids

    Raises UsageError; TollsplitError where the server does not answer.
    """
    accountant = Accountant(url, secret, source)
    sessions = Sessions(run)
    try:
        for report in sessions.take(records):
            if report.status == "Start":
                accountant.send(report)
        for report in sessions.end():
            accountant.send(report)
    except OSError as error:
        raise TollsplitError(f"{url}: the server does not take the accounting: "
                             f"{error.strerror or error}; whatever came before is there") from error
    finally:
        accountant.close()


class _Abandoned(Exception):
    """The run is over, and the server did not come back."""


class Reporter(threading.Thread):
    """Reports a live run's sessions, and tries again where the server is away.

    Counters are sums since a session began, so of several reports that wait the last one will do.
    What waits is as much as there are sessions; nobody who offers usage waits for it.
    """

    def __init__(
        self, url: str, secret: bytes, source: str, run: str, told: Callable[[Notice], None]
    ) -> None:
        super().__init__(name="radius", daemon=True)
        self._accountant = Accountant(url, secret, source)
        self._told = told
        self._sessions = Sessions(run)
        self._offered: deque[Iterable[UsageRecord]] = deque()
        self._waiting: dict[tuple[str, bool], Report] = {}  # session, whether it is its Start
        self._changed = threading.Condition()
        self._ending = False
        self._away = False

    def offer(self, records: Iterable[UsageRecord]) -> None:
        """Have what is new reported."""
        with self._changed:
            self._offered.append(records)
            self._changed.notify()

    def _take(self) -> None:
        """Bring what waits up to what was offered."""
        while self._offered:
            self._wait(self._sessions.take(self._offered.popleft()))

    def _wait(self, reports: Iterable[Report]) -> None:
        for report in reports:
            self._waiting[report.session.id, report.status == "Start"] = report

    def finish(self) -> None:
        """End all sessions; wait until that is told, or for some seconds."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self.join(RADIUS_END_S)
        if self._waiting or self._offered:
            self._notice("not all sessions were reported to their end")

    def run(self) -> None:
        with closing(self._accountant), suppress(_Abandoned):
            self._run()

    def _run(self) -> None:
        ended = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._offered or self._waiting or self._ending)
                ending = self._ending
            self._take()
            if ending and not ended:
                self._wait(self._sessions.end())
                ended = True
            if not self._waiting:
                if ended:
                    return
                continue
            key, report = next(iter(self._waiting.items()))
            self._persist(report)
            if self._waiting[key] is report:
                del self._waiting[key]

    def _persist(self, report: Report) -> None:
        """Try until it is answered; once more after the run is over, then it raises _Abandoned."""
        pause_s = RETRY_S
        while True:
            last = self._ending
            try:
                self._accountant.send(report)
            except OSError as error:
                if not self._away:
                    self._notice(f"{error.strerror or error}; sessions wait for the server")
                self._away = True
                if last:
                    raise _Abandoned from error
                self._take()
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            if self._away:
                self._notice("the server answers again")
                self._away = False
            return

    def _notice(self, text: str) -> None:
        self._told(Notice("export", time.time_ns(), f"{self._accountant.url}: {text}"))
