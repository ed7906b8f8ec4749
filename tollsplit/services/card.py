"""The account on a smart card, read command by command as payment terminals read it.

What is read is static: whoever held the card once can show the same again. It says which account is
meant, and authorises nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Protocol

from ..errors import CardError
from ..limits import CARD_ANSWER_PARTS_MAX, CARD_APPLICATIONS_MAX, CARD_RECORDS_MAX
from . import tlv

# The directory of a contactless card (EMV Contactless Book B, §3.3.2).
DIRECTORY = b"2PAY.SYS.DDF01"
DONE = 0x9000

_NUMBER = re.compile(r"[0-9]{12,19}")  # ISO/IEC 7812-1
# Tags (EMV Book 3, Annex A).
_FCI, _FCI_PROPRIETARY, _FCI_DISCRETIONARY = 0x6F, 0xA5, 0xBF0C
_ENTRY, _AID, _LABEL, _PRIORITY = 0x61, 0x4F, 0x50, 0x87
_PDOL, _PROCESSING_1, _PROCESSING_2, _AFL = 0x9F38, 0x80, 0x77, 0x94
_RECORD, _PAN, _TRACK_2 = 0x70, 0x5A, 0x57


class Contact(Protocol):
    """A card within reach."""

    def exchange(self, command: bytes) -> bytes:
        """The answer to a command, its status word last. Raises CardError where contact is lost."""


@dataclass(frozen=True, slots=True)
class CardAccount:
    """What a card says of itself."""

    number: str  # primary account number, 12 to 19 digits
    application: str  # the identifier (AID) of the application that said so, hexadecimal
    label: str  # its name for people

    @property
    def masked(self) -> str:
        return masked(self.number)


def masked(number: str) -> str:
    """A card's number as receipts show it: the first six digits and the last four."""
    return f"{number[:6]}{'•' * (len(number) - 10)}{number[-4:]}"


def expect_number(number: str, where: str) -> str:
    """The number, if it can be one (ISO/IEC 7812-1). Raises CardError, which does not show it."""
    if not _NUMBER.fullmatch(number):
        raise CardError(f"{where}: expected a card number of 12 to 19 digits")
    # Annex B (Luhn): every second digit from the right counts twice, digit by digit.
    doubled = (2 * int(digit) for digit in number[-2::-2])
    if (sum(map(int, number[-1::-2])) + sum(d // 10 + d % 10 for d in doubled)) % 10:
        raise CardError(f"{where}: the card number's check digit is wrong; read the card again")
    return number


def read_account(contact: Contact, today: date | None = None) -> CardAccount:
    """The account of the application that the card prefers among those that answer.

    today  what the card is told; None: the day in UTC

    Raises CardError where it is no payment card, contradicts itself or loses contact.
    """
    applications = _applications(_Card(contact))
    refusals = []
    for application, label in applications:
        try:
            return _read(_Card(contact), application, label, today or datetime.now(UTC).date())
        except _RefusedError as refusal:  # the terminal goes on to the next one (Book B, §3.3.3)
            refusals.append(str(refusal))
    raise CardError(f"card: no application gives an account: {'; '.join(refusals)}")


class _RefusedError(CardError):
    """The card answers a command with a status word that is not 9000."""


class _Card:
    """Commands to a card, and the whole answer to each."""

    def __init__(self, contact: Contact) -> None:
        self._contact = contact

    def ask(self, what: str, command: bytes) -> bytes:
        """The answer without its status word. Raises CardError."""
        whole = b""
        status = 0
        for _ in range(CARD_ANSWER_PARTS_MAX):
            answer = self._contact.exchange(command)
            if len(answer) < 2:
                raise CardError(
                    f"card: {what}: {len(answer)} octets where a status was expected; hold the "
                    "card still and read it again"
                )
            status = int.from_bytes(answer[-2:])
            if status >> 8 == 0x6C:  # the same again, with this length (ISO 7816-4 §5.6)
                command = command[:-1] + answer[-1:]
                continue
            whole += answer[:-2]
            if status >> 8 != 0x61:
                break
            command = bytes((0x00, 0xC0, 0x00, 0x00, answer[-1]))  # the rest of it: GET RESPONSE
        else:
            raise CardError(
                f"card: {what}: no end of the answer after {CARD_ANSWER_PARTS_MAX} parts"
            )
        if status != DONE:
            raise _RefusedError(f"card: {what}: status {status:04X}, expected {DONE:04X}")
        return whole

    def select(self, what: str, name: bytes) -> bytes:
        """SELECT by name (ISO 7816-4 §7.1.1): the file control information."""
        return self.ask(what, b"\x00\xa4\x04\x00" + bytes((len(name),)) + name + b"\x00")


def _applications(card: _Card) -> list[tuple[bytes, str]]:
    """Identifier and name of each application of the directory, the preferred first."""
    where = "card: directory"
    try:
        answer = card.select("directory 2PAY.SYS.DDF01", DIRECTORY)
    except _RefusedError as refusal:
        raise CardError(f"{refusal}: not a contactless payment card") from None
    entries = tlv.found(answer, where, _FCI, _FCI_PROPRIETARY, _FCI_DISCRETIONARY)
    listed: list[tuple[int, bytes, bytes]] = []
    for tag, entry in tlv.elements(entries or b"", where):
        if tag != _ENTRY:
            continue
        if len(listed) == CARD_APPLICATIONS_MAX:
            raise CardError(f"{where}: more than {CARD_APPLICATIONS_MAX} applications")
        application = tlv.found(entry, where, _AID) or b""
        if not 5 <= len(application) <= 16:  # ISO 7816-5
            raise CardError(
                f"{where}: an application's identifier of {len(application)} octets, expected 5 "
                "to 16"
            )
        priority = (tlv.found(entry, where, _PRIORITY) or b"\x00")[-1:]
        # 1 comes first, 15 last, and 0, which is none, after them (Book 1, §12.4).
        rank = (priority[0] & 0x0F if priority else 0) or 16
        label = tlv.found(entry, where, _LABEL) or b""
        listed.append((rank, application, label))
    if not listed:
        raise CardError(f"{where}: it lists no application: not a payment card")
    listed.sort(key=lambda entry: entry[0])
    return [(application, _text(label)) for _, application, label in listed]


def _text(label: bytes) -> str:
    """A name that a card gives itself, harmless on a screen."""
    return "".join(c for c in label[:16].decode("latin-1") if c.isprintable())


def _read(card: _Card, application: bytes, label: str, today: date) -> CardAccount:
    name = application.hex().upper()
    where = f"card: application {name}"
    control = card.select(f"application {name}", application)
    wanted = tlv.found(control, where, _FCI, _FCI_PROPRIETARY, _PDOL) or b""
    files, data = _start(card, wanted, where, today)
    numbers = {number for template in data for number in _numbers(template, where)}
    for index, file, record in _records(files, where):
        if index == CARD_RECORDS_MAX:
            raise CardError(f"{where}: more than {CARD_RECORDS_MAX} records")
        what = f"application {name}: file {file}, record {record}"
        answer = card.ask(what, bytes((0x00, 0xB2, record, file << 3 | 4, 0x00)))
        numbers.update(_numbers(tlv.found(answer, where, _RECORD) or b"", where))
    if not numbers:
        raise _RefusedError(f"{where}: it names no account")
    if len(numbers) > 1:
        # Book 4 §11: what track 2 says has to be what the number says.
        raise CardError(f"{where}: it names more than one account; use another card")
    return CardAccount(expect_number(numbers.pop(), where), name, label)


def _start(
    card: _Card, wanted: bytes, where: str, today: date
) -> tuple[bytes, list[bytes]]:
    """GET PROCESSING OPTIONS (Book 3 §6.5.8): the file locator, and templates with data."""
    told = _told(wanted, where, today)
    data = b"\x83" + (b"\x81" if len(told) > 0x7F else b"") + bytes((len(told),)) + told
    command = b"\x80\xa8\x00\x00" + bytes((len(data),)) + data + b"\x00"
    answer = card.ask(f"{where.removeprefix('card: ')}: processing options", command)
    if (plain := tlv.found(answer, where, _PROCESSING_1)) is not None:
        return plain[2:], []  # two octets say what the application can do
    template = tlv.found(answer, where, _PROCESSING_2) or b""
    return tlv.found(template, where, _AFL) or b"", [template]


def _told(wanted: bytes, where: str, today: date) -> bytes:
    """What the card wants to be told before it answers, in its order (Book 3 §5.4)."""
    known = {
        # We read, online, and can prompt: the card then spends nothing of its offline limits.
        0x9F66: b"\x36\x80\x40\x00",
        0x9F1A: b"\x01\x56",  # country and currency: ISO 3166 and 4217 numbers
        0x5F2A: b"\x01\x56",
        0x9A: bytes.fromhex(f"{today:%y%m%d}"),
        0x9F37: secrets.token_bytes(4),
        0x9F35: b"\x22",  # attended, online with offline capability
    }
    told = b""
    for tag, length in tlv.lengths(wanted, f"{where}: data object list"):
        # All others are zeros; longer ones are filled up, shorter ones cut.
        told += known.get(tag, b"")[:length].ljust(length, b"\x00")
    if len(told) > 0xFC:  # with its header it has to fit one command
        raise CardError(f"{where}: it asks for {len(told)} octets, expected at most 252")
    return told


def _records(files: bytes, where: str) -> Iterator[tuple[int, int, int]]:
    """A running index, file and record of each that the locator names (Book 3 §10.2)."""
    if len(files) % 4:
        raise CardError(f"{where}: file locator of {len(files)} octets, expected entries of 4")
    index = 0
    for at in range(0, len(files), 4):
        file, first, last, _ = files[at : at + 4]
        if file & 0x07 or not 1 <= file >> 3 <= 30 or not 1 <= first <= last:
            raise CardError(
                f"{where}: file locator: expected a file of 1 to 30 and records in order, got "
                f"{files[at : at + 4].hex()}"
            )
        for record in range(first, last + 1):
            yield index, file >> 3, record
            index += 1


def _numbers(template: bytes, where: str) -> Iterator[str]:
    """Account numbers of a template: of the number itself and of track 2 (Book 3, Annex A)."""
    for tag, value in tlv.elements(template, where):
        if tag == _PAN:
            yield value.hex().upper().rstrip("F")
        elif tag == _TRACK_2:
            yield value.hex().upper().partition("D")[0].rstrip("F")
