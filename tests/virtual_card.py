"""The demo's payment card in software, and a reader for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tollsplit.cli.demo.live.virtual_card import (
    DONE,
    MASTERCARD,
    NUMBER,
    OTHER_NUMBER,
    REFUSED,
    VISA,
    Application,
    Reader,
    VirtualCard,
    digits,
    missing,
    number_of,
    pan,
    start,
    tlv,
    track_2,
)

__all__ = [
    "DONE", "MASTERCARD", "NUMBER", "OTHER_NUMBER", "REFUSED", "VISA", "Application", "Reader",
    "VirtualCard", "digits", "number_of", "pan", "tlv", "track_2",
]  # fmt: skip


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader without a card, and PC/SC of this process and its children led to it."""
    lack = missing()
    if lack:
        pytest.skip(lack)
    if "PCSCLITE_CSOCK_NAME" in os.environ:
        pytest.skip("PC/SC is led elsewhere already (PCSCLITE_CSOCK_NAME)")
    service = start(tmp_path_factory.mktemp("pcscd"))
    os.environ["PCSCLITE_CSOCK_NAME"] = str(service.socket)  # libpcsclite reads it once
    try:
        yield service
    finally:
        service.stop()
        del os.environ["PCSCLITE_CSOCK_NAME"]
