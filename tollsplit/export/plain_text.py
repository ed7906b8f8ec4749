"""The ledger as a journal that hledger or Beancount reads.

Each account is "<kind>:<name>", and its balance is what it holds, with the ledger's own sign:
payers' fall as they use octets and owe money. The programs' rules for names are narrower than ours,
so what they do not take is escaped, and `decode` gives the name back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, timedelta
from typing import IO

from ..ledger import Balance, Booked, Journal
from ..ledger.store import OCTET, currency_of


def escaped(text: str, mark: str, keeps: Callable[[str], bool]) -> str:
    """The text with every other character as its UTF-8 octets, "%3A" for a mark of "%"."""
    return "".join(
        char if keeps(char) else "".join(f"{mark}{octet:02X}" for octet in char.encode())
        for char in text
    )


def unescaped(text: str, mark: str) -> str:
    """The text again."""
    first, *pieces = text.split(mark)
    octets = first.encode()
    for piece in pieces:
        octets += bytes([int(piece[:2], 16)]) + piece[2:].encode()
    return octets.decode()


class Hledger:
    """hledger's journal format. Units are the commodities "octet" and currencies' codes."""

    def account(self, kind: str, name: str) -> str:
        """Colons would make a hierarchy of "2001:db8::1", two blanks end a name."""
        return f"{kind}:{escaped(name, '%', lambda c: c.isalnum() or c in '-._/@+')}"

    def decode(self, account: str) -> tuple[str, str]:
        """Kind and name."""
        kind, _, name = account.partition(":")
        return kind, unescaped(name, "%")

    def write(self, journal: Journal, stream: IO[str]) -> None:
        """Accounts, transactions in the order of booking, balances asserted at the end."""
        accounts = list(journal.accounts())
        stream.write("; The ledger's accounts hold what their balances say; payers' fall.\n")
        for commodity in sorted({_commodity(a.unit) for a in accounts}):
            form = "1000." if commodity == OCTET else "1000.000000"
            stream.write(f"commodity {form} {commodity}\n")
        for name in dict.fromkeys(self.account(a.kind, a.account) for a in accounts):
            stream.write(f"account {name}\n")
        last = date(1970, 1, 1)
        for booked in journal.transactions():
            last = max(last, booked.booked_at.date())
            stream.write(self._transaction(booked))
        if accounts:
            stream.write(f"\n{last} * balances are as booked\n")
        for balance in accounts:
            amount = quantity(balance.balance, balance.unit)
            zero = quantity(0, balance.unit)
            name = self.account(balance.kind, balance.account)
            stream.write(f"    {name}  {zero} = {amount}\n")

    def _transaction(self, booked: Booked) -> str:
        title = escaped(booked.description or booked.kind, "%", _plain)
        lines = [f"\n{booked.booked_at:%Y-%m-%d} * ({booked.number}) {title}"]
        # A comma would end a tag's value.
        lines += [f"    ; {key}:{escaped(value, '%', _plain)}" for key, value in provenance(booked)]
        lines += [
            f"    {self.account(p.kind, p.account)}  {quantity(p.amount, p.unit)}"
            for p in booked.postings
        ]
        return "\n".join(lines) + "\n"


class Beancount:
    """Beancount's input format. Units are the commodities "OCTET" and currencies' codes."""

    # A component begins with a capital or a digit; in what is escaped no "--" comes up.
    _CAPITAL = "X--"

    def account(self, kind: str, name: str) -> str:
        """All are assets: what an account holds, with the ledger's sign."""
        text = escaped(name, "-", lambda c: c.isalpha() or c.isdecimal())
        first = text[:1]
        starts = first.isupper() or first.isdecimal()
        return f"Assets:{kind.capitalize()}:{text if starts else self._CAPITAL + text}"

    def decode(self, account: str) -> tuple[str, str]:
        """Kind and name."""
        _, kind, name = account.split(":")
        return kind.lower(), unescaped(name.removeprefix(self._CAPITAL), "-")

    def write(self, journal: Journal, stream: IO[str]) -> None:
        """Accounts, transactions in the order of booking, balances asserted at the end."""
        accounts = list(journal.accounts())
        stream.write('option "title" "tollsplit ledger"\n')
        units: dict[str, list[str]] = {}
        for balance in accounts:
            name = self.account(balance.kind, balance.account)
            units.setdefault(name, []).append(_commodity(balance.unit).upper())
        for name, commodities in units.items():
            stream.write(f"1970-01-01 open {name} {','.join(commodities)}\n")
        last = date(1970, 1, 1)
        for booked in journal.transactions():
            last = max(last, booked.booked_at.date())
            stream.write(self._transaction(booked))
        stream.write("\n")
        for balance in accounts:
            stream.write(self._assertion(balance, last + timedelta(days=1)))

    def _transaction(self, booked: Booked) -> str:
        title = _quoted(booked.description or booked.kind)
        lines = [f"\n{booked.booked_at:%Y-%m-%d} * {title}"]
        lines += [f"  {key}: {_quoted(value)}" for key, value in provenance(booked)]
        lines += [
            f"  {self.account(p.kind, p.account)}  {quantity(p.amount, p.unit).upper()}"
            for p in booked.postings
        ]
        return "\n".join(lines) + "\n"

    def _assertion(self, balance: Balance, day: date) -> str:
        """It holds as the day begins, and to the last digit."""
        amount, commodity = quantity(balance.balance, balance.unit).upper().split()
        name = self.account(balance.kind, balance.account)
        return f"{day} balance {name}  {amount} ~ 0 {commodity}\n"


def provenance(booked: Booked) -> Iterator[tuple[str, str]]:
    """Where a transaction comes from, by key."""
    yield "transaction", str(booked.number)
    yield "kind", booked.kind
    yield "idempotency_key", booked.idempotency_key
    yield "fingerprint", booked.fingerprint
    yield "booked_at", booked.booked_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if booked.reverses is not None:
        yield "reverses", str(booked.reverses)
    origin = booked.provenance
    for key in ("service_request", "run", "tariff", "rules_version"):
        if (value := getattr(origin, key)) is not None:
            yield key, str(value)
    if booked.run is not None:
        run = booked.run
        yield "source", run.source
        yield "epoch", run.epoch
        yield "first_sequence", str(run.first_sequence)
        yield "rules_version", run.rules_version
        yield "layer", run.layer
        yield "at", run.at
        yield "program", run.program
        if run.captures:
            yield "captures", json.dumps(run.captures, ensure_ascii=False)


def quantity(amount: int, unit: str) -> str:
    """An amount with its commodity, exact: "-1.234567 CNY", "300 octet"."""
    if currency_of(unit) is None:
        return f"{amount} {_commodity(unit)}"
    units, micros = divmod(abs(amount), 1_000_000)
    return f"{'-' if amount < 0 else ''}{units}.{micros:06} {_commodity(unit)}"


def _commodity(unit: str) -> str:
    return currency_of(unit) or unit


def _plain(char: str) -> bool:
    """Whether a character may stand in hledger's descriptions and tags."""
    return char.isprintable() and char not in "%;,|"


def _quoted(text: str) -> str:
    """A string of Beancount's; it reads a backslash as C does."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'
