"""Smart cards: what is read of honest ones, and that hostile ones are refused, all of them."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    pan,
    tlv,
    track_2,
)
from tollsplit.errors import CardError
from tollsplit.services.card import CardAccount, expect_number, masked, read_account
from tollsplit.services.card_reader import card_in_reader

TODAY = date(2026, 11, 29)
SELECT = b"\x00\xa4\x04\x00"
DIRECTORY = SELECT + b"\x0e2PAY.SYS.DDF01\x00"
OPTIONS, RECORD = b"\x80\xa8", b"\x00\xb2"


def read(card: VirtualCard) -> CardAccount:
    return read_account(card, TODAY)


def card_of(**parts: object) -> VirtualCard:
    return VirtualCard([Application(**parts)])  # type: ignore[arg-type]


def test_card_account_is_read_by_directory_application_and_records() -> None:
    card = VirtualCard()
    assert read(card) == CardAccount(NUMBER, VISA.hex().upper(), "VISA DEBIT")
    assert [command[:4] for command in card.heard] == [
        SELECT, SELECT, b"\x80\xa8\x00\x00", b"\x00\xb2\x01\x14", b"\x00\xb2\x02\x14"]  # fmt: skip
    assert card.heard[0] == DIRECTORY
    told = card.heard[2]
    # Lc, template 83, then: qualifiers, amount 0, four unpredictable octets, currency, date
    assert told[4:7] == bytes((21, 0x83, 19)) and told[-1:] == b"\x00"
    assert told[7:11] == b"\x36\x80\x40\x00" and told[11:17] == bytes(6)
    assert told[21:26] == b"\x01\x56\x26\x11\x29"


def test_card_unpredictable_number_changes() -> None:
    told = set()
    for _ in range(3):
        card = VirtualCard()
        read(card)
        told.add(card.heard[2][17:21])
    assert len(told) == 3


WAYS = {
    "format 1": {"processing": tlv(0x80, b"\x20\x00\x10\x01\x02\x00")},
    "number alone": {"records": {(2, 1): tlv(0x70, pan()), (2, 2): tlv(0x70)}},
    "track 2 alone": {"records": {(2, 1): tlv(0x70, track_2()), (2, 2): tlv(0x70)}},
    "in the answer to processing options": {
        "processing": tlv(0x77, tlv(0x82, b"\x20\x00"), track_2()), "records": {}},
    "no data object list": {"control": b""},
    "padding between elements": {
        "records": {(2, 1): b"\x00\x00" + tlv(0x70, b"\x00", pan(), b"\x00"), (2, 2): tlv(0x70)}},
    "unknown elements": {
        "records": {(2, 1): tlv(0x70, tlv(0xDF8101, b"?"), pan(), tlv(0x8C, bytes(130))),
                    (2, 2): tlv(0x70)}},
}  # fmt: skip


@pytest.mark.parametrize("parts", WAYS.values(), ids=WAYS)
def test_card_account_is_found_wherever_cards_keep_it(parts: dict[str, object]) -> None:
    assert read(card_of(**parts)).number == NUMBER


@pytest.mark.parametrize("number", [NUMBER, "378282246310005", "6304000000000000"])
def test_card_number_of_any_length_is_read(number: str) -> None:
    card = card_of(records={(2, 1): tlv(0x70, pan(number)), (2, 2): tlv(0x70, track_2(number))})
    assert read(card).number == number


def test_card_preferred_application_comes_first_and_none_last() -> None:
    def application(name: bytes, priority: bytes, number: str) -> Application:
        return Application(name, priority, records={
            (2, 1): tlv(0x70, pan(number)), (2, 2): tlv(0x70)})  # fmt: skip

    third = bytes.fromhex("a0000003330101")
    card = VirtualCard([
        application(third, b"", "6200000000000005"),
        application(MASTERCARD, tlv(0x87, b"\x82"), OTHER_NUMBER),  # 2, to be confirmed
        application(VISA, tlv(0x87, b"\x01"), NUMBER),
    ])
    assert read(card).number == NUMBER
    # One that does not answer is passed over.
    assert read(VirtualCard(card.applications, {SELECT + b"\x07" + VISA: REFUSED})).number \
        == OTHER_NUMBER
    assert read(VirtualCard(card.applications, {
        SELECT + b"\x07" + VISA: REFUSED, SELECT + b"\x07" + MASTERCARD: REFUSED,
    })).application == third.hex().upper()  # fmt: skip


def test_card_answer_in_parts_is_put_together() -> None:
    """T=0: 61xx says how much more there is, 6Cxx how much was to be asked for."""
    whole = tlv(0x70, pan())
    card = card_of(records={(2, 2): tlv(0x70)})
    card.replies = {
        b"\x00\xb2\x01\x14\x00": b"\x6c\x0c", b"\x00\xb2\x01\x14\x0c": whole[:5] + b"\x61\x07",
        b"\x00\xc0\x00\x00\x07": whole[5:] + DONE,
    }  # fmt: skip
    assert read(card).number == NUMBER


REFUSALS = {
    "no directory": ({}, {DIRECTORY: b"\x6a\x82"}, "status 6A82.*not a contactless payment card"),
    "directory without entries": ({}, {DIRECTORY: tlv(0x6F, tlv(0x84, b"2")) + DONE},
                                  "lists no application"),
    "identifier too short": ({"name": b"\xa0\x00"}, {}, "identifier of 2 octets"),
    "all applications refuse": ({}, {OPTIONS: REFUSED}, "status 6985"),
    "a record refused": ({"records": {}}, {}, "status 6A83"),
    "no account anywhere": ({"records": {(2, 1): tlv(0x70), (2, 2): tlv(0x70)}}, {},
                            "names no account"),
    "number and track 2 differ": (
        {"records": {(2, 1): tlv(0x70, pan()), (2, 2): tlv(0x70, track_2(OTHER_NUMBER))}}, {},
        "more than one account"),
    "check digit wrong": (
        {"records": {(2, 1): tlv(0x70, pan("4111111111111112")), (2, 2): tlv(0x70)}}, {},
        "check digit"),
    "number too short": (
        {"records": {(2, 1): tlv(0x70, pan("41111")), (2, 2): tlv(0x70)}}, {}, "12 to 19 digits"),
    "number is not decimal": (
        {"records": {(2, 1): tlv(0x70, tlv(0x5A, bytes.fromhex("4111a11111111111"))),
                     (2, 2): tlv(0x70)}}, {}, "12 to 19 digits"),
    "length beyond the answer": ({}, {RECORD: b"\x70\x7f\x5a\x08" + DONE}, "127 octets announced"),
    "length of indefinite form": ({}, {RECORD: b"\x70\x80" + DONE}, "length of 0 octets"),
    "length of four octets": ({}, {RECORD: b"\x70\x84\xff\xff\xff\xff" + DONE},
                              "length of 4 octets"),
    "tag without end": ({}, {RECORD: b"\x7f\xff\xff\xff\xff" + DONE}, "tag beyond 3 octets"),
    "tag cut off": ({}, {RECORD: b"\x5f" + DONE}, "inside a tag"),
    "no length": ({}, {RECORD: b"\x70" + DONE}, "before a length"),
    "list cut off": ({"control": tlv(0x9F38, b"\x9f\x66")}, {}, "list ends before its length"),
    "asks for too much": ({"control": tlv(0x9F38, b"\x9f\x66\xff")}, {}, "asks for 255 octets"),
    "locator cut off": ({"processing": tlv(0x77, tlv(0x94, b"\x10\x01\x02"))}, {},
                        "entries of 4"),
    "locator of file 0": ({"processing": tlv(0x77, tlv(0x94, b"\x00\x01\x02\x00"))}, {},
                          "file of 1 to 30"),
    "locator backwards": ({"processing": tlv(0x77, tlv(0x94, b"\x10\x03\x01\x00"))}, {},
                          "records in order"),
    "status alone is cut": ({}, {RECORD: b"\x90"}, "1 octets where a status"),
    "nothing at all": ({}, {RECORD: b""}, "0 octets where a status"),
}


@pytest.mark.parametrize(("parts", "replies", "said"), REFUSALS.values(), ids=REFUSALS)
def test_card_that_makes_no_sense_is_refused(
    parts: dict[str, object], replies: dict[bytes, bytes], said: str
) -> None:
    card = card_of(**parts)
    card.replies = replies
    with pytest.raises(CardError, match=said) as refusal:
        read(card)
    assert NUMBER not in str(refusal.value)


ENDLESS = {
    "parts of an answer": ({}, {RECORD: b"\x61\x10", b"\x00\xc0": b"\x61\x10"}, "no end"),
    "other lengths": ({}, {RECORD: b"\x6c\x10"}, "no end"),
    "records": ({"processing": tlv(0x77, tlv(0x94, b"\x10\x01\xff\x00" * 40))},
                {RECORD: tlv(0x70) + DONE}, "more than 64 records"),
}


@pytest.mark.parametrize(("parts", "replies", "said"), ENDLESS.values(), ids=ENDLESS)
def test_card_that_never_ends_is_ended(
    parts: dict[str, object], replies: dict[bytes, bytes], said: str
) -> None:
    card = card_of(**parts)
    card.replies = replies
    with pytest.raises(CardError, match=said):
        read(card)
    assert len(card.heard) < 80


def test_card_with_too_many_applications_is_refused() -> None:
    card = VirtualCard([Application(bytes((0xA0, 0, 0, 0, n))) for n in range(17)])
    with pytest.raises(CardError, match="more than 16 applications"):
        read(card)


def test_card_truncated_anywhere_is_refused() -> None:
    """Every answer cut at every octet, with a good status behind it."""
    whole = VirtualCard()
    read(whole)
    answers = {command: VirtualCard(selected=whole.selected).exchange(command)[:-2]
               for command in whole.heard}  # fmt: skip
    cuts = 0
    for command, answer in answers.items():
        for size in range(1, len(answer)):
            with pytest.raises(CardError):
                read(VirtualCard(replies={command[:4] + command[4:5]: answer[:size] + DONE}
                                 if command[1] != 0xA8 else {OPTIONS: answer[:size] + DONE}))
            cuts += 1
    assert cuts > 100


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(
    st.sampled_from([DIRECTORY, SELECT + b"\x07", OPTIONS, RECORD]),
    st.one_of(
        st.binary(max_size=60).map(lambda octets: octets + DONE), st.binary(max_size=8),
        st.binary(max_size=40).map(lambda octets: tlv(0x70, tlv(0x5A, octets)) + DONE),
    ), min_size=1,
))  # fmt: skip
def test_card_that_says_anything_is_read_or_refused(replies: dict[bytes, bytes]) -> None:
    try:
        account = read(VirtualCard(replies=replies))
    except CardError:
        return
    assert expect_number(account.number, "") == account.number


def test_card_label_is_harmless_on_a_screen() -> None:
    assert read(card_of(label=b"\x1b[2JEVIL\r\n\x00CARD")).label == "[2JEVILCARD"


def test_card_number_is_masked_as_on_receipts() -> None:
    assert masked(NUMBER) == "411111••••••1111"
    assert digits(NUMBER).hex() not in masked(NUMBER)


@pytest.mark.parametrize("number", ["4111111111111112", "411111111111111", "", "\uff14" * 16])
def test_card_number_that_is_none_is_refused_and_not_shown(number: str) -> None:
    with pytest.raises(CardError) as refusal:
        expect_number(number, "request")
    assert not number or number not in str(refusal.value)


# --- through PC/SC ----------------------------------------------------------------------


def test_card_in_a_reader_is_read(reader: Reader) -> None:
    card = VirtualCard()
    with reader.holding(card.exchange), card_in_reader(wait_s=10) as contact:
        assert read_account(contact, TODAY) == CardAccount(NUMBER, VISA.hex().upper(), "VISA DEBIT")


def test_card_taken_away_while_it_is_read_is_said(reader: Reader) -> None:
    card = VirtualCard(replies={RECORD: b""})  # it is out from then on
    with reader.holding(card.exchange), card_in_reader(wait_s=10) as contact:
        with pytest.raises(CardError, match="hold the card still"):
            read_account(contact, TODAY)
        with pytest.raises(CardError, match="contact was lost"):
            contact.exchange(DIRECTORY)


def test_card_that_does_not_come_is_not_waited_for_forever(reader: Reader) -> None:
    with pytest.raises(CardError, match=r"none within 0\.1 s"), card_in_reader(wait_s=0.1):
        pass


def test_card_reader_that_is_not_there_is_named(reader: Reader) -> None:
    with (
        pytest.raises(CardError, match='no reader "Pinpad"; there is: Virtual PCD 00 00'),
        card_in_reader("Pinpad"),
    ):
        pass
