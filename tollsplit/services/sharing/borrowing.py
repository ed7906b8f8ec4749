"""A borrower asks, lenders offer, the borrower takes an offer: the two are connected."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from ...ledger import Hold, Provenance
from ...ledger import account as accounts
from ...ledger.store import OCTET
from ...limits import SERVICE_AMOUNT_MAX, SHARE_OFFERS_MAX, SHARE_SETTLE_S_MAX
from ..operation import Call
from ..problem import NOT_FOUND, UNFIT, WRONG_STATE
from ..wire import new_id
from . import lender
from .share import OFFERS, SHARES, Share, end, hold_key, read, told, view
from .usage import fee_of
from .wire import (
    NO_ALLOWANCE,
    NO_LENDER,
    NOT_NEARBY,
    OTHER_TERMS,
    OWN_SHARE,
    Accept,
    Borrow,
    Lenders,
    LenderView,
    Named,
    Offer,
    Offers,
    OfferState,
    OfferView,
    ShareView,
)


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table [share] of the settings."""

    range_m: int = 200  # how far away a lender may be: what a hotspot reaches, and some more
    request_s: int = 600  # how long a request waits for an offer that is taken
    connect_s: int = 120  # how long each step from there to a verified password may take
    thresholds: tuple[int, ...] = (50, 80, 100)  # percent of the quota that are told
    alert: Literal["borrower", "lender", "both"] = "both"  # whom
    # After the end: by then the usage records of the last minute are booked.
    settle_after_s: int = 60
    # Of the fee, in 1/10000; the rest is the operator's.
    lenders_part: Annotated[int, Meta(ge=0, le=10_000)] = 8000


def borrow(call: Call[Borrow]) -> ShareView:
    asked, settings = call.asked, call.setting(Settings)
    where = lender.place(asked.latitude, asked.longitude)
    share = new_id()
    latitude, longitude = where or (None, None)
    SHARES.begin(
        call.store, share, call.now_ns, settings.request_s, account=call.device.account,
        borrower=call.device.id, octets=asked.octets, duration_s=asked.duration_s,
        sealing_key=asked.sealing_key, failures=0, used_octets=0, first_run=0, seen_run=0,
        alerted_percent=0, latitude=latitude, longitude=longitude,
    )  # fmt: skip
    found = read(call.store, share, call.now_ns)
    about = view(share, found)
    for one in _lenders(call, found, settings):
        call.notify(one.device, "share.wanted", about)
    return about


def _lenders(call: Call[Any], found: Share, settings: Settings) -> list[lender.Lender]:
    where = (None if found.latitude is None or found.longitude is None
             else (found.latitude, found.longitude))  # fmt: skip
    return lender.available(call.store, found.account, where, settings.range_m, call.now_ns)


def list_lenders(call: Call[Named]) -> Lenders:
    """Who lends within the range, nearest first."""
    found = _own(call)
    if found.state != "requested":
        raise WRONG_STATE(f"this share is {found.state}", state=found.state)
    return Lenders([LenderView(one.device, one.label, one.distance_m)
                    for one in _lenders(call, found, call.setting(Settings))])  # fmt: skip


def _own(call: Call[Named] | Call[Accept]) -> Share:
    """The share, where the caller is its borrower. Others don't learn that it is there."""
    found = read(call.store, call.asked.share, call.now_ns)
    if found.borrower != call.device.id:
        raise NOT_FOUND("no such share")
    return found


def offer(call: Call[Offer]) -> OfferView:
    asked, caller = call.asked, call.device
    found = read(call.store, asked.share, call.now_ns)
    if found.account == caller.account:
        raise OWN_SHARE("borrower and lender are of one account")
    if found.state != "requested":
        raise WRONG_STATE(f"this share is {found.state}", state=found.state)
    near = _lenders(call, found, call.setting(Settings))
    if caller.id not in [one.device for one in near]:
        raise NOT_NEARBY("say that you lend, and where")
    if asked.octets > found.octets:
        raise UNFIT(f"expected at most {found.octets}", at="$.octets")
    if fee_of(asked.octets, asked.price) > SERVICE_AMOUNT_MAX:
        raise UNFIT(f"expected that all of it costs at most {SERVICE_AMOUNT_MAX}", at="$.price")
    _expect_allowance(call, caller.account, asked.octets)
    if call.ledger.balance(caller.account, asked.unit).state != "open":
        raise NOT_FOUND("the lender has no account in this unit")
    ((offers,),) = call.store.rows(_COUNT, asked.share)
    if offers >= SHARE_OFFERS_MAX:
        raise WRONG_STATE(f"{offers} offers are enough")
    ((known,),) = call.store.rows(_OFFERED, asked.share, caller.id)
    if known:
        raise WRONG_STATE("this lender has offered already")
    row = new_id()
    left_s = max(1, (found.expires_at_ns - call.now_ns) // 1_000_000_000)
    OFFERS.begin(call.store, row, call.now_ns, left_s, share=asked.share, lender=caller.id,
                 account=caller.account, octets=asked.octets, unit=asked.unit,
                 price=asked.price)  # fmt: skip
    about = OfferView(row, asked.share, "open", caller.id, caller.label, asked.octets, asked.unit,
                      asked.price, fee_of(asked.octets, asked.price))  # fmt: skip
    call.notify(found.borrower, "share.offer", about)
    return about


def _expect_allowance(call: Call[Any], account: str, octets: int) -> None:
    """What a prepaid lender has left covers it, beside all that it lends already. A lender who has
    no account of octets, or one without a floor, pays for what is used afterwards.
    """
    name = account, OCTET
    if name not in accounts.numbers(call.store, [name]):
        return
    available = accounts.lock(call.store, [name])[name].available
    ((lent,),) = call.store.rows(_LENT, account)
    if available is not None and available - int(lent) < octets:
        raise NO_ALLOWANCE("less is left of it")


def list_offers(call: Call[Named]) -> Offers:
    """What lenders have offered, the cheapest first."""
    _own(call)
    return Offers([
        OfferView(row, call.asked.share, _state(state, expires, call.now_ns), device, label, octets,
                  unit, price, fee_of(octets, price))
        for row, state, expires, device, label, octets, unit, price in call.store.rows(
            _OFFERS, call.asked.share)
    ])  # fmt: skip


def _state(state: str, expires_at_ns: int, now_ns: int) -> OfferState:
    return cast(OfferState, OFFERS.state_at(state, expires_at_ns, now_ns))


def accept(call: Call[Accept]) -> ShareView:
    """Connect the two. All that the offer can cost is set aside, or nothing is connected."""
    asked, settings = call.asked, call.setting(Settings)
    found = _own(call)
    _, share, device, account, octets, unit, price = OFFERS.read(
        call.store, asked.offer, call.now_ns, "share", "lender", "account", "octets", "unit",
        "price")  # fmt: skip
    if share != asked.share:
        raise NOT_FOUND("no such offer")
    if (asked.octets, asked.unit, asked.price) != (octets, unit, price):
        raise OTHER_TERMS("look at the offer again")
    near = [one.device for one in _lenders(call, found, settings)]
    if found.state == "requested":
        if device not in near:
            raise NO_LENDER("this lender lends no more")
        _expect_allowance(call, account, octets)
    SHARES.move(
        call.store, share, "requested", "connected", call.now_ns, settings.connect_s,
        lender=device, lender_account=account, octets=octets, unit=unit, price=price,
        latitude=None, longitude=None,
    )  # fmt: skip
    OFFERS.move(call.store, asked.offer, "open", "accepted", call.now_ns)
    at_most = fee_of(octets, price)
    if at_most:
        call.ledger.hold(Hold(
            hold_key(share), found.account, unit, at_most,
            2 * settings.connect_s + found.duration_s + SHARE_SETTLE_S_MAX,
            f"data of {account}", Provenance(service_request=share),
        ))  # fmt: skip
    return told(call, share)


def show(call: Call[Named]) -> ShareView:
    found = read(call.store, call.asked.share, call.now_ns)
    if call.device.id not in (found.borrower, found.lender):
        raise NOT_FOUND("no such share")
    return view(call.asked.share, found)


def cancel(call: Call[Named]) -> ShareView:
    """Either side ends what does not run yet; nothing is owed."""
    found = read(call.store, call.asked.share, call.now_ns)
    if call.device.id not in (found.borrower, found.lender):
        raise NOT_FOUND("no such share")
    if found.state not in ("requested", "connected", "keyed"):
        raise WRONG_STATE(f"this share is {found.state}", state=found.state)
    return end(call, call.asked.share, found, "cancelled")


# Of shares that may still use something.
_LENT = """
    SELECT coalesce(sum(octets - used_octets), 0) FROM service_shares
    WHERE lender_account = ? AND state IN ('connected', 'keyed', 'running')
        AND used_octets < octets"""
_COUNT = "SELECT count(*) FROM service_share_offers WHERE share = ?"
_OFFERED = "SELECT count(*) FROM service_share_offers WHERE share = ? AND lender = ?"
_OFFERS = """
    SELECT o.id, o.state, o.expires_at_ns, o.lender, d.label, o.octets, o.unit, o.price
    FROM service_share_offers o JOIN service_devices d ON d.id = o.lender
    WHERE o.share = ? ORDER BY o.price, o.created_at_ns, o.id"""
