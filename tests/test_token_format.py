"""A token's octets: vectors, binding, every bit, every length; and what the document says."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest

from tollsplit.errors import TokenError
from tollsplit.limits import TOKEN_LIFETIME_S_MAX, TOKENS_USED_MAX
from tollsplit.rules.prefixes import prefix
from tollsplit.tokens import carrier, token
from tollsplit.tokens.keys import Key, Keys
from tollsplit.tokens.token import Binding, octets_of, text_of
from tollsplit.tokens.verdict import Refusal, judge, mint

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "tokens.md").read_text("utf-8")
EXPIRES_S = 1_800_000_000
NOW_NS = (EXPIRES_S - 60) * 10**9
KEY = Key("video", 1, bytes(range(32)))
KEYS = Keys([KEY])
HERE = prefix("10.0.0.7")
SERVERS = prefix("203.0.113.0/24")


def binding(subscriber: str, server: str, length: int = 0) -> Binding:
    own, other = prefix(subscriber), prefix(server)
    return Binding(own.version, own.value, length or {4: 32, 6: 64}[own.version], other.value)


def by_hand(head: bytes, sponsor: str, version: int, length: int, own: int, server: int) -> bytes:
    """The MAC as docs/tokens.md describes it, without the package."""
    message = b"tollsplit sponsored data token 1" + hashlib.sha256(sponsor.encode()).digest() + head
    message += bytes([version, length]) + own.to_bytes(16, "big") + server.to_bytes(16, "big")
    assert len(message) == 118
    return hmac.digest(bytes(range(32)), message, "sha256")[:16]


TOKEN = mint(KEY, HERE, SERVERS, EXPIRES_S)
BINDING = binding("10.0.0.7", "203.0.113.9")


def test_token_vectors_of_the_document_are_what_is_minted() -> None:
    found = re.findall(r"subscriber +(\S+)\nserver +(\S+)\nnonce +(\S+)\ntoken +(\S+)\n"
                       r"text +(\S+)", DOCUMENT)  # fmt: skip
    assert len(found) == 2
    for subscriber, server, nonce, octets, text in found:
        made = mint(KEY, prefix(subscriber), prefix(server), EXPIRES_S, bytes.fromhex(nonce))
        assert (made.hex(), text_of(made)) == (octets, text)
        assert octets_of(text) == octets_of(octets) == made


def test_token_document_names_every_figure_of_the_program() -> None:
    for refusal in Refusal:
        assert f"`{refusal.word}`" in DOCUMENT
    assert f"`{token.LABEL.decode()}`" in DOCUMENT
    assert f"`{carrier.MAGIC.hex(' ')}`" in DOCUMENT
    assert f"`0x{carrier.OPTION_TYPE:02X}`" in DOCUMENT
    assert f"`0x{carrier.EXTENSION_TYPE:04X}`" in DOCUMENT
    assert f"`{carrier.HEADER}`" in DOCUMENT
    assert f"{TOKENS_USED_MAX:,}" in DOCUMENT
    assert TOKEN_LIFETIME_S_MAX == 24 * 3600


def test_token_mac_is_what_the_document_describes() -> None:
    assert TOKEN[20:] == by_hand(
        TOKEN[:20], "video", 4, 32, 0x0A000007, 0xCB007100)  # fmt: skip
    made = mint(KEY, prefix("2001:db8:7::/64"), prefix("2001:db8:80::/41"), EXPIRES_S)
    server = int.from_bytes(bytes.fromhex("20010db800800000") + bytes(8), "big")
    own = int.from_bytes(bytes.fromhex("20010db800070000") + bytes(8), "big")
    assert made[20:] == by_hand(made[:20], "video", 6, 64, own, server)
    assert judge(made, binding("2001:db8:7::1:2", "2001:db8:ff::1"), KEYS, NOW_NS) == KEY


def test_token_opens_a_flow_with_every_server_of_its_prefix() -> None:
    for server in ("203.0.113.0", "203.0.113.9", "203.0.113.255"):
        assert judge(TOKEN, binding("10.0.0.7", server), KEYS, NOW_NS) == KEY


@pytest.mark.parametrize(
    "subscriber, server, length",
    [
        ("10.0.0.8", "203.0.113.9", 32),  # another subscriber
        ("10.0.0.7", "203.0.112.9", 32),  # another server
        ("203.0.113.9", "10.0.0.7", 32),  # the other way round
        ("10.0.0.7", "203.0.113.9", 31),  # a pool where two addresses are one subscriber
        ("::a00:7", "::cb00:7109", 32),  # the same numbers, another version of IP
        ("::ffff:10.0.0.7", "::ffff:203.0.113.9", 128),
    ],
)
def test_token_of_other_ends_has_a_wrong_mac(subscriber: str, server: str, length: int) -> None:
    assert judge(TOKEN, binding(subscriber, server, length), KEYS, NOW_NS) == Refusal.WRONG_MAC


@pytest.mark.parametrize("made, at", [
    (TOKEN, BINDING),
    (mint(KEY, prefix("2001:db8:7::/64"), prefix("2001:db8:80::1"), EXPIRES_S),
     binding("2001:db8:7::5", "2001:db8:80::1")),
], ids=["ipv4", "ipv6"])  # fmt: skip
def test_token_with_any_bit_changed_is_refused(made: bytes, at: Binding) -> None:
    assert judge(made, at, KEYS, NOW_NS) == KEY
    for bit in range(len(made) * 8):
        changed = bytearray(made)
        changed[bit // 8] ^= 0x80 >> bit % 8
        found = judge(bytes(changed), at, KEYS, NOW_NS)
        expected = {Refusal.WRONG_MAC}
        if bit < 16:
            expected = {Refusal.MALFORMED, Refusal.WRONG_MAC}
        elif bit < 64:
            expected = {Refusal.UNKNOWN_KEY}
        assert found in expected, bit


def test_token_of_any_other_length_is_malformed() -> None:
    for length in (*range(36), 37, 72):
        assert judge((TOKEN * 2)[:length], BINDING, KEYS, NOW_NS) == Refusal.MALFORMED


@pytest.mark.parametrize("version", [0, 2, 255])
def test_token_of_another_version_is_malformed(version: int) -> None:
    assert judge(bytes([version]) + TOKEN[1:], BINDING, KEYS, NOW_NS) == Refusal.MALFORMED


@pytest.mark.parametrize("length", [0, 33, 128, 129, 255])
def test_token_with_a_server_prefix_that_is_none_is_malformed(length: int) -> None:
    """Signed by the sponsor himself: nobody is everybody's server."""
    head = TOKEN[:1] + bytes([length]) + TOKEN[2:20]
    server = 0 if length == 0 else 0xCB007109
    made = head + by_hand(head, "video", 4, 32, 0x0A000007, server)
    assert judge(made, BINDING, KEYS, NOW_NS) == Refusal.MALFORMED


def test_token_times_are_half_open() -> None:
    second = 10**9
    for at_ns, expected in (
        ((EXPIRES_S - TOKEN_LIFETIME_S_MAX) * second - 1, Refusal.TOO_EARLY),
        ((EXPIRES_S - TOKEN_LIFETIME_S_MAX) * second, KEY),
        (EXPIRES_S * second - 1, KEY),
        (EXPIRES_S * second, Refusal.EXPIRED),
    ):
        assert judge(TOKEN, BINDING, KEYS, at_ns) == expected


def test_token_of_a_key_out_of_its_validity_is_refused() -> None:
    early, late = NOW_NS - 10**9, NOW_NS + 10**9
    for valid_from, valid_to, is_good in (
        (None, NOW_NS, False), (late, None, False), (NOW_NS, late, True), (early, None, True),
    ):  # fmt: skip
        key = Key("video", 1, bytes(range(32)), valid_from, valid_to)
        found = judge(TOKEN, BINDING, Keys([key]), NOW_NS)
        assert found == (key if is_good else Refusal.KEY_NOT_VALID)


def test_token_made_with_another_secret_is_refused() -> None:
    keys = Keys([Key("video", 1, bytes(32))])
    assert judge(TOKEN, BINDING, keys, NOW_NS) == Refusal.WRONG_MAC


def test_token_made_with_another_sponsors_key_is_refused() -> None:
    """Who has a key of his own and writes another sponsor's name into the token."""
    music = Key("music", 1, bytes(range(1, 33)))
    made = mint(music, HERE, SERVERS, EXPIRES_S)
    forged = made[:4] + TOKEN[4:8] + made[8:]
    keys = Keys([KEY, music])
    assert judge(made, BINDING, keys, NOW_NS) == music
    assert judge(forged, BINDING, keys, NOW_NS) == Refusal.WRONG_MAC
    assert judge(made, BINDING, KEYS, NOW_NS) == Refusal.UNKNOWN_KEY


def test_token_times_are_not_told_before_the_mac_holds() -> None:
    forged = TOKEN[:-1] + bytes([TOKEN[-1] ^ 1])
    assert judge(forged, BINDING, KEYS, 0) == Refusal.WRONG_MAC
    assert judge(forged, BINDING, KEYS, EXPIRES_S * 10**9) == Refusal.WRONG_MAC


@pytest.mark.parametrize("subscriber, server, complaint", [
    ("10.0.0.7", "2001:db8::/32", "one version of IP"),
    ("10.0.0.7", "0.0.0.0/0", "everybody"),
])  # fmt: skip
def test_token_that_binds_nothing_is_not_minted(
    subscriber: str, server: str, complaint: str
) -> None:
    with pytest.raises(TokenError, match=complaint):
        mint(KEY, prefix(subscriber), prefix(server), EXPIRES_S)


@pytest.mark.parametrize("text", ["", "A" * 47, "A" * 49, "A" * 47 + "=", "A" * 47 + "+",
                                  "é" * 48, "0" * 71, "g" * 72, "A" * 47 + "\n"])  # fmt: skip
def test_token_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(TokenError, match="expected a token of 48 characters"):
        octets_of(text)


def test_token_two_of_one_second_differ() -> None:
    assert mint(KEY, HERE, SERVERS, EXPIRES_S) != TOKEN


def test_token_carriers_are_what_the_standards_say() -> None:
    option = carrier.option(TOKEN)
    # RFC 8200 §4.2, §4.6: a multiple of 8 octets, filled by PadN
    assert option == b"\x00\x05\x1e\x28\xf1tok" + TOKEN + b"\x01\x02\x00\x00"
    assert carrier.prefix(TOKEN) == b"\xf1tok" + TOKEN
    assert carrier.extension(TOKEN) == b"\xff\x70\x00\x24" + TOKEN
    assert carrier.header(TOKEN) == "Sponsored-Data-Token: " + text_of(TOKEN)
