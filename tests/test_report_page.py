"""A run's page: its figures are the report's, and it is legible wherever it is read."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Screen
from gateways import HEADER, packet, running

import tollsplit
from tollsplit.cli import main
from tollsplit.cli.overview import Overview
from tollsplit.cli.report_page import report_page
from tollsplit.report import Report
from tollsplit.rules import load

START_NS = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 10**9
HOUR_NS = 3600 * 10**9
SPONSORS = 7
SUBSCRIBERS = 30
HOSTILE = "<script>alert('1')</script> & 张三 \"Söhne\" \u202ekcab"
LONG = "a-very-long-account-name-without-any-blank-in-it@subscribers.operator.example"

RULES = """
[meter]
window = "{window}"
zone = "{zone}"
[[pools]]
prefixes = ["10.0.0.0/8"]
directory = "subscribers.csv"
[tariffs.standard]
currency = "CNY"
price = "1 CNY / MiB"
prices = "net"
taxes = "vat"
[taxes.vat]
rate = "6%"
"""
RULE = """
[sponsors.sponsor-{n}]
[[rules]]
id = "rule-{n}"
precedence = {n}
match = {{ server = ["203.0.{n}.0/24"] }}
split = {{ sponsor = "sponsor-{n}", share = "{share}%" }}
"""


def write_home(home: Path, window: str = "1h", zone: str = "Asia/Shanghai") -> None:
    """A capture of 26 hours: each subscriber at each hour, with one server of seven or another."""
    (home / "rules.toml").write_text(RULES.format(window=window, zone=zone) + "".join(
        RULE.format(n=n, share=90 - 10 * n) for n in range(1, SPONSORS + 1)), "utf-8")
    rows = [("prefix", "account", "valid_from", "valid_to"),
            ("10.0.0.1/32", '"' + HOSTILE.replace('"', '""') + '"', "", ""),
            ("10.0.0.2/32", LONG, "", "")]  # fmt: skip
    (home / "subscribers.csv").write_text("".join(",".join(row) + "\n" for row in rows), "utf-8")
    records = []
    for hour in range(26):
        for who in range(1, SUBSCRIBERS + 1):
            server = 0xCB000001 + (((hour * who) % 9) << 8)  # of none, sponsor 1 to 7, none
            octets = 1200 + 37 * who * (13 - abs(hour - 13))
            records.append(packet(START_NS + hour * HOUR_NS + who, octets, 0x0A000000 + who, server,
                                  uplink=bool(who % 3)))  # fmt: skip
    octets = b"".join(records)
    fault = bytearray(packet(START_NS))
    fault[16] = 0x55  # no version of IP
    (home / "campus <b>.pcap").write_bytes(HEADER + octets + bytes(fault))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("page")
    write_home(home)
    return home


@pytest.fixture(scope="module")
def report(home: Path) -> Report:
    found = tollsplit.account(home / "campus <b>.pcap", home / "rules.toml", identified=True)
    assert found.identity_holds
    return found


class Page(HTMLParser):
    """What a page says: its tables by name, each row's cells; and all its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self.words = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs)["aria-label"] or "", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = True
        elif tag == "small" and self._cell:
            self._rows[-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._cell:
            self._rows[-1][-1] += data


def numbers(row: list[str]) -> list[int]:
    return [int(cell.replace(",", "").replace("−", "-")) for cell in row if cell]


def of(document: dict[str, Any], key: str, value: object) -> list[int]:
    """What a column of the page's tables has to say of some usage entries, from the document."""
    mine = [entry for entry in document["usage"] if entry[key] == value]
    up, down = (sum(e[f"{way}link_octets"] for e in mine) for way in ("up", "down"))
    own = sum(entry["subscriber_octets"] for entry in mine)
    sponsored = sum(sum(entry["sponsor_octets"].values()) for entry in mine)
    return [up + down, up, down, own, sponsored]


def test_report_page_has_the_reports_figures(report: Report) -> None:
    document = report.document()
    read = Page(report_page(report, top=12))
    subscribers = read.tables["Largest subscribers"][1:]
    assert len(subscribers) == 12
    for name, *row in subscribers:
        assert numbers(row) == of(document, "subscriber", name.split("\n")[0])
    octets = [numbers(row)[0] for _, *row in subscribers]
    assert octets == sorted(octets, reverse=True)
    left = document["metered"]["octets"] - sum(octets)
    assert f"18 more subscribers used {left:,} octets" in read.words
    rules = {name: numbers(row) for name, *row in read.tables["By rule"][1:]}
    assert list(rules) == [*(f"rule-{n}" for n in range(1, 8)), "no rule"]
    for name, row in rules.items():
        assert row == of(document, "rule", None if name == "no rule" else name)
    for name, sums in (("seen", document["seen"]), ("metered", document["metered"]),
                       ("unattributed", document["unattributed"]),
                       ("fault: ip version", document["faults"]["ip_version"])):
        [row] = [row for row in read.tables["Every frame in one bucket"] if row[0] == name]
        assert numbers(row[1:]) == [sums["packets"], sums["octets"]]
    assert "faults: 1 packets, 128 octets, cannot be understood" in read.words
    assert f"{document['seen']['octets']:,} octets in {document['seen']['packets']:,}" in read.words
    assert document["rules_version"] in read.words
    assert report.run is not None and report.run.captures[0][1] in read.words


def test_report_page_payers_add_up(report: Report) -> None:
    """Five sponsors by name, who pay most first; the two others together."""
    document = report.document()
    read = Page(report_page(report, top=5))
    paid = document["metered"]["sponsor_octets"]
    largest = sorted(paid, key=lambda name: -paid[name])
    shown = {row[0]: numbers(row[1:2])[0] for row in read.tables["Who pays"][1:]}
    assert list(shown) == ["subscribers", *(f"sponsor {name}" for name in largest[:5]),
                           "2 other sponsors", "Metered"]  # fmt: skip
    assert shown["2 other sponsors"] == paid[largest[5]] + paid[largest[6]]
    assert shown["subscribers"] == document["metered"]["subscriber_octets"]
    assert sum(shown.values()) == 2 * shown["Metered"] == 2 * document["metered"]["octets"]
    [title] = [name for name in read.tables if name.startswith("Octets by")]
    assert title == "Octets by hour, wall time of Asia/Shanghai"
    head, *hours = read.tables[title]
    assert head[2:] == list(shown)[:-1] and len(hours) == 26
    assert [row[0] for row in hours[:2]] == ["2026-11-01 08:00", "2026-11-01 09:00"]
    sums = [sum(column) for column in zip(*(numbers(row[1:]) for row in hours), strict=True)]
    assert sums == [shown["Metered"], *list(shown.values())[:-1]]


def test_report_page_charges_are_exact(report: Report) -> None:
    total = sum(charge.total_micros for charge in report.charges)
    taxes = sum(part.amount_micros for charge in report.charges for part in charge.taxes)
    assert taxes > 0
    read = Page(report_page(report, top=3))
    *_, last = read.tables["Charges"]
    assert last == ["All accounts", "", *(f"{n // 10**6:,}.{n % 10**6:06} CNY"
                                          for n in (taxes, total))]  # fmt: skip
    assert len(read.tables["Charges"]) == 5 and "34 more accounts" in read.words
    untaxed = replace(report, charges=tuple(c._replace(taxes=()) for c in report.charges))
    *_, last = Page(report_page(untaxed, top=3)).tables["Charges"]
    assert len(last) == 3


def test_report_page_is_one_file_that_runs_nothing(report: Report) -> None:
    """Names are text, whoever chose them."""
    text = report_page(report, top=40)
    read = Page(text)
    assert not {"script", "b", "link", "img", "iframe", "a", "form"} & set(read.tags)
    assert not re.search(r"https?:|url\(|@import|src=|href=|\son\w+=", text)
    assert f"10.0.0.1\n{HOSTILE}" in [row[0] for row in read.tables["Largest subscribers"]]
    assert "campus <b>.pcap" in read.words
    assert "default-src 'none'" in text


def test_report_page_shows_what_is_wrong(report: Report) -> None:
    tally = report.tally
    broken = replace(report, tally=replace(tally, seen=tally.seen + tally.seen),
                     truncated=("<cut>.pcap: ends inside record 3",),
                     captures=(os.fsdecode(b"\xff.pcap"),))  # fmt: skip
    text = report_page(broken, top=3)
    assert "DO NOT ADD UP" in text and "Nothing is missing" not in text
    assert "&lt;cut&gt;.pcap: ends inside record 3" in text
    assert "<bdi>\\udcff.pcap</bdi>" in text
    assert text.encode("utf-8")


def test_report_page_of_many_subscribers_is_small(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES.format(window="1h", zone="UTC").replace(
        'directory = "subscribers.csv"', "") + RULE.format(n=1, share=50), "utf-8")
    (tmp_path / "many.pcap").write_bytes(HEADER + b"".join(
        packet(START_NS + n * 10**6, subscriber=0x0A000000 + n) for n in range(30_000)))
    report = tollsplit.account(tmp_path / "many.pcap", tmp_path / "rules.toml")
    text = report_page(report, top=20)
    assert len(text) < 40_000
    assert "29,980 more subscribers used 3,837,440 octets" in text


def test_report_page_without_traffic_or_windows_says_so(tmp_path: Path) -> None:
    for window, octets, said in (("1h", HEADER, "No traffic."),
                                 ("all", HEADER + packet(START_NS), "window is")):  # fmt: skip
        (tmp_path / "rules.toml").write_text(RULES.format(window=window, zone="UTC").replace(
            'directory = "subscribers.csv"', ""), "utf-8")
        (tmp_path / "c.pcap").write_bytes(octets)
        report = tollsplit.account(tmp_path / "c.pcap", tmp_path / "rules.toml")
        text = report_page(report, top=20)
        assert said in text and "Octets by" not in text


@pytest.mark.parametrize(("window", "zone", "hours", "step", "columns", "first", "last"), [
    ("1s", "UTC", 0, "second", 1, "2026-10-24 22:00:00", "2026-10-24 22:00:00"),
    ("1m", "UTC", 1, "minute", 61, "2026-10-24 22:00:00", "2026-10-24 23:00:00"),
    ("1m", "Asia/Kolkata", 26, "hour", 27, "2026-10-25 03:00:00", "2026-10-26 05:00:00"),
    # Clocks go back at 3 o'clock: that hour's two are one column.
    ("1h", "Europe/Berlin", 9, "hour", 9, "2026-10-25 00:00:00", "2026-10-25 08:00:00"),
    ("1h", "UTC", 96, "day", 5, "2026-10-24 00:00:00", "2026-10-28 00:00:00"),
    ("1d", "Europe/Berlin", 48, "day", 2, "2026-10-25 00:00:00", "2026-10-26 00:00:00"),
    ("1d", "UTC", 24 * 130, "month", 6, "2026-10-01 00:00:00", "2027-03-01 00:00:00"),
    ("1mo", "UTC", 24 * 40, "month", 3, "2026-10-01 00:00:00", "2026-12-01 00:00:00"),
])  # fmt: skip
def test_report_page_times_are_apart_and_add_up(
    tmp_path: Path, window: str, zone: str, hours: int, step: str, columns: int, first: str,
    last: str,
) -> None:  # fmt: skip
    start = int(datetime(2026, 10, 24, 22, tzinfo=UTC).timestamp()) * 10**9
    (tmp_path / "rules.toml").write_text(RULES.format(window=window, zone=zone).replace(
        'directory = "subscribers.csv"', "") + RULE.format(n=1, share=50), "utf-8")
    (tmp_path / "c.pcap").write_bytes(HEADER + b"".join(
        packet(start + hour * HOUR_NS) for hour in range(hours + 1)))
    report = tollsplit.account(tmp_path / "c.pcap", tmp_path / "rules.toml")
    times = Overview(report.usage).times()
    assert times is not None
    assert (times.step, len(times.stretches)) == (step, columns)
    assert (str(times.stretches[0].start), str(times.stretches[-1].start)) == (first, last)
    sums = [sum(column) for column in zip(*(s.paid for s in times.stretches), strict=True)]
    assert sum(sums) == 128 * (hours + 1) == report.tally.metered.octets


def test_report_page_of_a_live_run_names_its_interfaces(home: Path, tmp_path: Path) -> None:
    with running(tmp_path, load(home / "rules.toml"), document=True) as run:
        run.frames.lanes[0].give(packet(time.time_ns(), subscriber=0x0A000002))
    text = report_page(run.gateway.reports[-1], top=20)
    assert "<h1><bdi>test0</bdi></h1>" in text and f"<bdi>{LONG}</bdi>" in text


# --- as it is seen ---------------------------------------------------------------------

OVERLAPS = """
const found = [];
const apart = (what, boxes) => {
    for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
        const [a, b] = [boxes[i].getBoundingClientRect(), boxes[j].getBoundingClientRect()];
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
            found.push(`${what}: ${boxes[i].textContent} / ${boxes[j].textContent}`);
    }
};
for (const list of ["body", "header", "dl", "figcaption", "figure"])
    for (const box of document.querySelectorAll(list)) apart(list, [...box.children]);
for (const svg of document.querySelectorAll("svg")) {
    apart("svg", [...svg.querySelectorAll("text")]);
    const room = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
        const box = text.getBoundingClientRect();
        if (box.left < room.left - 1 || box.right > room.right + 1) found.push(text.textContent);
    }
}
for (const row of document.querySelectorAll("tr")) apart("row", [...row.children]);
for (const cell of document.querySelectorAll("td, th, dd, dt, h1, h2, p, li, summary")) {
    const range = document.createRange();
    range.selectNodeContents(cell);
    const [text, room] = [range.getBoundingClientRect(), cell.getBoundingClientRect()];
    if (text.width && (text.left < room.left - 1 || text.right > room.right + 1))
        found.push(`beyond its cell: ${cell.textContent}`);
}
if (document.documentElement.scrollWidth > innerWidth)
    found.push(`${document.documentElement.scrollWidth} pixels in ${innerWidth}`);
return found;
"""


@pytest.mark.parametrize(("width", "height", "scheme"), [
    (360, 780, "light"), (390, 844, "dark"), (1280, 900, "light"), (1280, 900, "dark"),
])  # fmt: skip
def test_report_page_in_a_browser(
    home: Path, screens: Callable[[], Screen], width: int, height: int, scheme: str
) -> None:
    path = home / "page.html"
    if not path.exists():
        assert main(["account", str(home / "campus <b>.pcap"), "--rules",
                     str(home / "rules.toml"), "--top", "40",
                     "--format", "html", "--output", str(path)]) == 0
    screen = screens()
    screen.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
    screen.prefer(prefers_color_scheme=scheme)
    screen.open(path.as_uri())
    assert screen.run(OVERLAPS) == []
    screen.tap("summary")
    assert screen.run(OVERLAPS) == []
    assert screen.run("return performance.getEntriesByType('resource').length") == 0
    read = Page(path.read_text("utf-8"))
    for name, *row in read.tables["Largest subscribers"][1:]:
        shown = screen.run("return [...document.querySelectorAll('td')].map(c => c.innerText)")
        assert name.split("\n")[0] in "\n".join(shown) and set(row) <= {*shown, ""}
    dark = screen.run("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
    assert screen.run("return [...document.querySelectorAll('svg:not([aria-hidden])')]"
                      ".every(e => e.role === 'img' && e.ariaLabel)")
    screen.picture(f"report-{width}-{scheme}")
    assert screen.console() == []


def test_report_page_on_paper(home: Path, screens: Callable[[], Screen]) -> None:
    path = home / "paper.html"
    report = tollsplit.account(home / "campus <b>.pcap", home / "rules.toml")
    path.write_text(report_page(report, top=20), "utf-8")
    screen = screens()
    screen.open(path.as_uri())
    screen.command("Emulation.setDeviceMetricsOverride", width=688, height=1000,
                   deviceScaleFactor=1, mobile=False)  # A4 less its margins
    screen.command("Emulation.setEmulatedMedia", media="print")
    assert screen.run(OVERLAPS) == []
    assert screen.run("return getComputedStyle(document.querySelector('.wide')).overflowX") == (
        "visible")
