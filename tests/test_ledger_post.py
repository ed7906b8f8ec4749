"""Transactions that other programs hand in: `tollsplit ledger post`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import tollsplit

from tollsplit.errors import PostingError
from tollsplit.ledger import Provenance, Transfer, open_ledger, read_transfers
from tollsplit.model import Posting

MONEY = "CNY/1000000"


def line(key: str = "k1", amount: int = 300, **more: object) -> str:
    postings = [{"account": "bank", "unit": MONEY, "amount": -amount},
                {"account": "alice", "unit": MONEY, "amount": amount}]
    return json.dumps({"key": key, "kind": "top-up", "postings": postings} | more)


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/books.db"
    with open_ledger(found) as book:
        book.open_account("bank", MONEY, "settlement")
        book.open_account("alice", MONEY, "subscriber", floor=0)
    return found


def held(url: str) -> int:
    with open_ledger(url) as book:
        assert book.verify().findings == ()
        return book.balance("alice", MONEY).balance


def test_post_books_each_once_from_a_file_and_from_standard_input(
    url: str, tmp_path: Path
) -> None:
    path = tmp_path / "payments.jsonl"
    path.write_text("".join(f"{line(f'k{number}', number + 1)}\n\n" for number in range(9_000)))
    done = tollsplit("ledger", "post", "--ledger", url, path)
    assert (done.returncode, done.stdout) == (0, "9,000 booked, 0 were booked before\n")
    again = tollsplit("ledger", "post", "--ledger", url, input=f"{line('k7', 8)}\n{line('new')}")
    assert (again.returncode, again.stdout) == (0, "1 booked, 1 were booked before\n")
    assert held(url) == 9_000 * 9_001 // 2 + 300


@pytest.mark.parametrize(("bad", "code", "message"), [
    ("{", 3, "standard input: line 2: "),
    (line(amount=0), 1, "posting of nothing"),
    (line("k0", 1), 1, "its key was used"),
    (line("k2", -400), 1, "alice"),  # below her floor
    (json.dumps({"key": "k2", "kind": "top-up", "postings": [
        {"account": "bank", "unit": MONEY, "amount": 1}]}), 4, "sum to 1"),
])  # fmt: skip
def test_post_is_all_or_none(url: str, bad: str, code: int, message: str) -> None:
    assert tollsplit("ledger", "post", "--ledger", url, input=line("k0")).returncode == 0
    refused = tollsplit("ledger", "post", "--ledger", url, input=f"{line('k1', 50)}\n{bad}\n")
    assert (refused.returncode, refused.stdout) == (code, "")
    assert message in refused.stderr
    assert held(url) == 300


def test_post_of_a_file_that_is_not_there(url: str, tmp_path: Path) -> None:
    refused = tollsplit("ledger", "post", "--ledger", url, tmp_path / "none.jsonl")
    assert refused.returncode == 3
    assert "none.jsonl: cannot be read" in refused.stderr


def test_transfers_are_read_as_they_stand() -> None:
    lines = [line(description="€ for Älice", service_request="r7").encode(), b"\r\n"]
    assert list(read_transfers(lines, "here")) == [Transfer(
        "k1", "top-up", (Posting("bank", MONEY, -300), Posting("alice", MONEY, 300)),
        "€ for Älice", Provenance("r7"))]  # fmt: skip


@pytest.mark.parametrize("bad", [
    b"[]", b"7", b'"x"', b"\xff", b"[" * 100_000, line(note="x").encode(),
    line(key="").encode(), line(kind=7).encode(), line(description="\0").encode(),
    line(postings=None).encode(), line(postings=[7]).encode(),
    line(postings=[{"account": "a", "unit": "octet"}]).encode(),
    line(postings=[{"account": "a", "unit": "octet", "amount": 1.0}]).encode(),
    line(postings=[{"account": "a", "unit": "octet", "amount": True}]).encode(),
    line(postings=[{"account": "a", "unit": "octet", "amount": 2**63}]).encode(),
    line(postings=[{"account": "\ud800", "unit": "octet", "amount": 1}]).encode(),
    b'{"key": "a", "key": "b", "kind": "c", "postings": []}',
], ids=str)  # fmt: skip
def test_transfers_that_are_none_are_named_by_their_line(bad: bytes) -> None:
    with pytest.raises(PostingError, match=r"^here: line 2: "):
        list(read_transfers([line().encode(), bad], "here"))
