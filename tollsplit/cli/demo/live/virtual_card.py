"""A payment card in software, and the PC/SC service that it is put into.

The card answers commands by itself; what it says is built here, with no code of the package. It
reaches pcscd as any card does, through the driver of Debian's package vsmartcard-vpcd, which calls
us on a socket: two octets of length, then a command, or one octet of control.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from .namespaces import BOUND
from .program import StoryError, wait

DRIVER = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
ATR = bytes.fromhex("3b80800101")  # what contactless readers make up for a card without history
NUMBER = "4111111111111111"
OTHER_NUMBER = "5555555555554444"
VISA, MASTERCARD = bytes.fromhex("a0000000031010"), bytes.fromhex("a0000000041010")
DONE, NO_FILE, NO_RECORD, REFUSED = b"\x90\x00", b"\x6a\x82", b"\x6a\x83", b"\x69\x85"


def tlv(tag: int, *values: bytes) -> bytes:
    value = b"".join(values)
    size = len(value).to_bytes(1 if len(value) < 0x100 else 2)
    if len(value) > 0x7F:
        size = bytes((0x80 | len(size),)) + size
    return tag.to_bytes((tag.bit_length() + 7) // 8) + size + value


def digits(text: str) -> bytes:
    return bytes.fromhex(text + "F" * (len(text) % 2))


def pan(number: str = NUMBER) -> bytes:
    return tlv(0x5A, digits(number))


def number_of(index: int) -> str:
    """A card number of its own for each index, with its check digit (Luhn)."""
    body = f"622202{index:09}"
    doubled = [int(digit) * 2 for digit in body[::-2]]
    total = sum(d // 10 + d % 10 for d in doubled) + sum(map(int, body[-2::-2]))
    return f"{body}{-total % 10}"


def track_2(number: str = NUMBER) -> bytes:
    return tlv(0x57, digits(f"{number}D31122010000012345678"))


@dataclass
class Application:
    """One application of a card: what it answers to each command."""

    name: bytes = VISA
    priority: bytes = tlv(0x87, b"\x01")
    label: bytes = b"VISA DEBIT"
    control: bytes = tlv(0x9F38, bytes.fromhex("9f66049f02069f37045f2a029a03"))
    processing: bytes = tlv(0x77, tlv(0x82, b"\x20\x00"), tlv(0x94, bytes.fromhex("10010200")))
    records: dict[tuple[int, int], bytes] = field(
        default_factory=lambda: {(2, 1): tlv(0x70, pan()), (2, 2): tlv(0x70, track_2())})

    @property
    def entry(self) -> bytes:
        return tlv(0x61, tlv(0x4F, self.name), tlv(0x50, self.label), self.priority)


@dataclass
class VirtualCard:
    """A card; `replies` puts other answers in place of its own, by the command's beginning."""

    applications: list[Application] = field(default_factory=lambda: [Application()])
    replies: dict[bytes, bytes] = field(default_factory=dict)
    heard: list[bytes] = field(default_factory=list)
    selected: Application | None = None

    def exchange(self, command: bytes) -> bytes:
        self.heard.append(command)
        for start, reply in self.replies.items():
            if command.startswith(start):
                return reply
        kind, first, second = command[1], command[2], command[3]
        if kind == 0xA4:
            return self._select(command[5 : 5 + command[4]])
        if self.selected is None:
            return REFUSED
        if kind == 0xA8:
            return self.selected.processing + DONE
        record = self.selected.records.get((second >> 3, first)) if kind == 0xB2 else None
        return NO_RECORD if record is None else record + DONE

    def _select(self, name: bytes) -> bytes:
        if name == b"2PAY.SYS.DDF01":
            entries = b"".join(a.entry for a in self.applications)
            inside = tlv(0xA5, tlv(0xBF0C, entries))
            return tlv(0x6F, tlv(0x84, name), inside) + DONE
        for application in self.applications:
            if application.name == name:
                self.selected = application
                return tlv(0x6F, tlv(0x84, name), tlv(0xA5, application.control)) + DONE
        return NO_FILE


def missing() -> str | None:
    """What this machine lacks to have a reader, by name; None: nothing."""
    absent = [name for name in ("pcscd", "unshare") if shutil.which(name) is None]
    if absent or not DRIVER.exists():
        return "no pcscd with a virtual reader (apt-get install pcscd vsmartcard-vpcd)"
    if find_spec("smartcard") is None:
        return "no pyscard (pip install 'tollsplit[card]')"
    if os.geteuid():
        return "needs root: pcscd with a virtual reader runs in a mount namespace"
    return None


class Reader:
    """pcscd with one virtual reader, apart from the machine's own; cards are put in and taken out.

    Its socket lies in a folder of its own, mounted over /run/pcscd for it alone.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        folder.mkdir(parents=True)
        (folder / "reader.conf").write_text(
            f'FRIENDLYNAME "Virtual PCD"\nDEVICENAME /dev/null:{self._port:#06x}\n'
            f"LIBPATH {DRIVER}\nCHANNELID {self._port:#06x}\n"
        )
        run = folder / "run"
        run.mkdir()
        self.socket = run / "pcscd.comm"
        self._log = (folder / "pcscd.log").open("wb")
        self._process = subprocess.Popen(
            [*BOUND, "unshare", "--mount", "sh", "-c",
             'mkdir -p /run/pcscd && mount --bind "$1" /run/pcscd && '
             'exec pcscd --foreground --debug --config "$2"', "sh", run, folder / "reader.conf"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def log(self) -> str:
        return (self._folder / "pcscd.log").read_text()

    def works(self) -> bool:
        """Whether the driver listens, once the service is ready; it is ready without it as well."""
        self._await(lambda: "daemon ready" in self.log())
        return "Could not initialize" not in self.log()

    def _await(self, happened: Callable[[], bool]) -> None:
        """The service looks for cards a few times a second, and its log says what it saw."""
        wait(lambda: happened() or self._process.poll() is not None, "the card reader")
        if self._process.poll() is not None:
            raise StoryError(f"the card reader ended: {self.log()}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    @contextmanager
    def holding(self, card: Callable[[bytes], bytes]) -> Iterator[None]:
        """A card lies in the reader. One that answers nothing is taken out by that."""
        seen = self.log().count("Card Removed From")
        driver = socket.create_connection(("127.0.0.1", self._port), 20)
        lying = Thread(target=_lie, args=(driver, card), name="virtual card")
        lying.start()
        try:
            self._await(lambda: self.log().count("Card inserted into") > seen)
            yield
        finally:
            with suppress(OSError):  # it may be out already
                driver.shutdown(socket.SHUT_RDWR)
            lying.join(20)
            driver.close()
            self._await(lambda: self.log().count("Card Removed From") > seen)


def start(folder: Path) -> Reader:
    """A reader that works. Its driver listens on a port and the next one, which somebody else may
    have; those that the system gives to connections are above.
    """
    for _ in range(20):
        port = random.randrange(20_000, 32_000, 2)
        service = Reader(folder / str(port), port)
        if service.works():
            return service
        service.stop()
    raise StoryError(f"the card reader has no port: {service.log()}")


def _lie(driver: socket.socket, card: Callable[[bytes], bytes]) -> None:
    """Answer the driver's calls until the card is out."""
    with suppress(OSError):
        while size := int.from_bytes(driver.recv(2, socket.MSG_WAITALL)):
            # It sends in two parts, and the second waits until the first is acknowledged.
            driver.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            call = driver.recv(size, socket.MSG_WAITALL)
            if len(call) > 1:
                answer = card(call)
            elif call == b"\x04":  # presence, and what a card says when it is switched on
                answer = ATR
            else:  # off, on, reset
                continue
            if not answer:
                driver.shutdown(socket.SHUT_RDWR)
                return
            driver.sendall(len(answer).to_bytes(2) + answer)
