"""Keys that tokens are minted and checked with, and the files that hold them."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from pathlib import Path

from ..errors import RulesError, TokenError
from ..limits import TOKEN_KEYS_MAX, TOKEN_KEYS_OCTETS_MAX
from ..rules import units
from ..rules.document import Document, Table
from ..rules.prefixes import Instants
from ..rules.rule import RuleSet, sponsor_digest
from ..rules.units import listed, nearest, shown
from .token import KEY_IDS, LABEL, MAC_OCTETS, SPONSOR_OCTETS, Binding, bound

SECRET_OCTETS = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one sponsor, good from one instant up to another, in ns; None: without limit."""

    sponsor: str
    id: int
    secret: bytes = field(repr=False)
    valid_from_ns: int | None = None
    valid_to_ns: int | None = None
    _prepared: hmac.HMAC = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        begun = hmac.new(self.secret, LABEL + sponsor_digest(self.sponsor), "sha256")
        object.__setattr__(self, "_prepared", begun)

    @property
    def name(self) -> bytes:
        """Its id and its sponsor as they stand in a token."""
        return self.id.to_bytes(2, "big") + sponsor_digest(self.sponsor)[:SPONSOR_OCTETS]

    def is_valid(self, at_ns: int) -> bool:
        return (self.valid_from_ns is None or self.valid_from_ns <= at_ns) and (
            self.valid_to_ns is None or at_ns < self.valid_to_ns)

    def mac(self, head: bytes, binding: Binding) -> bytes:
        """HMAC-SHA-256, truncated (RFC 2104 §5). Raises ValueError as `bound` does."""
        begun = self._prepared.copy()
        begun.update(bound(head, binding))
        return begun.digest()[:MAC_OCTETS]


class Keys:
    """The keys of one or several sponsors."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._known: dict[bytes, Key] = {}
        self._secrets: dict[bytes, Key] = {}
        self._sponsors: dict[bytes, str] = {}
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._known.values())

    def add(self, key: Key) -> None:
        """One more. Raises ValueError where it is not told apart from another."""
        if len(self) == TOKEN_KEYS_MAX:
            raise ValueError(f"expected at most {TOKEN_KEYS_MAX:,} keys")
        if key.name in self._known:
            raise ValueError(f"{shown(key.sponsor)} has a key {key.id} already")
        rival = self._sponsors.setdefault(key.name[2:], key.sponsor)
        if rival != key.sponsor:
            raise ValueError(
                f"{shown(key.sponsor)} and {shown(rival)} have the same four octets in a token: "
                "rename one of them")
        known = self._secrets.setdefault(key.secret, key)
        if known is not key:
            raise ValueError(f"its secret is that of key {known.id} of {shown(known.sponsor)}")
        self._known[key.name] = key

    @property
    def sponsors(self) -> frozenset[str]:
        return frozenset(self._sponsors.values())

    def of(self, octets: bytes) -> Key | None:
        """The key that a token names; it still has to prove it."""
        return self._known.get(octets[2:8])

    def newest(self, sponsor: str, at_ns: int, key_id: int | None = None) -> Key:
        """A sponsor's valid key that became so last, or the one with that id. Raises TokenError."""
        own = [key for key in self if key.sponsor == sponsor]
        if not own:
            raise TokenError(f"{shown(sponsor)} has no key{nearest(sponsor, self.sponsors)}")
        valid = [key for key in own if key.is_valid(at_ns) and key_id in (None, key.id)]
        if not valid:
            found = "no key that is valid now" if key_id is None else f"no valid key {key_id}"
            raise TokenError(
                f"{shown(sponsor)} has {found}; make one with: tollsplit token keygen")
        return max(valid, key=lambda key: (key.valid_from_ns or 0, key.id))


def read_keys(paths: Iterable[str | os.PathLike[str]]) -> Keys:
    """The keys of some files. Raises RulesError, also where others may read such a file."""
    keys = Keys()
    for path in paths:
        _take(keys, os.fspath(path), _read(path))
    return keys


def keys_of(rules: RuleSet) -> Keys:
    """The keys that a rule set's tokens are checked with; none where no rule asks for tokens.

    Raises RulesError, also where a sponsor whose tokens a rule asks for has no key.
    """
    asked = {sponsor: rule for rule in rules.rules for sponsor in rule.match.token or ()}
    if not asked:
        return Keys()
    home = Path(rules.path).parent
    keys = read_keys(home / name for name in rules.token_keys)
    for sponsor, rule in asked.items():
        if sponsor not in keys.sponsors:
            raise RulesError(
                f"{rules.path}:{rule.line}: rule {shown(rule.id)}: {shown(sponsor)} has no key in "
                f"{listed(rules.token_keys)}; make one with: tollsplit token keygen")
    return keys


def add_key(
    path: Path, sponsor: str, valid_from_ns: int | None = None, valid_to_ns: int | None = None
) -> Key:
    """Write a new key of a sponsor into a file, for its owner's eyes alone; make the file where
    there is none. Raises RulesError.
    """
    content = _read(path) if path.exists() else _HEAD
    used = {key.id for key in _take(Keys(), str(path), content) if key.sponsor == sponsor}
    later = range(max(used, default=0) + 1, len(KEY_IDS))
    key_id = next((number for number in chain(later, KEY_IDS) if number not in used), None)
    if key_id is None:
        raise RulesError(f"{path}: {shown(sponsor)} has all {len(KEY_IDS):,} keys; remove old ones")
    key = Key(sponsor, key_id, secrets.token_bytes(SECRET_OCTETS), valid_from_ns, valid_to_ns)
    content += _block(key)
    _take(Keys(), str(path), content)  # a name that TOML does not know is found now
    _write(path, content)
    return key


_HEAD = b"# Keys for tokens of sponsored data. Whoever reads them can spend the sponsors' money.\n"


def _block(key: Key) -> bytes:
    lines = ["", "[[keys]]", f"sponsor = {json.dumps(key.sponsor, ensure_ascii=False)}",
             f"id = {key.id}", f'secret = "{urlsafe_b64encode(key.secret).decode()}"']  # fmt: skip
    for name, at_ns in (("valid_from", key.valid_from_ns), ("valid_to", key.valid_to_ns)):
        if at_ns is not None:
            lines.append(f"{name} = {_EPOCH + timedelta(microseconds=at_ns // 1000):%FT%T.%fZ}")
    return "\n".join([*lines, ""]).encode()


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            # Of the file that was opened: its name may be another's by now.
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise RulesError(
                    f"{path}: others may read these keys or change them; run chmod 600 on it")
            content = file.read(TOKEN_KEYS_OCTETS_MAX + 1)
    except OSError as error:
        raise RulesError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > TOKEN_KEYS_OCTETS_MAX:
        raise RulesError(f"{path}: expected at most {TOKEN_KEYS_OCTETS_MAX:,} octets")
    return content


def _write(path: Path, content: bytes) -> None:
    """Put a whole file in place of the one before."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except FileExistsError as error:
        raise RulesError(
            f"{fresh}: there already: somebody makes a key now, or did not end; then remove it"
        ) from error
    except OSError as error:
        raise RulesError(f"{path}: cannot be written: {error.strerror}") from error


def _take(keys: Keys, name: str, content: bytes) -> Keys:
    """Add what a file holds. Raises RulesError with a line for each fault."""
    document = Document(name, {"": content})
    for table in document.root.tables("keys", lambda number, _: f"key {number}"):
        key = _key(table)
        table.close()
        if key is not None:
            try:
                keys.add(key)
            except ValueError as error:
                table.error(str(error))
    document.root.close()
    document.finish()
    return keys


def _key(table: Table) -> Key | None:
    sponsor = table.require("sponsor", units.string, None)
    key_id = table.require("id", units.integer(KEY_IDS[0], KEY_IDS[-1]), None)
    secret = table.require("secret", _secret, None)
    valid_from_ns = table.read("valid_from", _instant, None)
    valid_to_ns = table.read("valid_to", _instant, None)
    if valid_from_ns is not None and valid_to_ns is not None and valid_from_ns >= valid_to_ns:
        table.error('expected it behind "valid_from"', "valid_to")
    if sponsor is None or key_id is None or secret is None:
        return None
    return Key(sponsor, key_id, secret, valid_from_ns, valid_to_ns)


def _secret(value: object) -> bytes:
    """A secret's octets. What was found instead is not repeated: messages are logged."""
    try:
        octets = b64decode(value, b"-_", validate=True) if isinstance(value, str) else b""
    except ValueError:
        octets = b""
    if len(octets) != SECRET_OCTETS:
        raise ValueError(f"expected {SECRET_OCTETS} octets in base64url, as `token keygen` makes "
                         "them")
    return octets


def _instant(value: object) -> int | None:
    text = value.isoformat() if isinstance(value, date) else units.string(value)
    return Instants("UTC").read(text)
