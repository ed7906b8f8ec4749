"""Sharing runs: the password lets the borrower in, usage is watched, the fee is settled."""

from __future__ import annotations

from ...errors import LedgerError
from ...ledger import Provenance
from ...ledger.store import REVENUE
from ...limits import SERVICE_FAILURES_MAX, SHARE_SETTLE_S_MAX
from ...model import Posting
from .. import secret
from ..call_log import log
from ..operation import Call, Moment
from ..problem import NOT_FOUND, WRONG_STATE, Problem
from . import lender, usage
from .borrowing import Settings
from .password import proof
from .share import SHARES, WITH_HOLD, Share, end, hold_key, read, release, told
from .wire import (
    BUSY,
    OTHER_ADDRESS,
    WRONG_PASSWORD,
    Connect,
    Named,
    PasswordNotice,
    ShareView,
    UsageAlert,
    Verified,
    Verify,
    Way,
)

_SECOND_NS = 1_000_000_000


def connect(call: Call[Connect]) -> ShareView:
    """The lender's device has made a password; the service relays it and cannot read it."""
    asked = call.asked
    found = read(call.store, asked.share, call.now_ns)
    if found.lender != call.device.id:
        raise NOT_FOUND("no such share")
    if list(call.store.rows(_BUSY, call.device.account, asked.subscriber, asked.share)):
        raise BUSY("end the other share first")
    SHARES.move(
        call.store, asked.share, "connected", "keyed", call.now_ns,
        call.setting(Settings).connect_s, proof_digest=asked.proof_digest,
        subscriber=asked.subscriber,
    )  # fmt: skip
    call.notify(found.borrower, "share.password",
                PasswordNotice(asked.share, asked.sealed, asked.proof_digest))  # fmt: skip
    return told(call, asked.share)


def verify(call: Call[Verify]) -> ShareView | Problem:
    """The service verifies what the borrower enters."""
    return _let_in(call, proof(call.asked.password, call.asked.share), "server")


def verified(call: Call[Verified]) -> ShareView | Problem:
    """The borrower's own module has verified it, and proves that it knows it."""
    return _let_in(call, call.asked.proof, "module")


def _let_in(call: Call[Verify] | Call[Verified], given: str, way: Way) -> ShareView | Problem:
    share = call.asked.share
    found = read(call.store, share, call.now_ns)
    if found.borrower != call.device.id:
        raise NOT_FOUND("no such share")
    if found.state != "keyed":
        raise WRONG_STATE(f"this share is {found.state}", state=found.state)
    if call.asked.subscriber != found.subscriber:
        # Of an address of the lender's own the borrower would pay for the lender's traffic.
        raise OTHER_ADDRESS("the borrower's device finds itself elsewhere")
    if not secret.is_same(given, found.proof_digest or ""):
        if found.failures + 1 >= SERVICE_FAILURES_MAX:
            end(call, share, found, "blocked")
        else:
            SHARES.move(call.store, share, "keyed", "keyed", call.now_ns,
                        failures=found.failures + 1)  # fmt: skip
        return WRONG_PASSWORD("the borrower is not let in")
    latest = usage.latest_run(call.store)
    SHARES.move(
        call.store, share, "keyed", "running", call.now_ns,
        found.duration_s + SHARE_SETTLE_S_MAX, verified_by=way, started_at_ns=call.now_ns,
        first_run=latest, seen_run=latest,
    )  # fmt: skip
    return told(call, share)


def stop(call: Call[Named]) -> ShareView:
    """Either side ends the sharing; what was used is owed."""
    found = read(call.store, call.asked.share, call.now_ns)
    if call.device.id not in (found.borrower, found.lender):
        raise NOT_FOUND("no such share")
    if found.state != "running":
        raise WRONG_STATE(f"this share is {found.state}", state=found.state)
    return _end(call, call.asked.share, found, call.now_ns)


def _end(
    call: Call[Named] | Moment, share: str, found: Share, at_ns: int
) -> ShareView:
    SHARES.move(call.store, share, "running", "ended", call.now_ns, SHARE_SETTLE_S_MAX,
                ended_at_ns=at_ns)  # fmt: skip
    return told(call, share)


# --- what happens by itself -------------------------------------------------------------------


def sweep(moment: Moment) -> None:
    """Read usage, tell of thresholds, end what is used up or over, settle what has ended."""
    settings = moment.setting(Settings)
    lender.forget_places(moment.store, moment.now_ns)
    for share, state in SHARES.overdue(moment.store, moment.now_ns, "state"):
        if state in WITH_HOLD:
            release(moment, share)
        moment.store.write(_FORGET, [(share,)])
        told(moment, share)
    latest = usage.latest_run(moment.store)
    for (share,) in list(moment.store.rows(_RUNNING, moment.now_ns)):
        _watch(moment, share, latest, settings)
    due_ns = moment.now_ns - settings.settle_after_s * _SECOND_NS
    for (share,) in list(moment.store.rows(_ENDED, due_ns, moment.now_ns)):
        try:
            with moment.ledger.atomic():
                _settle(moment, share, latest, settings)
        except LedgerError as error:
            # Its account was closed: the others are settled, and it is tried again.
            log.warning("share", extra={"what": f"{share}: {error}"})


def _watch(moment: Moment, share: str, latest: int, settings: Settings) -> None:
    """What the runs that were booked since the last look add to a share that runs."""
    found = read(moment.store, share, moment.now_ns)
    until_ns = (found.started_at_ns or 0) + found.duration_s * _SECOND_NS
    used = found.used_octets
    if latest > found.seen_run:
        used += _octets(moment, found, until_ns, (found.seen_run, latest))
    told_percent = found.alerted_percent
    for percent in sorted(settings.thresholds):
        if percent > told_percent and used * 100 >= found.octets * percent:
            told_percent = percent
    if (used, latest) != (found.used_octets, found.seen_run):
        SHARES.move(moment.store, share, "running", "running", moment.now_ns, used_octets=used,
                    seen_run=latest, alerted_percent=told_percent)  # fmt: skip
    if told_percent > found.alerted_percent:
        _alert(moment, share, found, told_percent, used, settings)
    if used >= found.octets or moment.now_ns >= until_ns:
        _end(moment, share, found, min(moment.now_ns, until_ns))


def _octets(moment: Moment, found: Share, until_ns: int, runs: tuple[int, int]) -> int:
    return usage.octets(
        moment.store, found.lender_account or "", found.subscriber or "",
        found.started_at_ns or 0, until_ns, runs, moment.now_ns,
    )  # fmt: skip


def _alert(
    moment: Moment, share: str, found: Share, percent: int, used: int, settings: Settings
) -> None:
    about = UsageAlert(share, percent, used, found.octets)
    for side, one in (("borrower", found.borrower), ("lender", found.lender)):
        if one is not None and settings.alert in (side, "both"):
            moment.notify(one, "share.usage", about)


def _settle(moment: Moment, share: str, latest: int, settings: Settings) -> None:
    """Book the fee: what was used, at most the quota, by all records that are booked by now."""
    found = read(moment.store, share, moment.now_ns)
    assert found.unit is not None and found.price is not None and found.lender_account is not None
    used = _octets(moment, found, found.ended_at_ns or 0, (found.first_run, latest))
    fee = usage.fee_of(min(used, found.octets), found.price)
    part = fee * settings.lenders_part // 10_000
    SHARES.move(moment.store, share, "ended", "settled", moment.now_ns, used_octets=used,
                seen_run=latest, fee=fee, lenders_part=part)  # fmt: skip
    if fee:
        moment.ledger.open_account(REVENUE, found.unit, "operator")
        gains = (found.lender_account, part), (REVENUE, fee - part)
        moment.ledger.capture(
            hold_key(share), "settlement",
            (Posting(found.account, found.unit, -fee),
             *(Posting(name, found.unit, amount) for name, amount in gains if amount)),
            f"{used} octets of {found.lender_account}", Provenance(service_request=share),
        )  # fmt: skip
    else:
        release(moment, share)
    told(moment, share)


_BUSY = """
    SELECT 1 FROM service_shares
    WHERE lender_account = ? AND subscriber = ? AND state IN ('keyed', 'running') AND id <> ?"""
_RUNNING = """
    SELECT id FROM service_shares WHERE state = 'running' AND expires_at_ns > ? ORDER BY id"""
_ENDED = """
    SELECT id FROM service_shares
    WHERE state = 'ended' AND ended_at_ns <= ? AND expires_at_ns > ? ORDER BY id"""
_FORGET = "UPDATE service_shares SET latitude = NULL, longitude = NULL WHERE id = ?"
