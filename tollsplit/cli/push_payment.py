"""`tollsplit push-payment`: both terminals, the operating system's server, payee and operator."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import click

from ..errors import TollsplitError, UsageError
from .amount import AMOUNT, quantity, read_amount
from .device import KEY, SERVER, open_client

if TYPE_CHECKING:
    from ..services.client import Client
    from ..services.push_payment.wire import PaymentView

GESTURES = ("swipe", "tap", "lift")
Gesture = Literal["swipe", "tap", "lift"]
_FINAL = ("captured", "declined", "voided", "blocked", "expired")
_PAYMENT = click.argument("payment", metavar="PAYMENT")


@click.group("push-payment")
def push_payment() -> None:
    """Ask for a payment on one terminal, and pay it on another one of the same account.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 a key cannot be read.

    \b
    Example:
      tollsplit push-payment first --server http://127.0.0.1:8080 --key tv.key \\
        --payee shop:books --amount "12.34 CNY"
    """


@push_payment.command()
@SERVER
@KEY
@click.option("--payee", metavar="NAME", required=True, help="The account that is paid.")
@AMOUNT
@click.option("--message", metavar="TEXT",
              help="The words to compare on both screens; if absent the service makes some up.")
@click.option("--second", metavar="DEVICE",
              help="The other terminal; if absent the account's only other one, or the one that "
              "makes the gesture.")
@click.option("--poll", is_flag=True,
              help="Ask again and again for the outcome (as OpenID CIBA has it), for where no "
              "stream of notices gets through.")
def first(
    server: str, key: Path, payee: str, amount: tuple[int, str], message: str | None,
    second: str | None, poll: bool,
) -> None:  # fmt: skip
    """Be the first terminal: ask for a payment, show it and its code, and say how it ends.

    The QR code goes to standard error, and so does the code in text, for a second terminal without
    a camera.

    \b
    Exit codes: 0 agreed to, 1 not paid, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment first --server http://127.0.0.1:8080 --key tv.key \\
        --payee shop:books --amount "12.34 CNY" --message "Two novels"
    """
    with open_client(server, key) as client:
        from ..services.push_payment import ASK
        from ..services.push_payment.wire import Ask
        from ..services.secret import digest, new_code

        code = new_code()
        asked = client.call(ASK, Ask(
            client.device, payee, amount[1], amount[0], digest(code), second, message,
        ))  # fmt: skip
        _show(asked)
        if asked.opening != "direct":
            _show_code(f"{client.origin}/pages/payment.html#"
                       f"{urlencode({'payment': asked.id, 'code': code})}", code)  # fmt: skip
        if asked.state == "waiting":
            click.echo(f"{asked.gesture} the other terminal", err=True)
        state = _poll(client, asked) if poll else _follow(client, asked.id)
        if state not in ("authorised", "captured"):
            raise TollsplitError(f"payment {asked.id}: {state}; nothing was paid: ask for a new "
                                 "one")  # fmt: skip
        click.echo(f"payment {asked.id}: {state}")


def _show(payment: PaymentView) -> None:
    for name, value in (
        ("amount", quantity(payment.amount, payment.unit)), ("payee", payment.payee),
        ("compare", payment.binding_message),
    ):  # fmt: skip
        click.echo(f"{name:>8}  {value}", err=True)


def _show_code(url: str, code: str) -> None:
    try:
        import segno
    except ImportError as error:
        raise UsageError(
            f"{error}; codes need an extra: pip install 'tollsplit[services]'") from error
    segno.make(url).terminal(out=sys.stderr, compact=True)
    click.echo(f"    code  {code}", err=True)


def _follow(client: Client, payment: str) -> str:
    """Its state when it has one in which the first terminal's part is over."""
    for found in _told(client):
        if found.id == payment:
            click.echo(f"payment {payment}: {found.state}", err=True)
            if found.state in ("authorised", *_FINAL):
                return found.state
    raise AssertionError("notices have no end")


def _told(client: Client) -> Iterator[PaymentView]:
    from ..services.push_payment.wire import PaymentView

    for notice in client.notices():
        if notice.kind == "push-payment":
            yield notice.read(PaymentView)


def _poll(client: Client, asked: PaymentView) -> str:
    from ..services.problem import Problem
    from ..services.push_payment import POLL
    from ..services.push_payment.wire import Named

    poll_s = asked.poll_s
    while True:
        time.sleep(poll_s)
        try:
            return client.call(POLL, Named(asked.id)).state
        except Problem as refusal:
            if refusal.extensions.get("error") not in ("authorization_pending", "slow_down"):
                return str(refusal.extensions.get("state", "expired"))
            poll_s = int(refusal.extensions["poll_s"])


@push_payment.command()
@SERVER
@KEY
@click.option("--gesture", type=click.Choice(GESTURES),
              help="Make a gesture first: it calls what waits for it to this terminal.")
@click.option("--once", is_flag=True, help="End after the first payment.")
def second(server: str, key: Path, gesture: Gesture | None, once: bool) -> None:
    """Be the second terminal: show what is pushed to it, and pay it or not.

    Where the code has to be scanned it is asked for: the code in text, or the whole address that
    the QR code holds. Standard input says yes or no; the account's payment secret is typed at
    the terminal, or where there is none comes from standard input, too.

    \b
    Exit codes: 0 ended as asked, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment second --server http://127.0.0.1:8080 --key phone.key --gesture lift
    """
    with open_client(server, key) as client:
        from ..services.push_payment import GESTURE, SHOW
        from ..services.push_payment.wire import MakeGesture, Named

        if gesture is not None:
            client.call(GESTURE, MakeGesture(gesture))
        for told in _told(client):
            # A notice may be an old one, and of a payment that this terminal asked for.
            if told.second_terminal != client.device or told.state not in ("pushed", "opened"):
                continue
            found = client.call(SHOW, Named(told.id))
            if found.state == told.state:
                _decide(client, found)
                if once:
                    return


def _decide(client: Client, payment: PaymentView) -> None:
    from ..services.push_payment import DECLINE, HOLD, OPEN
    from ..services.push_payment.wire import Named, Open

    _show(payment)
    code = None
    if payment.opening == "scan" and payment.state == "pushed":
        code = _code(click.prompt("code", err=True))
    client.call(OPEN, Open(payment.id, code))
    if click.confirm("pay this?", err=True):
        client.call(HOLD, Named(payment.id))
        state = _agree(client, payment)
    else:
        state = client.call(DECLINE, Named(payment.id)).state
    click.echo(f"payment {payment.id}: {state}")


def _code(text: str) -> str:
    """The code, of an address too."""
    found = parse_qs(urlsplit(text).fragment).get("code")
    return found[0] if found else text.strip()


def _agree(client: Client, payment: PaymentView) -> str:
    """Prompt for the secret until it is right; the service says when no more is taken."""
    from ..services.problem import Problem
    from ..services.push_payment import AUTHORISE
    from ..services.push_payment.wire import NOT_AUTHENTICATED, Authorise

    while True:
        secret = click.prompt("payment secret", hide_input=True, err=True)
        try:
            return client.call(AUTHORISE, Authorise(
                payment.id, secret, payment.payee, payment.unit, payment.amount,
                payment.binding_message,
            )).state  # fmt: skip
        except Problem as refusal:
            if refusal.kind.name != NOT_AUTHENTICATED.name:
                raise
            click.echo(f"tollsplit: {refusal.kind.title}", err=True)


# --- the second terminal's operating system ---------------------------------------------------


@push_payment.command()
@SERVER
@KEY
@click.argument("platform", metavar="DEVICE")
def trust(server: str, key: Path, platform: str) -> None:
    """Let an operating system's server, DEVICE, tell of this terminal's gestures; no other may.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment trust --server http://127.0.0.1:8080 --key phone.key \\
        bPm3vFJ4TqWc0J8oZrPCB4Ztq0fJm1eJ6Vb1x2Jp9mE
    """
    with open_client(server, key) as client:
        from ..services.push_payment.policy import TRUST, Trust

        found = client.call(TRUST, Trust(platform))
        click.echo(f"gestures of {found.terminal} may be relayed by {found.platform}")


@push_payment.command()
@SERVER
@KEY
def relay(server: str, key: Path) -> None:
    """Be the operating system's server: relay the gestures that standard input tells of.

    Each line is a terminal and its gesture, as the system's own channel reports them: "DEVICE
    lift". A line that the service refuses is told on standard error, and the next one is read.

    \b
    Exit codes: 0 all were relayed, 1 some were refused, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment relay --server http://127.0.0.1:8080 --key platform.key < gestures
    """
    with open_client(server, key) as client:
        from ..services.problem import Problem
        from ..services.push_payment import RELAY
        from ..services.push_payment.wire import RelayGesture

        refused = 0
        for number, line in enumerate(sys.stdin, 1):
            terminal, _, gesture = line.strip().partition(" ")
            if gesture not in GESTURES:
                raise UsageError(f'line {number}: expected "DEVICE GESTURE", a gesture of '
                                 f"{', '.join(GESTURES)}, got {line.strip()!r}")  # fmt: skip
            made_at_s = client.clock_ns() // 1_000_000_000
            try:
                found = client.call(RELAY, RelayGesture(
                    terminal, cast(Gesture, gesture), made_at_s))  # fmt: skip
            except Problem as refusal:
                refused += 1
                click.echo(f"tollsplit: line {number}: {refusal}", err=True)
            else:
                click.echo(f"{terminal} {gesture}: {', '.join(found.pushed)}")
        if refused:
            raise TollsplitError(f"{refused} gestures were refused")


# --- payee and operator -----------------------------------------------------------------------


def _part(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, str] | None:
    return None if value is None else read_amount(ctx, param, value)


@push_payment.command()
@SERVER
@KEY
@_PAYMENT
@click.option("--amount", metavar="AMOUNT", callback=_part, help="How much; if absent all of it.")
def capture(server: str, key: Path, payment: str, amount: tuple[int, str] | None) -> None:
    """Take what was agreed to, by the payee's key; what is not taken is released.

    \b
    Exit codes: 0 captured, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment capture --server http://127.0.0.1:8080 --key shop.key \\
        OZBvqXrVmkBvYk7wzL1hKA
    """
    with open_client(server, key) as client:
        from ..services.push_payment import CAPTURE, SHOW
        from ..services.push_payment.wire import Named, Take

        if amount is not None and (unit := client.call(SHOW, Named(payment)).unit) != amount[1]:
            raise UsageError(f"--amount: expected {unit.partition('/')[0]}")
        found = client.call(CAPTURE, Take(payment, amount and amount[0]))
        click.echo(f"payment {found.id}: captured {quantity(found.captured, found.unit)}")


@push_payment.command()
@SERVER
@KEY
@_PAYMENT
def void(server: str, key: Path, payment: str) -> None:
    """Take a payment back: by the first terminal's key until it is agreed to, or by the payee's.

    \b
    Exit codes: 0 voided, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment void --server http://127.0.0.1:8080 --key tv.key \\
        OZBvqXrVmkBvYk7wzL1hKA
    """
    with open_client(server, key) as client:
        from ..services.push_payment import VOID
        from ..services.push_payment.wire import Named

        click.echo(f"payment {payment}: {client.call(VOID, Named(payment)).state}")


@push_payment.command()
@SERVER
@KEY
@click.option("--account", metavar="NAME", required=True, help="Whose payments.")
@click.option("--gesture", type=click.Choice(("none", *GESTURES)), default="none",
              show_default=True, help="What calls a payment to the second terminal.")
@click.option("--gesture-from", type=click.Choice(("terminal", "platform", "either")),
              default="either", show_default=True, help="Who may tell of it.")
@click.option("--opening", type=click.Choice(("direct", "scan", "either")), default="either",
              show_default=True, help="How the second terminal gets to the payment's page.")
@click.option("--capture", type=click.Choice(("automatic", "manual")), default="automatic",
              show_default=True, help="Whether the service captures, or the payee.")
def policy(
    server: str, key: Path, account: str, gesture: Literal["none", "swipe", "tap", "lift"],
    gesture_from: Literal["terminal", "platform", "either"],
    opening: Literal["direct", "scan", "either"], capture: Literal["automatic", "manual"],
) -> None:  # fmt: skip
    """Say what an account's payments need from now on, by an operator's key.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment policy --server http://127.0.0.1:8080 --key staff.key \\
        --account alice --gesture lift --opening direct
    """
    with open_client(server, key) as client:
        from ..services.push_payment.policy import POLICY, SetPolicy

        found = client.call(POLICY, SetPolicy(account, gesture, gesture_from, opening, capture))
        click.echo(f'account "{found.account}": gesture {found.gesture} from {found.gesture_from}, '
                   f"opening {found.opening}, capture {found.capture}")  # fmt: skip


@push_payment.command()
@SERVER
@KEY
@click.option("--account", metavar="NAME", required=True, help="Whose secret.")
def secret(server: str, key: Path, account: str) -> None:
    """Set what an account's payments are agreed to by, by an operator's key; it is prompted for.

    Set anew it unblocks the account.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the key cannot be read.

    \b
    Example:
      tollsplit push-payment secret --server http://127.0.0.1:8080 --key staff.key --account alice
    """
    with open_client(server, key) as client:
        from ..services.push_payment.authentication import SECRET, SetSecret

        chosen = click.prompt("payment secret", hide_input=True, confirmation_prompt=True, err=True)
        click.echo(f'account "{client.call(SECRET, SetSecret(account, chosen)).account}": set')
