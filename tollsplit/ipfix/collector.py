"""The way to a collector: UDP or TCP, and what it needs to be told when it is new there."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from ..errors import UsageError
from ..limits import (
    IPFIX_INTRODUCE_MESSAGES,
    IPFIX_SEND_S,
    IPFIX_UDP_MESSAGES_PER_S,
    IPFIX_UDP_OCTETS_MAX,
)
from .message import OCTETS_MAX, Body, Stream

PORT = 4739  # RFC 7011 §10.3.4
EXPECTED = 'expected udp://HOST:PORT or tcp://HOST:PORT ("udp://[2001:db8::7]:4739")'
IP_MTU, IPV6_MTU = 14, 24  # ip(7), ipv6(7); the socket module does not name them
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
TAKEN_LOOK_S = 0.01


class Collector:
    """A collector at a URL. Its socket is opened by the first send(), and again after an error.

    domain   the observation domain of what is sent

    Whoever listens may be new whenever a socket is opened, so `introduction` goes out first: over
    TCP that is a session of its own. UDP loses messages and tells of no restart, so it goes out
    again and again.

    Raises UsageError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        domain: int,
        *,
        now_s: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.kind, self._host, self._port = parse_url(url)
        self._stream = Stream(domain, now_s)
        self._sleep = sleep
        self._socket: socket.socket | None = None
        self._introduction: list[Body] = []
        self._since_introduction = 0
        self._free_s = 0.0  # from when on UDP may send

    @property
    def octets_max(self) -> int:
        """Of a message. Raises OSError where no socket can be opened."""
        if self.kind == "tcp":
            return OCTETS_MAX
        opened = self._socket or self._open()
        option = ((socket.IPPROTO_IP, IP_MTU) if opened.family == socket.AF_INET
                  else (socket.IPPROTO_IPV6, IPV6_MTU))  # fmt: skip
        return min(IPFIX_UDP_OCTETS_MAX, opened.getsockopt(*option) - HEADERS[opened.family])

    def introduce(self, introduction: list[Body]) -> None:
        """Send what has to be known of what follows. Raises OSError; it is kept all the same."""
        self._introduction = introduction
        if self._socket is None:
            self._open()
        self._introduce()

    def send(self, body: Body) -> None:
        """Send a message. Raises OSError: then it was not taken, and may be sent again."""
        if self._socket is None:
            self._open()
            self._introduce()
        elif self.kind == "udp" and self._since_introduction >= IPFIX_INTRODUCE_MESSAGES:
            self._introduce()
        self._put(body)
        self._since_introduction += 1

    def _introduce(self) -> None:
        for body in self._introduction:
            self._put(body)
        self._since_introduction = 0

    def _open(self) -> socket.socket:
        kind = socket.SOCK_STREAM if self.kind == "tcp" else socket.SOCK_DGRAM
        error = OSError(f"{self._host}: no address")
        for family, _, _, _, address in socket.getaddrinfo(self._host, self._port, type=kind):
            opened = socket.socket(family, kind | socket.SOCK_CLOEXEC)
            try:
                opened.settimeout(IPFIX_SEND_S)
                opened.connect(address)
            except OSError as failure:
                opened.close()
                error = failure
                continue
            self._socket = opened
            if self.kind == "tcp":
                self._stream.restart()
            return opened
        raise error

    def _put(self, body: Body) -> None:
        assert self._socket is not None
        try:
            if self.kind == "tcp":
                _expect_listening(self._socket)
                self._socket.sendall(self._stream.message(body))
            else:
                self._pace()
                self._socket.send(self._stream.message(body))
        except OSError:
            self._drop()
            raise
        self._stream.sent(body)

    def _pace(self) -> None:
        """Nobody tells a sender that a collector's buffer is full, so it is given time."""
        now = time.monotonic()
        if self._free_s > now + 1 / 64:
            self._sleep(self._free_s - now)
        self._free_s = max(self._free_s, now) + 1 / IPFIX_UDP_MESSAGES_PER_S

    def close(self) -> None:
        """Wait until all is taken, as far as that can be told. Raises OSError where it is not."""
        opened, self._socket = self._socket, None
        if opened is None:
            return
        with opened:
            if self.kind == "tcp":
                opened.shutdown(socket.SHUT_WR)
                _expect_taken(opened)
            number = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _expect_listening(opened: socket.socket) -> None:
    """Collectors say nothing; what can be read is their going away, which sending would only
    notice a message later."""
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    if poll.poll(0) and not opened.recv(65_536):
        raise ConnectionResetError("the collector has closed the connection")


def _expect_taken(opened: socket.socket) -> None:
    """Wait until the other side has acknowledged everything."""
    ends_s = time.monotonic() + IPFIX_SEND_S
    while struct.unpack("i", fcntl.ioctl(opened, termios.TIOCOUTQ, b"\0" * 4))[0]:
        if time.monotonic() > ends_s:
            raise TimeoutError("the collector does not take what was sent")
        time.sleep(TAKEN_LOOK_S)


def parse_url(url: str) -> tuple[Literal["udp", "tcp"], str, int]:
    """Transport, host and port of a collector's URL. Raises UsageError."""
    try:
        parts = urlsplit(url)
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise UsageError(f'collector "{url}": {EXPECTED}') from None
    rest = parts.path or parts.query or parts.fragment or parts.username
    if parts.scheme not in ("udp", "tcp") or not parts.hostname or rest or not port:
        raise UsageError(f'collector "{url}": {EXPECTED}')
    return ("udp" if parts.scheme == "udp" else "tcp"), parts.hostname, port
