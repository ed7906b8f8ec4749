"""What the operator agreed with sponsors: settings that are read, and that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sessions import BEHAVIOUR, policy


def test_session_by_a_permission_that_was_not_agreed_is_refused(tmp_path: Path) -> None:
    from tollsplit.services.claim import Payee
    from tollsplit.services.sponsorship import SessionPolicy

    found = policy(tmp_path, permissions=["behaviour"])
    assert isinstance(found, SessionPolicy)
    assert found.of_payee(Payee("shop.example", 443)) is None
    assert found.of_behaviour(BEHAVIOUR) is not None


@pytest.mark.parametrize(("more", "message"), [
    ({"proxies": []}, "at least one"), ({"payees": ["shop.example"]}, "expected HOST:PORT"),
    ({"proxies": ["proxy.example:80"]}, "IPv4 or IPv6"), ({"tags": ["dscp=99"]}, "dscp=0..63"),
    ({"tags": ["dscp=1", "flow_label"]}, "tags of one kind"), ({"color": "red"}, "color"),
    ({"lifetime_s": 0}, ">= 1"), ({"name": "gifts"}, "a name of its own"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        policy(tmp_path, **more)
