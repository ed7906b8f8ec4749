"""Cards in readers, over NFC or by contact: PC/SC, through pyscard, which is untyped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import CardError
from .card import Contact

# How long is waited at a time, so that an interrupt is heeded.
_WAIT_MS = 200


@contextmanager
def card_in_reader(reader: str | None = None, wait_s: float = 30.0) -> Iterator[Contact]:
    """A card's contact; until it ends, no other program reaches the card.

    reader  its name; None: whichever has a card first
    wait_s  how long a card is waited for

    Raises CardError.
    """
    pcsc = _pcsc()
    with _context(pcsc) as context:
        names = _readers(pcsc, context)
        if reader is not None and reader not in names:
            raise CardError(f'card: no reader "{reader}"; there is: {", ".join(names)}')
        name = _await_card(pcsc, context, names if reader is None else [reader], wait_s)
        result, card, protocol = pcsc.SCardConnect(
            context, name, pcsc.SCARD_SHARE_EXCLUSIVE,
            pcsc.SCARD_PROTOCOL_T0 | pcsc.SCARD_PROTOCOL_T1,
        )  # fmt: skip
        _expect_success(pcsc, result, "it does not answer", "hold it still and try again")
        try:
            yield _PcscContact(pcsc, card, protocol)
        finally:
            pcsc.SCardDisconnect(card, pcsc.SCARD_UNPOWER_CARD)  # a card that is gone is as well


class _PcscContact:
    """A card in a reader that is ours."""

    def __init__(self, pcsc: Any, card: Any, protocol: int) -> None:
        self._pcsc = pcsc
        self._card = card
        blocks = protocol == pcsc.SCARD_PROTOCOL_T1
        self._header = pcsc.SCARD_PCI_T1 if blocks else pcsc.SCARD_PCI_T0

    def exchange(self, command: bytes) -> bytes:
        result, answer = self._pcsc.SCardTransmit(self._card, self._header, list(command))
        _expect_success(self._pcsc, result, "contact was lost", "hold it still and read it again")
        return bytes(octet & 0xFF for octet in answer)


@contextmanager
def _context(pcsc: Any) -> Iterator[Any]:
    result, context = pcsc.SCardEstablishContext(pcsc.SCARD_SCOPE_USER)
    _expect_success(pcsc, result, "no PC/SC service", "install and start pcscd")
    try:
        yield context
    finally:
        pcsc.SCardReleaseContext(context)


def _readers(pcsc: Any, context: Any) -> Sequence[str]:
    result, names = pcsc.SCardListReaders(context, [])
    if result != pcsc.SCARD_E_NO_READERS_AVAILABLE:
        _expect_success(pcsc, result, "readers cannot be listed", "look whether pcscd runs")
    if not names:
        raise CardError("card: no reader is connected; connect one")
    return list(names)


def _await_card(pcsc: Any, context: Any, names: Sequence[str], wait_s: float) -> str:
    """The first reader with a card in it."""
    deadline = time.monotonic() + wait_s
    states = [(name, pcsc.SCARD_STATE_UNAWARE) for name in names]
    while True:
        result, found = pcsc.SCardGetStatusChange(context, _WAIT_MS, states)
        if result != pcsc.SCARD_E_TIMEOUT:
            _expect_success(pcsc, result, "the reader fails", "connect it again")
            for name, state, _ in found:
                if state & pcsc.SCARD_STATE_PRESENT and not state & pcsc.SCARD_STATE_MUTE:
                    return str(name)
            states = [(name, state) for name, state, _ in found]
        if time.monotonic() > deadline:
            raise CardError(
                f"card: none within {wait_s:g} s; hold one to the reader and try again"
            )


def _expect_success(pcsc: Any, result: int, found: str, remedy: str) -> None:
    if result != pcsc.SCARD_S_SUCCESS:
        said = pcsc.SCardGetErrorMessage(result).rstrip(".")
        raise CardError(f"card: {found} ({said}); {remedy}")


def _pcsc() -> Any:
    try:
        import smartcard.scard
    except ImportError as error:
        raise CardError(
            f"card: {error}; install pyscard: pip install 'tollsplit[card]' (it is compiled with "
            "swig and libpcsclite's headers)"
        ) from error
    return smartcard.scard
