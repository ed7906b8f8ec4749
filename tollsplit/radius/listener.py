"""A NAS's accounting as a directory: who holds which address, from the moment it says so."""

from __future__ import annotations

import csv
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TollsplitError
from ..limits import RADIUS_KEPT_S
from ..rules.holders import Holders
from ..rules.leases import Keys, tell
from ..rules.prefixes import prefix_text
from ..rules.rule import Tenure
from ..snapshot import Notice
from .client import REQUEST_OCTETS_MAX, load_dictionary, parse_url

if TYPE_CHECKING:
    from pyrad.packet import AcctPacket

SECOND_NS = 1_000_000_000
LOOK_S = 0.2  # how soon it notices that it is to end
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Listener(threading.Thread):
    """Answers accounting requests once the directory says what they say.

    url        where it listens
    directory  the file; what it says at the start goes on
    keys       how long the prefixes of subscribers are
    changed    is told when the directory is another

    The instants are this machine's, as packets' are: a request's is when it came, less its delay.
    Requests that are not made with the secret are not answered. Raises UsageError; TollsplitError
    where nothing can listen.
    """

    def __init__(
        self,
        url: str,
        secret: bytes,
        directory: Path,
        known: Iterable[Tenure],
        keys: Keys,
        changed: Callable[[], None],
        told: Callable[[Notice], None],
    ) -> None:
        super().__init__(name="sessions", daemon=True)
        self.url = url
        self._secret = secret
        self._directory = directory
        self._keys = keys
        self._changed = changed
        self._told = told
        self._holders = Holders(known)
        self._dictionary = load_dictionary()
        self._refused = 0
        self._news = False  # that the directory lacks
        self._ending = False
        self._socket = _bound(url)
        self._socket.settimeout(LOOK_S)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        self._ending = True
        if self.ident is not None:
            self.join()
        self._socket.close()

    def run(self) -> None:
        while not self._ending:
            with suppress(TimeoutError):
                self._take([self._socket.recvfrom(REQUEST_OCTETS_MAX), *self._waiting()])

    def _waiting(self) -> Iterable[tuple[bytes, Any]]:
        """What has come meanwhile: it shares a change of the directory."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while poll.poll(0):
            yield self._socket.recvfrom(REQUEST_OCTETS_MAX)

    def _take(self, datagrams: Iterable[tuple[bytes, Any]]) -> None:
        """Take in requests, then answer them."""
        answers = []
        for octets, sender in datagrams:
            request = self._request(octets)
            if request is None:
                self._refuse(sender)
                continue
            try:
                said = _said(request)
                delay_s = int(said.get("Acct-Delay-Time", ["0"])[0])
                self._news |= tell(
                    self._holders, said, time.time_ns() - delay_s * SECOND_NS, self._keys)
            except ValueError as error:  # asked again it would say the same, so it is answered
                self._notice(f"{sender[0]}: {error}")
            answers.append((request.CreateReply().ReplyPacket(), sender))
        if self._news and not self._write():
            return
        for answer, sender in answers:
            self._socket.sendto(answer, sender)

    def _request(self, octets: bytes) -> AcctPacket | None:
        """An accounting request that was made with the secret; None: it is none."""
        from pyrad.packet import AccountingRequest, AcctPacket, PacketError

        try:
            request = AcctPacket(packet=octets, secret=self._secret, dict=self._dictionary)
            if request.code != AccountingRequest or not request.VerifyAcctRequest():
                return None
            if request.message_authenticator and not request.verify_message_authenticator():
                return None
        except PacketError:
            return None
        return request

    def _refuse(self, sender: Any) -> None:
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:  # the 1st, 2nd, 4th, 8th …: never a flood
            self._notice(f"{sender[0]}: not a request made with our secret; {self._refused:,} "
                         "such so far are not answered")

    def _write(self) -> bool:
        """Write the directory anew; False: it cannot be."""
        self._holders.forget(time.time_ns() - RADIUS_KEPT_S * SECOND_NS)
        partial = self._directory.with_name(f".{self._directory.name}.{os.getpid()}.partial")
        try:
            with open(partial, "w", encoding="utf-8", newline="") as stream:
                rows = csv.writer(stream, lineterminator="\n")
                rows.writerow(("prefix", "account", "valid_from", "valid_to"))
                for tenure in self._holders.tenures():
                    rows.writerow((prefix_text(tenure.prefix), tenure.account,
                                   _instant(tenure.valid_from_ns), _instant(tenure.valid_to_ns)))
            os.replace(partial, self._directory)
        except OSError as error:
            self._notice(f"{self._directory}: cannot be written: {error.strerror}; no request is "
                         "answered until it can")
            return False
        self._news = False
        self._changed()
        return True

    def _notice(self, text: str) -> None:
        self._told(Notice("sessions", time.time_ns(), f"{self.url}: {text}"))


def _bound(url: str) -> socket.socket:
    try:
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(
            *parse_url(url), type=socket.SOCK_DGRAM)
        made = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        try:
            made.bind(address)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise TollsplitError(f"{url}: cannot be listened on: {error.strerror}") from error
    return made


def _said(request: AcctPacket) -> dict[str, list[str]]:
    """A request's attributes by name. Raises ValueError."""
    said: dict[str, list[str]] = {}
    for name in request.keys():  # noqa: SIM118 - iterating gives codes
        if isinstance(name, str):
            values = request[name]
            if not all(isinstance(value, str | int) for value in values):
                if name in ("User-Name", "Acct-Session-Id"):
                    raise ValueError(f"{name} is no UTF-8 text")
                continue
            said[name] = [str(value) for value in values]
    return said


def _instant(at_ns: int | None) -> str:
    """An instant as a directory has it, to the microsecond."""
    return "" if at_ns is None else (EPOCH + timedelta(microseconds=at_ns // 1000)).isoformat()
