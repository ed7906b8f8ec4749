"""Proof: closed periods are signed, and statements are checked without the ledger."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bookings import DAY3, HOUR, MONEY, charge, record, run_of
from databases import Database
from proofs import (
    DECEMBER,
    SPONSOR,
    TAX,
    Clock,
    book_november,
    closed,
    findings,
    moved,
)

from tollsplit.cli import main
from tollsplit.errors import LedgerError, MissingError, ProofError, StateError
from tollsplit.ledger import Ledger, Transfer, merkle, open_ledger, proof
from tollsplit.ledger import period as periods
from tollsplit.ledger.signing import Signer, make_keys, read_public_key, read_signer
from tollsplit.ledger.store import instant_ns

# --- closing and proving ----------------------------------------------------------------


def test_proof_of_a_sponsor_holds_without_the_ledger(
    ledger: Ledger, clock: Clock, signer: Signer, keys: Path
) -> None:
    book_november(ledger)
    found = closed(ledger, clock, signer)
    assert findings(found, keys) == []
    assert ledger.verify(public_key=signer.public_key).findings == ()
    kinds = [item[0] for item in found.items]
    assert kinds == ["posting", "posting", "record", "record", "charge", "tax", "uncollected",
                     "posting", "posting", "posting", "posting"]  # fmt: skip
    assert found.leaf.units == ((MONEY, 0, -200 - 500 + 60), ("octet", 0, -1_400))
    statement = found.statement
    assert dict(statement.closing) == {MONEY: -640, "octet": -1_400}
    assert [line.paid_octets for line in statement.usage] == [1_400]
    assert [line.amount_micros for line in statement.charges] == [203]
    assert [line.amount_micros for line in statement.taxes] == [26]
    assert [entry.amount for entry in statement.entries] == [29, -500, -1, 1, 60]
    assert statement == ledger.statement(SPONSOR, "2026-11")  # nothing was late


def test_proof_of_every_account_leads_to_the_same_root(
    ledger: Ledger, clock: Clock, signer: Signer, keys: Path
) -> None:
    book_november(ledger)
    root = closed(ledger, clock, signer).signed.head.root
    # To remainders nothing was posted.
    names = {b.account for b in ledger.balances() if b.kind != "remainder"}
    proofs = [ledger.prove(name, "2026-11") for name in sorted(names)]
    assert len(proofs) == len(names) == proofs[0].signed.head.accounts == 7
    for found in proofs:
        assert found.signed.head.root == root and findings(found, keys) == []
    assert sorted(found.index for found in proofs) == list(range(len(proofs)))
    alice = next(found for found in proofs if found.leaf.account == "alice")
    assert [line.paid_octets for line in alice.statement.usage] == [600]
    for account, amount in (
        ("operator:traffic", 2_000), ("operator:uncollected", -29), ("tax:vat", 26)
    ):  # fmt: skip
        own = next(found for found in proofs if found.leaf.account == account)
        assert [entry.amount for entry in own.statement.entries] == [amount]
        assert own.statement == ledger.statement(account, "2026-11")


def test_proof_of_who_could_pay_nothing_shows_what_he_owes(
    ledger: Ledger, clock: Clock, signer: Signer, keys: Path
) -> None:
    """No posting is his; all that he used and owes is in his proof."""
    ledger.open_account("alice", MONEY, "subscriber", floor=0)
    ledger.open_account("alice", "octet", "subscriber")
    ledger.close_account("alice", "octet")
    ledger.post(run_of(), [record(0)], [charge(87, taxes=(TAX,))])
    closed(ledger, clock, signer)
    found = ledger.prove("alice", "2026-11")
    assert findings(found, keys) == []
    assert [item[0] for item in found.items] == [
        "record", "charge", "tax", "uncollected", "uncollected"]
    assert found.leaf.units == ()
    assert [(e.unit, e.amount) for e in found.statement.entries] == [(MONEY, 113), ("octet", 300)]


def test_proof_of_what_is_not_there_is_refused(
    ledger: Ledger, clock: Clock, signer: Signer
) -> None:
    book_november(ledger)
    with pytest.raises(MissingError, match="2026-11 is not closed; `tollsplit ledger close`"):
        ledger.prove(SPONSOR, "2026-11")
    closed(ledger, clock, signer)
    with pytest.raises(MissingError, match='"nobody" has no posting up to the end of 2026-11'):
        ledger.prove("nobody", "2026-11")


def test_close_waits_for_the_end_and_comes_once_and_in_order(
    ledger: Ledger, clock: Clock, signer: Signer
) -> None:
    clock.now = DECEMBER - HOUR
    with pytest.raises(StateError, match="ends at 2026-12-01T00:00:00Z; it is 2026-11-30T23:00"):
        ledger.close_period("2026-11", signer)
    with pytest.raises(LedgerError, match="expected a month"):
        ledger.close_period("November", signer)
    clock.now = DECEMBER + timedelta(days=40)
    ledger.close_period("2026-11", signer)
    with pytest.raises(StateError, match="was closed at 2027-01-10T00:00:00Z already"):
        ledger.close_period("2026-11", signer)
    for period, zone in (("2026-10", None), ("2027-01", None), ("2026-12", "Asia/Shanghai")):
        with pytest.raises(StateError, match="close what follows it first, in its zone"):
            ledger.close_period(period, signer, zone)
    ledger.close_period("2026-12-01", signer)  # days may follow months
    ledger.close_period("2026-12-02", signer)
    assert [s.head.period for s in ledger.closed_periods()] == [
        "2026-11", "2026-12-01", "2026-12-02"]
    assert ledger.verify().findings == ()


def test_close_of_an_empty_ledger_is_signed_too(
    ledger: Ledger, clock: Clock, signer: Signer
) -> None:
    clock.now = DECEMBER
    head = ledger.close_period("2026-10", signer).head  # the ledger was not there yet
    assert (head.first_link, head.last_link, head.accounts, head.previous) == (1, 0, 0, None)
    assert ledger.verify().findings == ()


def test_usage_that_comes_late_stands_in_the_period_that_booked_it(
    ledger: Ledger, clock: Clock, signer: Signer, keys: Path
) -> None:
    book_november(ledger)
    november = closed(ledger, clock, signer)
    ledger.post(run_of("e2"), [record(epoch="e2")], [])  # of 3 November
    assert ledger.prove(SPONSOR, "2026-11") == november
    clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    december = closed(ledger, clock, signer, "2026-12")
    assert findings(december, keys) == []
    [line] = december.statement.usage
    assert (line.day, line.paid_octets) == (DAY3.date(), 700)
    assert list(proof.follows(december, november)) == []
    assert list(proof.follows(november, december)) != []


def test_clock_that_steps_back_books_nothing_into_a_closed_period(
    ledger: Ledger, clock: Clock, signer: Signer, keys: Path
) -> None:
    book_november(ledger)
    november = closed(ledger, clock, signer)
    clock.now = DAY3  # back
    ledger.transfer(Transfer("late", "payment", moved(7)))
    ledger.post(run_of("e2"), [record(epoch="e2")], [charge(5, SPONSOR)])
    assert ledger.prove(SPONSOR, "2026-11") == november
    clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    december = closed(ledger, clock, signer, "2026-12")
    assert findings(december, keys) == []
    posting = december.items[0]
    assert posting[5] == instant_ns(DAY3) < december.signed.head.start_ns <= posting[2]
    assert ledger.verify().findings == ()


def test_close_with_what_came_in_meanwhile(
    database: Database, clock: Clock, signer: Signer, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Booked in November by another's clock, after it was added up and before it was closed."""
    behind = Clock(DECEMBER - HOUR)
    with open_ledger(database.url, clock_ns=clock) as ledger, \
            open_ledger(database.url, clock_ns=behind) as other:
        book_november(ledger)
        add_up = periods.sum_up

        def slow(*arguments: Any) -> periods.Sum:
            found = add_up(*arguments)
            other.transfer(Transfer("meanwhile", "payment", moved(9)))
            return found

        monkeypatch.setattr(periods, "sum_up", slow)
        found = closed(ledger, clock, signer)
        assert found.items[-1][-1] == -9
        other.transfer(Transfer("after", "payment", moved(3)))  # its clock says November still
        assert ledger.prove(SPONSOR, "2026-11") == found
        assert findings(found, keys) == [] and ledger.verify().findings == ()


def test_close_while_runs_are_booked(
    database: Database, clock: Clock, signer: Signer, keys: Path
) -> None:
    clock.now = DECEMBER + HOUR
    failures: list[BaseException] = []
    with open_ledger(database.url, clock_ns=clock) as ledger:
        ledger.post(run_of("e0"), [record(epoch="e0")], [])

    def book(name: str) -> None:
        try:
            with open_ledger(database.url, clock_ns=clock) as ledger:
                for number in range(8):
                    epoch = f"{name}{number}"
                    ledger.post(run_of(epoch), [record(epoch=epoch)], [charge(1, SPONSOR)])
        except BaseException as error:
            failures.append(error)

    def close() -> None:
        try:
            with open_ledger(database.url, clock_ns=clock) as ledger:
                for day in range(1, 9):
                    ledger.close_period(f"2026-11-{day:02}", signer)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=book, args=(name,)) for name in "ab"]
    threads.append(threading.Thread(target=close))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    with open_ledger(database.url, clock_ns=clock) as ledger:
        assert len(ledger.closed_periods()) == 8
        assert ledger.verify().findings == ()


# --- the tree ---------------------------------------------------------------------------

# Leaves and the roots over the first of them, of Certificate Transparency's own test suite.
RFC_LEAVES = ["", "\0", "\x10", " !", "01", "@ABC", "PQRSTUVW", "`abcdefghijklmno"]
RFC_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_tree_has_the_roots_that_others_compute() -> None:
    hashes = [merkle.leaf_hash(text) for text in RFC_LEAVES]
    assert [merkle.root(hashes[:count]).hex() for count in range(9)] == RFC_ROOTS


def test_tree_path_leads_from_its_leaf_alone_to_the_root() -> None:
    for count in range(1, 34):
        hashes = [merkle.leaf_hash(str(number)) for number in range(count)]
        root = merkle.root(hashes)
        for index, leaf in enumerate(hashes):
            path = merkle.path(hashes, index)
            for claimed in range(-1, count + 2):
                found = merkle.root_by_path(leaf, claimed, count, path)
                assert (found == root) == (claimed == index), (count, index, claimed)
            assert merkle.root_by_path(leaf, index, count, [*path, root]) is None
            if path:
                assert merkle.root_by_path(leaf, index, count, path[:-1]) is None


# --- keys and the command line ----------------------------------------------------------


def test_keys_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.key"
    public = make_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_signer(path).public_key == read_public_key(public)
    with pytest.raises(ProofError, match="there already"):
        make_keys(path)
    path.chmod(0o640)
    with pytest.raises(ProofError, match="others may read this private key; run chmod 600"):
        read_signer(path)
    with pytest.raises(ProofError, match="expected a public key"):
        read_public_key(path)
    with pytest.raises(ProofError, match=r"cannot be read: No such file or directory$"):
        read_public_key(tmp_path / "none")


def test_command_line_closes_proves_and_checks(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    url = ("--ledger", "sqlite:///ledger.db")
    clock.now = datetime(2020, 11, 3, tzinfo=UTC)  # the command line has the machine's clock
    with open_ledger(url[1], clock_ns=clock) as ledger:
        book_november(ledger)
    assert main(["ledger", "keygen", "--key", "ledger.key"]) == 0
    close = ["ledger", "close", *url, "--period", "2020-11", "--key", "ledger.key"]
    assert main([*close, "--output", "head.json"]) == 0
    assert main(close) == 1
    prove = ["statement", *url, "--account", SPONSOR, "--period", "2020-11", "--proof", "p.json"]
    assert main([*prove, "--format", "json", "--output", "statement.json"]) == 0
    assert main(["statement", *url, "--proof", "p.json"]) == 2
    assert main([*prove, "--records"]) == 2
    check = ["ledger", "check-proof", "p.json", "--public-key", "ledger.key.pub"]
    capsys.readouterr()
    assert main([*check, "--statement", "statement.json"]) == 0
    said = capsys.readouterr().out
    assert f'exactly these were booked of account "{SPONSOR}": ' in said
    assert "2 records, 1 charges, 1 taxes, 1 uncollected amounts, 6 postings." in said
    assert "octet: 0 at the start, -1,400 at the end" in said
    verify = ["ledger", "verify", *url, "--public-key", "ledger.key.pub"]
    assert main([*verify, "--head", "head.json", "--head", "p.json"]) == 0
    assert main([*check, "--after", "p.json"]) == 4
    assert "2020-11 (UTC) does not follow 2020-11 (UTC)" in capsys.readouterr().err
    statement = json.loads(Path("statement.json").read_text("utf-8"))
    statement["usage"][0]["paid_octets"] -= 1
    Path("statement.json").write_text(json.dumps(statement), "utf-8")
    capsys.readouterr()
    assert main([*check, "--statement", "statement.json"]) == 4
    assert "statement.json: usage line 1: paid_octets: 1399, the proof comes to 1400" in (
        capsys.readouterr().err)
    assert main(["ledger", "check-proof", "ledger.key", "--public-key", "ledger.key.pub"]) == 3


def test_command_line_says_what_is_missing_without_cryptography(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    monkeypatch.delitem(sys.modules, "tollsplit.ledger.signing")
    monkeypatch.delattr("tollsplit.ledger.signing")
    assert main(["ledger", "keygen", "--key", str(tmp_path / "key")]) == 1
    assert "pip install 'tollsplit[proof]'" in capsys.readouterr().err
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        assert ledger.verify().holds  # nothing is signed yet


def test_proof_checks_with_other_programs(
    tmp_path: Path, clock: Clock, signer: Signer, keys: Path
) -> None:
    """The items' digest with sha256sum alone: each line of the file is the text that is hashed."""
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock_ns=clock) as ledger:
        book_november(ledger)
        found = closed(ledger, clock, signer)
    (tmp_path / "proof.json").write_text(found.text, "utf-8")
    ran = subprocess.run(
        "sed -n '/^\"items\"/,$p' proof.json | grep '^\\[' | sed 's/,$//' | sha256sum",
        shell=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split()[0] == found.leaf.digest


@pytest.mark.parametrize("command", ["keygen", "verify"])
def test_library_that_is_missing_is_named(
    command: str, tmp_path: Path, clock: Clock, signer: Signer
) -> None:
    """Where periods are closed, verify needs it too."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with open_ledger(url, clock_ns=clock) as ledger:
        book_november(ledger)
        closed(ledger, clock, signer)
    arguments = {"keygen": ["--key", str(tmp_path / "key")], "verify": ["--ledger", url]}[command]
    program = ("import sys; sys.modules['cryptography'] = None; from tollsplit.cli import main; "
               "sys.exit(main(sys.argv[1:]))")
    ran = subprocess.run([sys.executable, "-c", program, "ledger", command, *arguments],
                         capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("tollsplit: ")
    assert ran.stderr.endswith("install cryptography: pip install 'tollsplit[proof]'\n")
