"""Push payment as people see it: two phones in a real Chromium, gestures, a camera, a QR code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import pytest
from browser import Chromium, Screen
from databases import SqliteFile
from push_parties import AMOUNT, SECRET, SHOP, Parties
from serving import serving

from tollsplit.services import device, inbox, push_payment

SHOWN = ["12.34 CNY", SHOP, "Two novels"]


@pytest.fixture(scope="module")
def everybody(
    tmp_path_factory: pytest.TempPathFactory, chromium: Chromium
) -> Iterator[tuple[Parties, Screen, Screen]]:
    """The parties, and a television and a phone of Alice's, each enrolled by its page."""
    services = device.SERVICE, inbox.SERVICE, push_payment.SERVICE
    database = SqliteFile(tmp_path_factory.mktemp("pages") / "ledger.db")
    with serving(database, services) as served:
        served.clock.now_ns = time.time_ns()
        parties = Parties.of(served)
        for known in (parties.television, parties.phone):
            parties.operator.call(device.REVOKE, device.Revoke(known.device))
        made = chromium.screen(), chromium.screen()
        for screen in made:
            enrol(parties, screen)
        yield parties, *made
        for screen in made:
            screen.close()


@pytest.fixture
def parties(everybody: tuple[Parties, Screen, Screen]) -> Parties:
    """As they were at first, but for what was paid before."""
    parties = everybody[0]
    parties.served.clock.now_ns = time.time_ns()  # as browsers have it
    parties.needs()
    return parties


@pytest.fixture
def shown(
    parties: Parties, everybody: tuple[Parties, Screen, Screen]
) -> Iterator[tuple[Screen, Screen]]:
    screens = everybody[1:]
    yield screens
    for screen in screens:
        # What the policy stops and what a script throws is told there. Refusals of the server's
        # are what some tests are about.
        wrong = [line for line in screen.console() if "Failed to load resource" not in line]
        assert wrong == []
        screen.open("about:blank")


@pytest.fixture
def paid(parties: Parties) -> Callable[[], int]:
    """What the shop got during the test."""
    before = parties.money()[2]
    return lambda: parties.money()[2] - before


def enrol(parties: Parties, screen: Screen, account: str = "alice") -> None:
    token = parties.served.write(lambda ledger: device.enrol(
        ledger.store, "terminal", account, parties.served.clock.now_ns)).token  # fmt: skip
    screen.open(page(parties, f"enrol.html#code={token}"))
    screen.tap("#enrol button")
    screen.wait_text("#added", "on your account")


def page(parties: Parties, name: str) -> str:
    return f"{parties.served.origin}/pages/{name}"


def fill(parties: Parties, television: Screen, message: str = "Two novels") -> None:
    asked = urlencode({"payee": SHOP, "amount": "12.34", "currency": "CNY", "message": message})
    television.open("about:blank")
    television.open(page(parties, f"first.html#{asked}"))


def ask(parties: Parties, television: Screen, message: str = "Two novels") -> None:
    fill(parties, television, message)
    television.tap("#ask button")
    television.find("#payment")


def what(screen: Screen) -> list[str]:
    """Amount, payee and binding message, as they are read."""
    screen.find("dd.amount")
    return [screen.text(f"dd.{name}") for name in ("amount", "payee", "message")]


def pay(phone: Screen, secret: str = SECRET) -> None:
    phone.find("#secret").send_keys(secret)
    phone.tap("#confirm")


def test_pages_pay_by_the_code_that_a_camera_sees(
    parties: Parties, shown: tuple[Screen, Screen], chromium: Chromium, paid: Callable[[], int]
) -> None:
    parties.needs(opening="scan")
    television, phone = shown
    phone.open(page(parties, "second.html"))
    phone.wait_text("#nothing", "Nothing yet")
    ask(parties, television)
    assert what(television) == SHOWN
    assert what(phone) == SHOWN  # pushed: it never asked
    chromium.film(television.frame())
    phone.tap("#inbox button")
    phone.wait_text("#title", "Is this right?")
    assert what(phone) == SHOWN
    assert "code=" not in phone.run("return location.href")
    television.wait_text("#state", "Open on your other device")
    pay(phone)
    phone.wait_text("#state", "Paid")
    television.wait_text("#state", "Paid")
    assert paid() == AMOUNT


@pytest.mark.parametrize("gesture", ["swipe", "tap", "lift"])
def test_pages_take_a_gesture_as_a_call_and_no_more(
    parties: Parties, shown: tuple[Screen, Screen], gesture: str, paid: Callable[[], int]
) -> None:
    parties.needs(gesture=gesture, opening="direct")
    television, phone = shown
    phone.open(page(parties, "second.html"))
    ask(parties, television)
    television.wait_text("#state", "Waiting for you")
    gestures = {
        "swipe": lambda: phone.swipe("#pad", right=-150),
        "tap": lambda: phone.tap("#pad"),
        "lift": lambda: phone.move(0, 0, 4, 4, 4, 4, -4, -4, 0),
    }
    wrong = "tap" if gesture == "swipe" else "swipe"
    gestures[wrong]()
    phone.wait_text("#felt", "No payment waits")
    assert television.text("#state") == "Waiting for you"
    gestures[gesture]()
    phone.wait_text("#title", "Is this right?")  # opened directly, and asks for the secret
    assert what(phone) == SHOWN
    phone.tap("#decline")
    phone.wait_text("#state", "Not paid")
    television.wait_text("#state", "you said no")
    assert paid() == 0


def test_pages_take_no_other_movement_for_a_lift(
    parties: Parties, shown: tuple[Screen, Screen]
) -> None:
    parties.needs(gesture="lift")
    television, phone = shown
    phone.open(page(parties, "second.html"))
    ask(parties, television)
    phone.find("#pad")
    phone.move(0, 1, 1, 1, 1, 1, 0)  # a train that climbs
    phone.move(-4, -4, -4, -4, 0)  # put down
    phone.run("return new Promise(done => setTimeout(done, 200))")
    assert phone.run("return document.getElementById('felt').textContent") == ""
    assert television.text("#state") == "Waiting for you"


def test_pages_tell_a_wrong_secret_and_go_on(
    parties: Parties, shown: tuple[Screen, Screen], paid: Callable[[], int]
) -> None:
    television, phone = shown
    phone.open(page(parties, "second.html"))
    ask(parties, television)
    phone.tap("#inbox a")
    pay(phone, "a wrong one")
    assert phone.wait_text("#error", "did not work").endswith("try again.")
    assert phone.run("return document.activeElement.id") == "secret"
    assert phone.run("return document.activeElement.value") == ""
    assert paid() == 0
    pay(phone)
    phone.wait_text("#state", "Paid")
    assert paid() == AMOUNT


def test_pages_of_a_stranger_show_nothing_of_a_forwarded_code(
    parties: Parties, shown: tuple[Screen, Screen], screens: Callable[[], Screen],
    chromium: Chromium,
) -> None:  # fmt: skip
    television, _ = shown
    ask(parties, television)
    chromium.film(television.frame())
    stranger = screens()
    enrol(parties, stranger, "mallory")
    stranger.open(page(parties, "second.html"))
    stranger.tap("#scanner")
    stranger.wait_text("#trouble", "no such payee or payment")
    assert not stranger.driver.find_elements("css selector", "dd.amount")
    assert television.text("#state") == "Sent to your other device"


def test_pages_scan_no_code_of_anybody_elses(
    parties: Parties, shown: tuple[Screen, Screen], chromium: Chromium
) -> None:
    """A code may hold the address of another server: it is not gone to."""
    television, phone = shown
    ask(parties, television)
    television.run("""
        return import("./vendor/lean-qr.mjs").then(({generate}) =>
            generate("https://pay.example/pages/payment.html#payment=x&code=y")
                .toCanvas(document.querySelector("#code canvas"),
                          {on: [0, 0, 0, 255], off: [255, 255, 255, 255]}));""")
    chromium.film(television.frame())
    phone.open(page(parties, "second.html"))
    phone.tap("#scanner")
    phone.wait_text("#seen", "no payment of ours")
    assert phone.run(
        "return document.getElementById('scanner').getBoundingClientRect().bottom <= innerHeight")
    phone.tap("#scanner")
    assert phone.run("return location.pathname") == "/pages/second.html"


def test_pages_find_what_was_pushed_while_they_were_away(
    parties: Parties, shown: tuple[Screen, Screen]
) -> None:
    """The first terminal cancels one: who comes late does not see it."""
    television, phone = shown
    ask(parties, television, "No novel")
    television.tap("#cancel")
    television.wait_text("#state", "Cancelled")
    ask(parties, television, "<b>Late novel</b>")  # text, whatever it looks like
    phone.open(page(parties, "second.html"))
    phone.wait_text("#inbox", "<b>Late novel</b>")
    assert "No novel" not in phone.text("#inbox")
    phone.run("document.querySelector('#inbox li:last-child a').className = 'latest'")
    phone.tap("#inbox a.latest")
    phone.wait_text("#title", "Is this right?")
    television.tap("#cancel")
    phone.wait_text("#state", "Cancelled")
    assert not phone.find("#payment").find_elements("css selector", "form")


def test_pages_are_worked_by_keyboard_and_read_aloud(
    parties: Parties, shown: tuple[Screen, Screen]
) -> None:
    """No finger, no eyes: names, roles, focus and what is told by itself."""
    from selenium.webdriver.common.keys import Keys

    parties.needs(gesture="tap", opening="direct")
    television, phone = shown
    fill(parties, television)
    assert television.find("#payee").accessible_name == "Who is paid"
    television.find("#message").send_keys(Keys.TAB)
    television.press(Keys.ENTER)
    television.wait_text("#state", "Waiting")
    assert television.run("return document.activeElement.id") == "what"
    assert television.find("#state").aria_role == "status"
    phone.open(page(parties, "second.html"))
    assert phone.find("#pad").aria_role == "button"
    phone.run("document.getElementById('pad').focus()")
    phone.press(Keys.ENTER)
    phone.wait_text("#title", "Is this right?")
    phone.wait(lambda: phone.run("return document.activeElement.id") == "title", "the focus")
    phone.press(Keys.TAB)
    assert phone.driver.switch_to.active_element.accessible_name == "Payment secret"
    phone.press(SECRET, Keys.ENTER)
    phone.wait_text("#state", "Paid")
    assert phone.run("return document.activeElement.textContent") == "Thank you"


def test_pages_ask_nothing_of_anybody_else(
    parties: Parties, shown: tuple[Screen, Screen]
) -> None:
    """A strict policy, and no script in a page; the console would tell what it stopped."""
    television, _ = shown
    for name in ("first", "second", "payment", "enrol"):
        television.open(page(parties, f"{name}.html"))
        answer = parties.television.http.get(page(parties, f"{name}.html"))
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "style=" not in answer.text and "onclick" not in answer.text
        origins = television.run(
            "return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)")
        assert set(origins) == {parties.served.origin}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_contrast_enough_in_both_schemes(
    parties: Parties, shown: tuple[Screen, Screen], scheme: str
) -> None:
    television, phone = shown
    phone.prefer(prefers_color_scheme=scheme)
    television.open(page(parties, "first.html"))
    phone.open(page(parties, "second.html"))
    ask(parties, television)
    what(phone)
    assert phone.run(CONTRASTS) >= 4.5
    phone.tap("#inbox a")
    phone.find("#confirm")
    assert phone.run(CONTRASTS) >= 4.5
    assert phone.run("return document.documentElement.scrollWidth <= innerWidth")


# The least contrast (WCAG 2.2, 1.4.3) of any text that shows with what is behind it.
CONTRASTS = """
    const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) =>
        0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const colour = text => text.match(/[\\d.]+/g).map(Number);
    const behind = element => {
        for (let one = element; one; one = one.parentElement) {
            const found = colour(getComputedStyle(one).backgroundColor);
            if (found.length === 3 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    const contrasts = [...document.querySelectorAll("main *")]
        .filter(one => one.checkVisibility() && [...one.childNodes].some(
            node => node.nodeType === 3 && node.textContent.trim()))
        .map(one => {
            const pair = [colour(getComputedStyle(one).color), behind(one)].map(luminance);
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        });
    return Math.min(...contrasts);"""
