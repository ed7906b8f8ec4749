"""A card reader for tests; the cards in it are the demo's, in software."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tollsplit.cli.demo.live.virtual_card import Reader, missing, start


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
