"""`tollsplit token`: keys made, tokens minted in every form, and why one is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tollsplit.cli import main
from tollsplit.tokens.keys import add_key, read_keys
from tollsplit.tokens.token import octets_of

ENDS = ["--subscriber", "10.0.0.7", "--server", "203.0.113.9"]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "video.keys"
    assert main(["token", "keygen", "--keys", str(path), "--sponsor", "video"]) == 0
    return path


def mint(capsys: pytest.CaptureFixture[str], keys: Path, *more: str) -> str:
    capsys.readouterr()
    arguments = ["token", "mint", "--keys", str(keys), "--sponsor", "video",
                 "--subscriber", "10.0.0.7", "--server", "203.0.113.0/24", *more]  # fmt: skip
    assert main(arguments) == 0
    return capsys.readouterr().out.strip()


def check(keys: Path, token: str, *more: str) -> int:
    return main(["token", "check", "--keys", str(keys), *(more or ENDS), token])


def test_token_cli_keygen_shows_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "video.keys"
    assert main(["token", "keygen", "--keys", str(path), "--sponsor", "video"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (f'{path}: key 1 of "video"\n', "")
    assert path.stat().st_mode & 0o777 == 0o600


def test_token_cli_checks_what_it_minted(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = mint(capsys, keys)
    assert len(token) == 48
    assert check(keys, token) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        'good: "video" pays for one flow of 10.0.0.7/32 with 203.0.113.0/24 until ')


@pytest.mark.parametrize("form, before, digits", [
    ("hex", "", 72), ("prefix", "f1746f6b", 72), ("option", "00051e28f1746f6b", 72),
    ("extension", "ff700024", 72), ("header", "Sponsored-Data-Token: ", 48),
])  # fmt: skip
def test_token_cli_mints_every_form(
    keys: Path, capsys: pytest.CaptureFixture[str], form: str, before: str, digits: int
) -> None:
    shown = mint(capsys, keys, "--form", form)
    assert shown.startswith(before)
    assert check(keys, shown.removeprefix(before)[:digits]) == 0


@pytest.mark.parametrize("more, reason", [
    (["--subscriber", "10.0.0.8", "--server", "203.0.113.9"], "wrong_mac"),
    (["--subscriber", "10.0.0.7", "--server", "203.0.112.9"], "wrong_mac"),
    ([*ENDS, "--at", "2026-01-01T00:05:00Z"], "expired"),
    ([*ENDS, "--at", "2025-12-30T00:00:00Z"], "too_early"),
])  # fmt: skip
def test_token_cli_says_why_not(
    keys: Path, capsys: pytest.CaptureFixture[str], more: list[str], reason: str
) -> None:
    token = mint(capsys, keys, "--expires", "2026-01-01T00:05:00Z")
    assert check(keys, token, *more) == 1
    shown = capsys.readouterr()
    assert shown.out == f"refused: {reason}\n"
    assert shown.err.startswith("tollsplit: it")


def test_token_cli_reads_a_token_from_standard_input(
    keys: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(mint(capsys, keys) + "\n"))
    assert check(keys, "-") == 0


def test_token_cli_binds_the_prefix_of_an_ipv6_subscriber(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ["--server", "2001:db8:80::1"]
    for given, other in (("2001:db8:7::1", "2001:db8:7::ffff:2"),
                         ("2001:db8:7::/56", "2001:db8:7::/56")):  # fmt: skip
        token = mint(capsys, keys, "--subscriber", given, *server)
        assert check(keys, token, "--subscriber", other, *server) == 0
        assert check(keys, token, "--subscriber", "2001:db8:8::1", *server) == 1


@pytest.mark.parametrize("more, code", [
    (["--expires", "5"], 2), (["--expires", "0m"], 2), (["--subscriber", "me"], 2),
    (["--server", "203.0.113.9/24"], 2), (["--server", "0.0.0.0/0"], 3),
    (["--server", "2001:db8::1"], 3), (["--sponsor", "musik"], 3), (["--key", "2"], 3),
    (["--key", "65536"], 2), (["--form", "wax"], 2), (["--keys", "missing"], 3),
    (["--expires", "2200-01-01"], 3),
])  # fmt: skip
def test_token_cli_exit_codes_of_mint(keys: Path, more: list[str], code: int) -> None:
    arguments = ["token", "mint", "--keys", str(keys), "--sponsor", "video", *ENDS, *more]
    assert main(arguments) == code


def test_token_cli_exit_codes_of_check(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = mint(capsys, keys)
    assert check(keys, "nonsense") == 3
    assert check(keys.with_name("none"), token) == 3
    assert check(keys, token, *ENDS, "--at", "soon") == 2
    keys.chmod(0o644)
    assert check(keys, token) == 3
    assert "chmod 600" in capsys.readouterr().err


def test_token_cli_keys_take_each_others_place(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["token", "keygen", "--keys", str(keys), "--sponsor", "video"]
    assert main([*arguments, "--valid-from", "2001-01-01", "--valid-to", "2001-01-02"]) == 0
    assert main([*arguments, "--valid-from", "2020-01-01T00:00:00+08:00"]) == 0
    assert main([*arguments, "--valid-from", "2001-01-02", "--valid-to", "2001-01-01"]) == 2
    assert octets_of(mint(capsys, keys))[2:4] == b"\x00\x03"
    assert octets_of(mint(capsys, keys, "--key", "1"))[2:4] == b"\x00\x01"
    assert len(read_keys([keys])) == 3
    add_key(keys, "music")
    assert main([*arguments[:-1], "music"]) == 0
    assert capsys.readouterr().out.endswith('key 2 of "music"\n')
