"""Files of keys: what stands in them, who may read them, and how keys take each other's place."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tollsplit.errors import RulesError, TokenError
from tollsplit.rules.rule import sponsor_digest
from tollsplit.tokens import keys as module
from tollsplit.tokens.keys import Key, Keys, add_key, read_keys

SECOND_NS = 1_000_000_000
SECRET = base64.urlsafe_b64encode(bytes(range(32))).decode()


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return path


def entry(sponsor: str = "video", key_id: int = 1, secret: str = SECRET, more: str = "") -> str:
    return f'[[keys]]\nsponsor = "{sponsor}"\nid = {key_id}\nsecret = "{secret}"\n{more}\n'


def test_keys_that_are_made_are_read(tmp_path: Path) -> None:
    path = tmp_path / "video.keys"
    made = [add_key(path, "video"), add_key(path, 'mu"sic \\ ü', 5 * SECOND_NS, 7_500_000_000),
            add_key(path, "video")]  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600
    found = {(key.sponsor, key.id): key for key in read_keys([path])}
    assert found == {(key.sponsor, key.id): key for key in made}
    assert [(key.sponsor, key.id) for key in made] == [
        ("video", 1), ('mu"sic \\ ü', 1), ("video", 2)]
    assert made[0].secret != made[2].secret
    assert len(made[0].secret) == 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o610])
def test_keys_that_others_may_read_or_change_are_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "video.keys", entry())
    assert len(read_keys([path])) == 1
    path.chmod(mode)
    with pytest.raises(RulesError, match="chmod 600"):
        read_keys([path])
    with pytest.raises(RulesError, match="chmod 600"):
        add_key(path, "video")


def test_keys_hide_their_secrets(tmp_path: Path) -> None:
    key = read_keys([write(tmp_path / "a", entry())]).newest("video", 0)
    assert key.secret.hex() not in repr(key) and "secret" not in repr(key)
    assert repr(key.secret) not in repr(key)


@pytest.mark.parametrize("secret", ["AAAA", "", SECRET[:-4], SECRET + "AAAA", "ü" * 44, "?" * 44])
def test_keys_messages_do_not_repeat_a_secret(tmp_path: Path, secret: str) -> None:
    path = write(tmp_path / "a", entry(secret=secret))
    with pytest.raises(RulesError, match=r'a:4: key 1: key "secret": expected 32') as caught:
        read_keys([path])
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize("text, complaint", [
    (entry() + entry(), r':6: key 2: "video" has a key 1 already'),
    (entry() + entry(key_id=2), r":6: key 2: its secret is that of key 1"),
    (entry() + entry("music"), r':6: key 2: its secret is that of key 1 of "video"'),
    (entry(key_id=65_536), r':3: key 1: key "id": expected a number 0..65535'),
    (entry(more="valid_from = 2026-11-02\nvalid_to = 2026-11-02"), "behind"),
    (entry(more='valid_to = "tomorrow"'), "expected an instant"),
    (entry(more="valid_too = 1"), r'unknown key "valid_too"'),
    ("[[keys]]\n", r'key "sponsor" is missing'),
    ("keys = 7\n", "expected a table"),
    ("[[key]]\n", 'unknown key "key"; did you mean "keys"'),
    ("\x00", "not valid TOML"),
])  # fmt: skip
def test_keys_file_says_what_is_wrong_and_where(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(RulesError, match=complaint):
        read_keys([write(tmp_path / "a", text)])


def test_keys_of_several_files_are_told_apart(tmp_path: Path) -> None:
    first = write(tmp_path / "a", entry())
    add_key(tmp_path / "b", "music")
    assert read_keys([first, tmp_path / "b"]).sponsors == {"video", "music"}
    with pytest.raises(RulesError, match='c:1: key 1: "video" has a key 1 already'):
        read_keys([first, write(tmp_path / "c", entry())])


def test_keys_of_sponsors_that_a_token_confuses_are_refused(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "sponsor_digest", lambda name: b"same" + sponsor_digest(name))
    keys = Keys([Key("video", 1, bytes(32))])
    with pytest.raises(ValueError, match="the same four octets"):
        keys.add(Key("music", 2, bytes(range(32))))


def test_keys_file_that_is_missing_or_huge_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RulesError, match="cannot be read: No such file"):
        read_keys([tmp_path / "none"])
    monkeypatch.setattr(module, "TOKEN_KEYS_OCTETS_MAX", 100)
    with pytest.raises(RulesError, match="at most 100 octets"):
        read_keys([write(tmp_path / "a", entry() + "#" * 100)])
    monkeypatch.undo()
    monkeypatch.setattr(module, "TOKEN_KEYS_MAX", 1)
    add_key(tmp_path / "b", "video")
    with pytest.raises(RulesError, match="at most 1 keys"):
        add_key(tmp_path / "b", "video")
    assert len(read_keys([tmp_path / "b"])) == 1


def test_keys_are_not_lost_where_another_is_being_made(tmp_path: Path) -> None:
    path = tmp_path / "a"
    add_key(path, "video")
    before = path.read_bytes()
    fresh = tmp_path / "a.new"
    fresh.touch()
    with pytest.raises(RulesError, match="there already"):
        add_key(path, "video")
    assert path.read_bytes() == before
    fresh.unlink()
    assert add_key(path, "video").id == 2


def test_keys_newest_is_the_one_that_became_valid_last() -> None:
    keys = Keys([
        Key("video", 1, bytes([1] * 32), None, 100), Key("video", 2, bytes([2] * 32), 50, 200),
        Key("video", 3, bytes([3] * 32), 90, None), Key("music", 4, bytes([4] * 32)),
    ])  # fmt: skip
    for at_ns, expected in ((0, 1), (49, 1), (50, 2), (89, 2), (90, 3), (10**18, 3)):
        assert keys.newest("video", at_ns).id == expected
    assert keys.newest("video", 60, 1).id == 1
    with pytest.raises(TokenError, match="no valid key 1"):
        keys.newest("video", 100, 1)
    with pytest.raises(TokenError, match="no key that is valid now"):
        Keys([Key("video", 1, bytes(32), 10)]).newest("video", 9)
    with pytest.raises(TokenError, match='"vidoe" has no key; did you mean "video"'):
        keys.newest("vidoe", 0)


def test_keys_ids_go_on_until_all_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEY_IDS", range(3))
    ids = [add_key(tmp_path / "a", "video").id for _ in range(3)]
    assert ids == [1, 2, 0]
    with pytest.raises(RulesError, match="remove old ones"):
        add_key(tmp_path / "a", "video")
