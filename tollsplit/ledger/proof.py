"""Proofs: one account's period, checked without the ledger that it comes from."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ..errors import IdentityError, MissingError, ProofError
from . import merkle, period
from .calendar import Calendar
from .items import LEAF, Leaf, digest_of_lines, leaf_of
from .period import SignedHead, head_of
from .statement import (
    NOT_COVERED,
    ChargeLine,
    Entry,
    Origin,
    Statement,
    TaxLine,
    UsageLine,
    add_origin,
)
from .store import OCTET, Store, compact, currency_of, instant_at, is_own

PROOF = "tollsplit.proof/1"
# Of each kind of item its fields, by type: a whole number, a text, shares; "?": or null.
_FIELDS = {
    "posting": "s i i i s i s i? s? s? s? s i",
    "record": "s i s s i i? i? s s? s i? s? s? s i i i i i shares i i i s",
    "charge": "s i i i s s i i i s i? i",
    "tax": "s i i s s s i s i",
    "uncollected": "s i i i i s s i",
}
_SHARES, _PAID = 19, 20  # places in a record
_TIMED = ("posting", "uncollected")  # their third field is their link's time


@dataclass(frozen=True, slots=True)
class Proof:
    """What a sponsor or subscriber is given: his period's items, and how they lead to what was
    signed.
    """

    signed: SignedHead
    leaf: Leaf
    index: int  # the leaf's place, from 0
    path: tuple[str, ...]  # hashes that lead to the root, hexadecimal, the lowest first
    items: tuple[tuple[Any, ...], ...]  # in order; the first field is their kind

    @property
    def text(self) -> str:
        """The file: JSON, each item on a line of its own, in the very text that is hashed."""
        leaf = self.leaf.text
        lines = [
            f'{{"schema":"{PROOF}",',
            f'"head":{self.signed.head.text},',
            f'"public_key":"{self.signed.public_key}",',
            f'"signature":"{self.signed.signature}",',
            f'"leaf":{leaf},',
            f'"index":{self.index},',
            f'"path":{compact(self.path)},',
            '"items":[',
            ",\n".join(map(compact, self.items)),
            "]}",
        ]
        return "\n".join(line for line in lines if line) + "\n"

    @property
    def statement(self) -> Statement:
        """The statement that the items come to: what was booked in the period, by day of usage."""
        return _statement(self)


def make(store: Store, account: str, of_period: str) -> Proof:
    """See Ledger.prove."""
    signed, accounts = period.place(store, of_period)
    head = signed.head
    names = [name for name, _ in accounts]
    if account not in names:
        raise MissingError(
            f'{store.url}: account "{account}" has no posting up to the end of {head.title}'
        )
    leaf, lines = leaf_of(store, head.first_link, head.last_link, account)
    index = names.index(account)
    hashes = [digest for _, digest in accounts]
    if merkle.leaf_hash(leaf.text) != hashes[index] or merkle.root(hashes).hex() != head.root:
        raise IdentityError(
            f'{store.url}: account "{account}" in {head.title}: the rows are not those that were '
            "signed; see `tollsplit ledger verify`"
        )
    path = tuple(digest.hex() for digest in merkle.path(hashes, index))
    return Proof(signed, leaf, index, path, tuple(_frozen(json.loads(line)) for line in lines))


def read(text: str, name: str) -> Proof:
    """A proof from its file's text. Raises ProofError where it is none."""
    try:
        found = json.loads(text)
        if found["schema"] != PROOF:
            raise ValueError(f"expected schema {PROOF}, got {found['schema']!r}")
        leaf, account, units, items, digest = found["leaf"]
        _expect("s s i s i", (leaf, account, items, digest, found["index"]))
        if leaf != LEAF:
            raise ValueError(f"expected a leaf of schema {LEAF}, got {leaf!r}")
        for unit in units:
            _expect("s i i", unit)
        for beside in found["path"]:
            _expect("s", [beside])
        return Proof(
            _signed_head(found), Leaf(account, tuple(map(tuple, units)), items, digest),
            found["index"], tuple(found["path"]), tuple(map(_frozen, found["items"])),
        )  # fmt: skip
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ProofError(
            f"{name}: expected a file as `tollsplit statement --proof` writes it: {error!r}"
        ) from error


def read_kept(text: str, name: str) -> SignedHead | Proof:
    """A proof, or a signed head alone. Raises ProofError."""
    try:
        found = json.loads(text)
        return read(text, name) if "items" in found else _signed_head(found)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ProofError(f"{name}: expected a signed head or a proof: {error!r}") from error


def _signed_head(found: Any) -> SignedHead:
    _expect("s s", (found["public_key"], found["signature"]))
    return SignedHead(head_of(found["head"]), found["public_key"], found["signature"])


def _frozen(item: list[Any]) -> tuple[Any, ...]:
    _expect(_FIELDS[item[0]], item)
    return tuple(item)


def _expect(types: str, values: Sequence[Any]) -> None:
    """Raises ValueError where values are not of those types."""
    names = types.split()
    if len(values) != len(names):
        raise ValueError(f"expected {len(names)} fields, got {len(values)}")
    for name, value in zip(names, values, strict=True):
        if name == "shares":
            for share in value:
                _expect("s i", share)
        elif value is None:
            if not name.endswith("?"):
                raise ValueError("expected a value, got null")
        elif type(value) is not (str if name[0] == "s" else int):
            raise ValueError(f"expected {'text' if name[0] == 's' else 'a number'}, got {value!r}")


# --- checking ---------------------------------------------------------------------------


def astray(
    proof: Proof, public_key: str, is_signed: Callable[[str, str, str], bool]
) -> Iterator[str]:
    """What of a proof does not hold.

    public_key  the ledger's, 32 octets in hexadecimal, known from elsewhere than the proof
    """
    head, leaf = proof.signed.head, proof.leaf
    if not is_signed(head.text, public_key, proof.signed.signature):
        yield f"head of {head.title}: it is not signed by this public key, or it was changed"
    lines = [compact(item) for item in proof.items]
    if leaf.items != len(lines):
        yield f"items: {leaf.items} are in the leaf, {len(lines)} in the proof"
    if leaf.digest != digest_of_lines(lines):
        yield "items: one was changed, removed, added or moved: their digest is not the leaf's"
    if not _is_under(proof):
        yield f'leaf of account "{leaf.account}": its path does not lead to the signed root'
    yield from _sums(proof)
    yield from _places(proof)


def _is_under(proof: Proof) -> bool:
    head = proof.signed.head
    try:
        path = [bytes.fromhex(digest) for digest in proof.path]
    except ValueError:
        return False
    leaf = merkle.leaf_hash(proof.leaf.text)
    found = merkle.root_by_path(leaf, proof.index, head.accounts, path)
    return found is not None and found.hex() == head.root


def _sums(proof: Proof) -> Iterator[str]:
    """Balances go from opening to closing by the postings; usage is posted as it was recorded."""
    posted: dict[str, int] = defaultdict(int)
    due: dict[tuple[int, str], int] = defaultdict(int)
    of_usage: dict[tuple[int, str], int] = defaultdict(int)
    is_payer = not is_own(proof.leaf.account)
    for number, item in enumerate(proof.items):
        link = item[1]
        if item[0] == "posting":
            kind, unit, amount = item[4], item[-2], item[-1]
            posted[unit] += amount
            if kind == "usage" and is_payer:
                of_usage[link, unit] += amount
        elif item[0] == "charge":
            due[link, item[5]] += item[8]
        elif item[0] == "tax":
            due[link, item[5]] += item[6]
        elif item[0] == "uncollected":
            due[link, item[-2]] -= item[-1]
        else:
            due[link, OCTET] += item[_PAID]
            octets, paid = item[15] + item[17], item[18] + sum(n for _, n in item[_SHARES])
            if octets != paid:
                yield f"item {number}, a record: {octets} octets metered, {paid} split among payers"
    units = {unit: (opening, closing) for unit, opening, closing in proof.leaf.units}
    for unit in sorted(posted.keys() | units.keys()):
        opening, closing = units.get(unit, (0, 0))
        if opening + posted[unit] != closing:
            yield (
                f"{unit}: opening {opening} and postings of {posted[unit]} don't add up to "
                f"closing {closing}"
            )
    for link, unit in sorted(due.keys() | of_usage.keys()):
        if due[link, unit] + of_usage[link, unit]:
            what = "records" if unit == OCTET else "charges and taxes"
            yield (
                f"link {link}: {of_usage[link, unit]} posted in {unit}, its {what} less what is "
                f"uncollected sum to {due[link, unit]}"
            )


def _places(proof: Proof) -> Iterator[str]:
    head = proof.signed.head
    for number, item in enumerate(proof.items):
        if not head.first_link <= item[1] <= head.last_link:
            yield f"item {number}: link {item[1]} is not in the period"
        elif item[0] in _TIMED and not head.start_ns <= item[2] < head.end_ns:
            yield f"item {number}: its time is not in the period"


def follows(proof: Proof, before: Proof) -> Iterator[str]:
    """What keeps a proof from being that of the period right after another one."""
    head, earlier = proof.signed.head, before.signed.head
    if head.previous != earlier.digest:
        yield f"{head.title} does not follow {earlier.title}: its head names another one before it"
    if proof.leaf.account != before.leaf.account:
        yield f'account "{proof.leaf.account}": the earlier proof is of "{before.leaf.account}"'
        return
    closing = {unit: amount for unit, _, amount in before.leaf.units}
    for unit, opening, _ in proof.leaf.units:
        if opening != closing.pop(unit, 0):
            yield f"{unit}: it opens with {opening}, {earlier.title} closed with another balance"
    yield from (f"{unit}: it was there in {earlier.title}, and is missing" for unit in closing)


def unlike(store: Store, kept: Proof) -> Iterator[str]:
    """Rows of a ledger that are not those of a proof that somebody kept."""
    head = kept.signed.head
    _, found = leaf_of(store, head.first_link, head.last_link, kept.leaf.account)
    place = f'account "{kept.leaf.account}" in {head.title}'
    items, rows = {compact(item): item for item in kept.items}, dict.fromkeys(found)
    for line, item in items.items():
        if line not in rows:
            yield f"{place}: {_name(item)} was proved and is gone or altered: it was {line}"
    for line in rows:
        if line not in items:
            yield f"{place}: {_name(json.loads(line))} is not the proved one: it is {line}"


def _name(item: Sequence[Any]) -> str:
    if item[0] == "record":
        return f"record {item[4]} of {item[2]} (epoch {item[3]})"
    if item[0] == "charge":
        return f"charge {item[3]} of link {item[1]}"
    if item[0] == "tax":
        return f'tax "{item[3]}" on charge {item[2]} of link {item[1]}'
    if item[0] == "uncollected":
        return f"what transaction {item[3]} did not collect in {item[-2]}"
    return f"the posting of transaction {item[3]} in {item[-2]}"


# --- the statement ----------------------------------------------------------------------


def _statement(proof: Proof) -> Statement:
    head = proof.signed.head
    calendar = Calendar(head.zone, head.period)
    day = calendar.day_of
    charges: dict[tuple[date, str, str], list[int]] = defaultdict(lambda: [0] * 4)
    transactions: dict[tuple[date, str, str], list[int]] = defaultdict(list)
    taxes: dict[tuple[date, str, str], int] = defaultdict(int)
    entries: list[Entry] = []
    is_payer = not is_own(proof.leaf.account)
    for item in proof.items:
        if item[0] == "charge":
            charged = day(item[11]), item[4], currency_of(item[5]) or item[5]
            figures = (1, *item[6:9])
            charges[charged] = [a + b for a, b in zip(charges[charged], figures, strict=True)]
            transactions[charged].append(item[2])
        elif item[0] == "tax":
            taxes[day(item[8]), item[3], currency_of(item[5]) or item[5]] += item[6]
        elif item[0] == "uncollected":
            entries.append(Entry(
                instant_at(item[2]), f"{NOT_COVERED}{item[5]}", item[-2], item[-1], item[3]
            ))  # fmt: skip
        elif item[0] == "posting" and not (is_payer and item[4] == "usage"):
            entries.append(Entry(instant_at(item[2]), item[6], item[-2], item[-1], item[3]))
    return Statement(
        proof.leaf.account, head.period, head.zone, calendar.start, calendar.end,
        {unit: opening for unit, opening, _ in proof.leaf.units},
        {unit: closing for unit, _, closing in proof.leaf.units},
        tuple(_usage(proof, calendar)),
        tuple(
            ChargeLine(*of, *(*charges[of], min(transactions[of]), max(transactions[of])))
            for of in sorted(charges)
        ),
        tuple(TaxLine(*of, amount) for of, amount in sorted(taxes.items())),
        tuple(entries),
    )  # fmt: skip


def _usage(proof: Proof, calendar: Calendar) -> Iterator[UsageLine]:
    usage: dict[tuple[date, str | None], list[int]] = defaultdict(lambda: [0] * 7)
    sponsors: dict[tuple[date, str | None], dict[str, int]] = defaultdict(dict)
    origins: dict[tuple[date, str | None], dict[tuple[str, str], Origin]] = defaultdict(dict)
    for item in proof.items:
        if item[0] != "record":
            continue
        first = item[21] if item[5] is None else item[5]
        line = calendar.day_of(first), item[8]
        figures = (1, *item[14:19], item[_PAID])
        usage[line] = [a + b for a, b in zip(usage[line], figures, strict=True)]
        for identity, octets in item[_SHARES]:
            sponsors[line][identity] = sponsors[line].get(identity, 0) + octets
        add_origin(origins[line], Origin(item[2], item[3], item[4], item[4], 1))
    for line in sorted(usage, key=lambda line: (line[0], line[1] is None, line[1] or "")):
        records, uplink_packets, uplink, downlink_packets, downlink, subscriber, paid = usage[line]
        yield UsageLine(
            *line, records, uplink_packets, uplink, downlink_packets, downlink, subscriber,
            sponsors[line], paid, tuple(origins[line][key] for key in sorted(origins[line])),
        )  # fmt: skip
