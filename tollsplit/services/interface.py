"""A resource's interface module: asks before each operation whether it is paid for.

What a resource embeds. Importing it takes the standard library alone; the rest comes when it first
asks.

    interface = Interface("chess", "https://pay.example", Path("chess.key"), file=Path(__file__))

    @interface.guards("play")
    def play() -> None: ...

An operation is prohibited unless the billing server says, to this question and to no other, that it
is allowed: also where the billing manager or the server cannot be reached.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import ProhibitedError, UsageError
from ..limits import BILLING_LINE_OCTETS_MAX, BILLING_SERVER_S, BILLING_WAIT_S

if TYPE_CHECKING:
    from .client import Client
    from .signature import DeviceKey
    from .verdict import Licence

Given = ParamSpec("Given")
Result = TypeVar("Result")
UNREACHABLE = "unreachable"  # what the manager answers where it could not ask


class _UnreachableError(ProhibitedError):
    """The billing server cannot be asked, by the manager or from here."""


def manager_socket() -> Path:
    """Where the billing manager of this user listens. Raises UsageError where that is nowhere."""
    folder = os.environ.get("XDG_RUNTIME_DIR")
    if not folder:
        raise UsageError("XDG_RUNTIME_DIR is not set: name the billing manager's socket "
                         "(--socket)")
    return Path(folder) / "tollsplit-billing"


class Interface:
    """Asks for one resource.

    resource    its name at the server
    server      the billing server's address
    key         the file of this copy's private key, registered with the role `resource`
    manager     the socket of the terminal's billing manager; None: manager_socket()
    file        what the resource is; the manager computes its digest. None: nothing is compared
    server_key  the server's public key (hexadecimal), which its word has to be signed with; None:
                whoever the server's certificate convinces is believed
    licence     opt-in: the file of a licence that counts while the server cannot be reached. It
                needs a server_key
    clock_ns    nanoseconds since 1970-01-01 UTC
    """

    def __init__(
        self, resource: str, server: str, key: Path, *, manager: Path | None = None,
        file: Path | None = None, server_key: str | None = None, licence: Path | None = None,
        clock_ns: Callable[[], int] = time.time_ns, retries: int = 1,
    ) -> None:  # fmt: skip
        if licence is not None and server_key is None:
            raise UsageError("a licence needs the server's public key that it is signed with")
        self.resource = resource
        self._server = server
        self._key = key
        self._manager = manager
        self._file = file
        self._server_key = server_key
        self._licence = licence
        self._clock_ns = clock_ns
        self._retries = retries

    def authorise(self, operation: str = "use") -> None:
        """Ask for one operation, now. Raises ProhibitedError where it is not allowed."""
        try:
            nonce, code = self._code(operation)
            self._verify(operation, nonce, code)
        except _UnreachableError as error:
            if self._licence is None:
                raise
            try:
                self._expect_licensed()
            except ProhibitedError as refusal:
                raise ProhibitedError(f"{error}; {refusal}") from error

    def guards(
        self, operation: str = "use"
    ) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
        """A decorator: each call of the function asks first."""

        def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
            @functools.wraps(function)
            def guarded(*arguments: Given.args, **named: Given.kwargs) -> Result:
                self.authorise(operation)
                return function(*arguments, **named)

            return guarded

        return decorate

    def renew_licence(self) -> Licence:
        """Take a licence from the server, for when it cannot be reached. Raises ProhibitedError."""
        from .billing_auth import LICENCE, Verify
        from .verdict import Licence, expect_licensed

        if self._licence is None:
            raise UsageError("name the file of the licence")
        nonce, code = self._code("licence")
        key = self._own()
        with self._client(key) as client:
            found = _asked(lambda: client.call(LICENCE, Verify(
                code=code, resource=self.resource, operation="licence", nonce=nonce)))
        licence = Licence(found.resource, found.device, found.account, found.serial,
                          found.not_before_ns, found.expires_at_ns)  # fmt: skip
        self._expect_signed(licence.text, found.signature)
        expect_licensed(licence, self.resource, key.device, self._clock_ns())
        licence.write(self._licence, found.signature)
        return licence

    # --- the steps ----------------------------------------------------------------------

    def _code(self, operation: str) -> tuple[str, str]:
        """A nonce of this question alone, and the code that the manager brings for it."""
        nonce = secrets.token_urlsafe(16)
        answer = _ask(self._manager or manager_socket(), {
            "resource": self.resource, "operation": operation, "device": self._own().device,
            "nonce": nonce, "file": None if self._file is None else str(self._file.absolute()),
        })  # fmt: skip
        if isinstance(code := answer.get("code"), str):
            return nonce, code
        refusal, detail = answer.get("refusal"), str(answer.get("detail", ""))
        error = _UnreachableError if refusal == UNREACHABLE else ProhibitedError
        raise error(f"{self.resource}: {operation}: {detail or 'no code'}")

    def _verify(self, operation: str, nonce: str, code: str) -> None:
        from .billing_auth import VERIFY, Verify
        from .verdict import Verdict

        key = self._own()
        with self._client(key) as client:
            found = _asked(lambda: client.call(VERIFY, Verify(
                code=code, resource=self.resource, operation=operation, nonce=nonce)))
        said = Verdict(found.resource, found.operation, found.device, found.account, found.nonce)
        if said != Verdict(self.resource, operation, key.device, found.account, nonce):
            raise ProhibitedError(f"{self.resource}: the server answers another question")
        if self._server_key is not None:
            self._expect_signed(said.text, found.signature)

    def _expect_signed(self, text: str, signature: str | None) -> None:
        from ..ledger.signing import is_signed

        if not is_signed(text, self._server_key or "", signature or ""):
            raise ProhibitedError(
                f"{self.resource}: {self._server} does not sign with the billing server's key")

    def _expect_licensed(self) -> None:
        from .verdict import expect_licensed, read_licence

        assert self._licence is not None and self._server_key is not None
        licence = read_licence(self._licence, self._server_key)
        expect_licensed(licence, self.resource, self._own().device, self._clock_ns())

    def _own(self) -> DeviceKey:
        from ..ledger.signing import read_private_key
        from .signature import DeviceKey

        return DeviceKey(read_private_key(self._key))

    def _client(self, key: DeviceKey) -> Client:
        from .client import Client

        return Client(self._server, key, clock_ns=self._clock_ns, retries=self._retries,
                      timeout_s=BILLING_SERVER_S)  # fmt: skip


def _asked(work: Callable[[], Any]) -> Any:
    """What the server answers; raises ProhibitedError whatever else comes of it."""
    from .client import UnreachableError
    from .problem import UNAVAILABLE, Problem

    try:
        return work()
    except UnreachableError as error:
        raise _UnreachableError(str(error)) from error
    except Problem as problem:
        error_kind = _UnreachableError if problem.kind.name == UNAVAILABLE.name else ProhibitedError
        raise error_kind(str(problem)) from problem


def _ask(manager: Path, question: dict[str, object]) -> dict[str, Any]:
    """The billing manager's answer: a line of JSON for a line of JSON."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(BILLING_WAIT_S)  # it asks the server meanwhile
            connection.connect(os.fspath(manager))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline(BILLING_LINE_OCTETS_MAX))
    except (OSError, ValueError) as error:
        raise ProhibitedError(
            f"{manager}: no billing manager answers ({error}); start `tollsplit billing-auth "
            "manager`"
        ) from error
    if not isinstance(answer, dict):
        raise ProhibitedError(f"{manager}: not a billing manager's answer")
    return answer
