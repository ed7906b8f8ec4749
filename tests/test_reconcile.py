"""Reconciling: what agrees, what differs and by how much, what is missing, what is refused."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bookings import DAY3, HOUR, charge, record, run_of
from parties import END, START, document, usage

from tollsplit.cli import main
from tollsplit.errors import ReconcileError, TollsplitError, UsageError
from tollsplit.ledger import open_ledger
from tollsplit.reconcile import Comparison, Finding, reconcile
from tollsplit.report import charge_entry, usage_entry, write_lines


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("ours.json").write_text(document(usage()))
    return tmp_path


def against(theirs: str, mapping: str | None = None, **options: Any) -> Comparison:
    """Ours against their file of that text."""
    Path("theirs").write_text(theirs, "utf-8")
    if mapping is not None:
        Path("map.toml").write_text(mapping, "utf-8")
        options["mapping"] = "map.toml"
    return reconcile("ours.json", "theirs", **options)


def counts(found: Comparison) -> dict[str, int]:
    return {verdict: count for verdict, count in found.usage.counts.items() if count}


def differences(finding: Finding) -> dict[str, tuple[int | None, int | None]]:
    return {f.name: (f.ours, f.theirs) for f in finding.figures if f.difference}


# --- the forms in which a party's records come ---------------------------------------------


def test_reconcile_every_form_of_the_same_records_agrees() -> None:
    records = [record(i, DAY3 + HOUR * i, sponsor_octets={"video-co": 500, "shop-co": 200})
               for i in range(30)] + [
        record(30, account="=cmd", rule=None, rating_group=None, subscriber_octets=1000,
               sponsor_identity=None, sponsor_octets={})]  # fmt: skip
    charges = [charge(), charge(609, "sponsor:video-co"), charge(3, period_start=None)]
    with open_ledger("sqlite:///books.db") as ledger:
        ledger.post(run_of(), records, charges)
    Path("a.json").write_text(document(*map(usage_entry, records),
                                       charges=[*map(charge_entry, charges)]))
    columns = ["line", *usage(), "sponsor_octets.video-co", "sponsor_octets.shop-co",
               *charge_entry(charge())]
    columns = list(dict.fromkeys(c for c in columns if c != "sponsor_octets"))
    with open("a.csv", "w", newline="") as text:
        entries = [usage_entry(r) for r in records]
        write_lines(text, columns, [
            *({"line": "usage", **{k: v for k, v in e.items() if k != "sponsor_octets"},
               **{f"sponsor_octets.{s}": e["sponsor_octets"].get(s, 0)
                  for s in ("video-co", "shop-co")}} for e in entries),
            {"line": "bucket", "octets": 7},
            *({"line": "charge", **charge_entry(c)} for c in charges)])
    forms = ["a.json", "a.csv", "sqlite:///books.db"]
    for ours in forms:
        for theirs in forms:
            for by in ("window,subscriber,rule", "day,account,rating_group", "month", "account"):
                with reconcile(ours, theirs, by=by) as found:
                    assert found.agrees, (ours, theirs, by, list(found.findings()))
                    assert found.usage.totals["uplink_octets"] == [31 * 400] * 2
                    assert found.usage.totals["sponsor_octets.shop-co"] == [30 * 200] * 2
                    assert found.charges.totals == {"amount_micros.CNY": [699, 699]}
    # The guard against formulas is taken off again.
    with reconcile("a.json", "a.csv", by="account") as found:
        accounts = {f.key["account"] for f in found.findings(everything=True)}
    assert accounts == {"=cmd", "alice", "sponsor:video-co"}


def test_reconcile_leaves_out_what_a_reversal_took_back() -> None:
    with open_ledger("sqlite:///books.db") as ledger:
        ledger.post(run_of(), [record()], [charge()])
        ledger.post(run_of("e2"), [record(epoch="e2")], [])
    with reconcile("ours.json", "sqlite:///books.db") as found:
        assert next(map(differences, found.findings()))["uplink_octets"] == (400, 800)
    with closing(sqlite3.connect("books.db")) as books:
        books.execute("INSERT INTO transactions (id, kind, idempotency_key, fingerprint, "
                      "created_at_ns, description, reverses) VALUES (3, 'reversal', 'k', 'f', 1, "
                      "'', 1)")  # fmt: skip
        books.commit()
    with reconcile("ours.json", "sqlite:///books.db") as found:
        assert found.agrees and not found.charges.totals


MAP = """
zone = "Asia/Shanghai"
window = "1h"
time_format = "%d.%m.%Y %H:%M"
delimiter = ";"
currency = "CNY"
[columns]
window_start = "Beginn"
subscriber = "Teilnehmer"
rule = "Dienst"
uplink_octets = "hoch"
downlink_octets = "runter"
amount = "Betrag"
[columns.sponsor_octets]
video-co = "Vidéo"
[values.rule]
"D-7" = "pay-proxy"
"""
OPERATORS = """Beginn;Teilnehmer;Dienst;hoch;runter;Vidéo;Betrag;Rest
03.11.2026 08:00;10.0.0.7;D-7;400;600;700;0.000087;x
"""


def test_reconcile_an_operators_csv_by_its_mapping() -> None:
    owed = charge_entry(charge(account="10.0.0.7"))
    Path("ours.json").write_text(document(usage(), charges=[owed]))
    with against(OPERATORS, MAP) as found:
        assert found.agrees, list(found.findings())
        assert counts(found) == {"agreeing": 1} and found.charges.counts["agreeing"] == 1
        assert found.notes == ["packets not compared: only ours.json states them",
                               "subscriber_octets not compared: only ours.json states them"]
    with against(OPERATORS.replace("600", "599").replace("87", "88"), MAP) as found:
        usage_finding, charge_finding = found.findings()
    assert differences(usage_finding) == {"downlink_octets": (600, 599)}
    assert [f.percent for f in usage_finding.figures if f.difference] == [-100 / 600]
    assert differences(charge_finding) == {"amount_micros.CNY": (87, 88)}
    assert charge_finding.key == {"account": "10.0.0.7"}


@pytest.mark.parametrize("theirs", [
    pytest.param("\ufeffWindow Start,Window-End,MSISDN,rule,UL_Bytes,bytes.down\n"
                 f"{START},{END},10.0.0.7,pay-proxy,400,600\n", id="recognised columns"),
    pytest.param("day\tsubscriber\trule\toctets\n2026-11-03\t10.0.0.7\tpay-proxy\t1000\n",
                 id="tabs, whole days, totals"),
    pytest.param(f'[{{"window_start": "{START}", "window_end": {int(DAY3.timestamp()) + 3600}, '
                 '"subscriber": "10.0.0.7", "rule": "pay-proxy", "octets": "1000"}]',
                 id="array of objects, Unix seconds"),
    pytest.param(f'{{"window_start": "{START}", "window_end": "{END}", "subscriber": "10.0.0.7", '
                 '"rule": "pay-proxy", "octets": 500}\n' * 2, id="an object a line"),
    pytest.param(f'{{"head": {{"usage": 1}}, "records": [{{"window_start": "{START}", '
                 f'"window_end": "{END}", "subscriber": "10.0.0.7", "rule": "pay-proxy", '
                 '"octets": 1000}]}', id="a document with records"),
])  # fmt: skip
def test_reconcile_an_operators_file_by_recognised_names(theirs: str) -> None:
    with against(theirs) as found:
        assert found.agrees, list(found.findings())
        assert counts(found) == {"agreeing": 1}


def test_reconcile_records_in_the_depth_of_a_document() -> None:
    theirs = json.dumps({"data": {"n": [1], "usage": [
        {"s": START, "who": "10.0.0.7", "what": "pay-proxy", "b": 1000}]}})
    mapping = """
        records = "data.usage"
        window = "1h"
        [columns]
        window_start = "s"
        subscriber = "who"
        rule = "what"
        octets = "b"
        """
    with against(theirs, mapping) as found:
        assert found.agrees and counts(found) == {"agreeing": 1}


# --- what is found ---------------------------------------------------------------------------


def test_reconcile_names_every_difference() -> None:
    other = usage(sequence=1, subscriber="10.0.0.8", account="bob")
    third = usage(sequence=2, subscriber="10.0.0.9", account="carl")
    Path("ours.json").write_text(document(usage(), other))
    theirs = usage(uplink_octets=399, uplink_packets=1,
                   sponsor_octets={"video-co": 690, "shop-co": 9})
    with against(document(theirs, third)) as found:
        assert not found.agrees
        assert counts(found) == {"differing": 1, "missing_ours": 1, "missing_theirs": 1}
        one, two, three = found.findings()
        totals = {f.name: (f.ours, f.theirs, f.difference) for f in found.usage.figures()}
    assert (one.verdict, one.key) == ("differing", {"subscriber": "10.0.0.7", "rule": "pay-proxy"})
    assert differences(one) == {
        "uplink_packets": (2, 1), "uplink_octets": (400, 399),
        "sponsor_octets.video-co": (700, 690), "sponsor_octets.shop-co": (0, 9)}  # fmt: skip
    assert (two.verdict, two.key["subscriber"]) == ("missing_theirs", "10.0.0.8")
    assert differences(two)["downlink_octets"] == (600, None)
    assert (three.verdict, three.key["subscriber"]) == ("missing_ours", "10.0.0.9")
    assert differences(three)["sponsor_octets.video-co"] == (None, 700)
    assert totals["uplink_octets"] == (800, 799, -1)
    assert totals["sponsor_octets.video-co"] == (1400, 1390, -10)


def test_reconcile_a_line_of_nothing_is_not_missed() -> None:
    nothing = dict.fromkeys(("uplink_packets", "uplink_octets", "downlink_packets",
                             "downlink_octets", "subscriber_octets"), 0)
    idle = usage(subscriber="10.0.0.8", sponsor_octets={}, **nothing)
    with against(document(usage(), idle)) as found:
        assert found.agrees and counts(found) == {"agreeing": 2}


@pytest.mark.parametrize(("tolerance", "octets", "verdict"), [
    ("0", 400, "agreeing"), ("0", 401, "differing"),
    ("4", 404, "within_tolerance"), ("4", 396, "within_tolerance"), ("4", 405, "differing"),
    ("1%", 404, "within_tolerance"), ("1.25%", 405, "within_tolerance"), ("1%", 405, "differing"),
    ("0.999999999%", 404, "differing"),
])  # fmt: skip
def test_reconcile_tolerance_is_exact(tolerance: str, octets: int, verdict: str) -> None:
    with against(document(usage(uplink_octets=octets)), tolerance=tolerance) as found:
        assert counts(found) == {verdict: 1}
        assert found.agrees == (verdict != "differing")


def test_reconcile_tolerance_in_octets_is_none_of_packets_or_amounts() -> None:
    with against(document(usage(uplink_packets=3)), tolerance="1000") as found:
        assert counts(found) == {"differing": 1}
    with against(document(), tolerance="1000") as found:
        assert counts(found) == {"missing_theirs": 1}


def test_reconcile_of_a_sponsor_sees_his_records_only() -> None:
    his = usage(sequence=1, subscriber="10.0.0.8")
    own = usage(rule=None, sponsor_identity=None, sponsor_octets={}, subscriber_octets=1000)
    shop = usage(rule="shop", sponsor_identity="shop-co", sponsor_octets={"shop-co": 5})
    second = usage(rule="live", sponsor_identity="shop-co",
                   sponsor_octets={"shop-co": 5, "video-co": 1})
    Path("ours.json").write_text(document(usage(), his, own, shop, second,
                                          charges=[charge_entry(charge())]))
    with against(document(usage(), second), sponsor="video-co") as found:
        assert counts(found) == {"agreeing": 2, "missing_theirs": 1}
        [finding] = found.findings()
    assert finding.key["subscriber"] == "10.0.0.8"


def test_reconcile_charges_by_account_day_and_currency() -> None:
    ours = [charge(), charge(5, currency="EUR"), charge(7, "bob", period_start=DAY3 + HOUR * 24)]
    theirs = [charge(80), charge(7), charge(5, currency="EUR"), charge(7, "bob")]
    Path("ours.json").write_text(document(usage(), charges=[*map(charge_entry, ours)]))
    text = document(usage(), charges=[*map(charge_entry, theirs)])
    with against(text) as found:
        assert [(f.verdict, f.key, differences(f)) for f in found.findings()] == [
            ("missing_ours", {"account": "bob"}, {"amount_micros.CNY": (None, 7)}),
            ("missing_theirs", {"account": "bob"}, {"amount_micros.CNY": (7, None)})]  # fmt: skip
    with against(text, by="month,account") as found:
        assert found.agrees and found.charges.counts["agreeing"] == 3
    with against(document(usage())) as found:
        assert found.agrees
        assert found.notes == ["amounts not compared: only ours.json states them"]
    # A party that states no days is compared without them.
    undated = [charge_entry(charge(87, period_start=None)), charge_entry(charge(5, currency="EUR")),
               charge_entry(charge(7, "bob"))]
    with against(document(usage(), charges=undated)) as found:
        assert found.agrees and found.charges.counts["agreeing"] == 3


# --- time --------------------------------------------------------------------------------------


def hours(count: int, length: int = 1, first: int = 0) -> list[dict[str, Any]]:
    """Windows of some hours, 1000 octets an hour."""
    return [usage_entry(record(i, DAY3 + HOUR * i, window_end=DAY3 + HOUR * (i + length),
                               uplink_octets=400 * length, downlink_octets=600 * length,
                               uplink_packets=2 * length, downlink_packets=3 * length,
                               subscriber_octets=300 * length,
                               sponsor_octets={"video-co": 700 * length}))
            for i in range(first, count, length)]  # fmt: skip


def test_reconcile_windows_that_nest_are_compared_by_the_longer_ones() -> None:
    Path("ours.json").write_text(document(*hours(48)))
    with against(document(*hours(48, 24))) as found:
        assert found.agrees and counts(found) == {"agreeing": 2}
        assert found.notes == ["windows differ in length: compared by the longer ones"]
    # Ours may be the longer ones here, theirs there.
    Path("ours.json").write_text(document(*hours(24), *hours(48, 24, 24)))
    with against(document(*hours(24, 24), *hours(48, 2, 24))) as found:
        assert found.agrees and counts(found) == {"agreeing": 2}
    everything = hours(48, 48)[0] | {"window_start": None, "window_end": None}
    with against(document(everything)) as found:
        assert found.agrees and counts(found) == {"agreeing": 1}
    with against(document(*hours(47))) as found:
        assert counts(found) == {"agreeing": 24, "differing": 1}


def test_reconcile_windows_that_overlap_are_refused_with_the_reason() -> None:
    Path("ours.json").write_text(document(*hours(4, 2)))
    with pytest.raises(ReconcileError, match=(
        r"windows 2026-11-03 00:00\.\.02:00 \(ours\.json\) and 2026-11-03 01:00\.\.03:00 "
        r"\(theirs\) overlap .* choose --by day"
    )):  # fmt: skip
        against(document(*hours(5, 2, 1)))
    with against(document(*hours(5, 2, 1)), by="day,subscriber") as found:
        assert found.agrees


def test_reconcile_by_day_and_month_in_a_zone() -> None:
    Path("ours.json").write_text(document(*hours(48)))
    with against(document(*hours(48, 24)), by="day,subscriber") as found:
        assert counts(found) == {"agreeing": 2}
    with pytest.raises(ReconcileError, match="goes on beyond its day in Asia/Shanghai"):
        against(document(*hours(48, 24)), by="day", zone="Asia/Shanghai")
    with against(document(*hours(48)), by="day", zone="Asia/Shanghai") as found:
        assert counts(found) == {"agreeing": 3}
    with against(document(*hours(48, 24)), by="month,rule") as found:
        assert counts(found) == {"agreeing": 1}


def test_reconcile_days_of_25_hours() -> None:
    """The night in which Berlin's clocks go back: a day of theirs is 25 hours of ours."""
    start = datetime(2026, 10, 24, 22, tzinfo=UTC)
    ours = [usage_entry(record(i, start + HOUR * i)) for i in range(25 + 24)]
    Path("ours.json").write_text(document(*ours))
    theirs = ("window_start,subscriber,rule,octets\n2026-10-25 00:00,10.0.0.7,pay-proxy,25000\n"
              "2026-10-26 00:00,10.0.0.7,pay-proxy,24000\n")  # fmt: skip
    mapping = """
        zone = "Europe/Berlin"
        window = "1d"
        [columns]
        window_start = "window_start"
        subscriber = "subscriber"
        rule = "rule"
        octets = "octets"
        """
    with against(theirs, mapping) as found:
        assert found.agrees and counts(found) == {"agreeing": 2}
    by_day = theirs.replace("window_start", "day").replace(" 00:00", "")
    with against(by_day, mapping.replace("window_start", "day"), by="day,subscriber,rule",
                 zone="Europe/Berlin") as found:  # fmt: skip
        assert found.agrees and counts(found) == {"agreeing": 2}


def test_reconcile_a_period() -> None:
    Path("ours.json").write_text(document(*hours(48)))
    with against(document(*hours(24)), period="2026-11-03") as found:
        assert found.agrees and counts(found) == {"agreeing": 24}
    with against(document(*hours(24)), period="2026-11") as found:
        assert counts(found) == {"agreeing": 24, "missing_theirs": 24}
    with pytest.raises(ReconcileError, match="nothing to compare"):
        against(document(*hours(24)), period="2026-12")
    with pytest.raises(ReconcileError, match="goes on beyond the period"):
        against(document(*hours(48, 24)), period="2026-11-03", zone="Asia/Tokyo")


# --- what is refused -----------------------------------------------------------------------------

CSV = f"window_start,window_end,subscriber,rule,octets\n{START},{END},10.0.0.7,pay-proxy,"


@pytest.mark.parametrize(("theirs", "mapping", "message"), [
    ("", None, "theirs: empty; expected usage records as JSON or CSV"),
    ("a,b\n1,2\n", None, "theirs: no column for octets, packets or amounts; name columns in a "
     "mapping file (--map); it has: a, b"),
    ("a,a\n1,2\n", None, 'theirs: two columns are called "a"'),
    ("octets,bytes\n1,2\n", None, 'theirs: "octets" and "bytes" may both be octets; say which'),
    ("octets\n1\n", None, "theirs: says no window; leave it out of --by"),
    ("day,subscriber,octets\n2026-11-03,x,1\n", None, "theirs: says no rule; leave it out of --by"),
    ("start_time,octets\n1,2\n", None, 'no column for window_end (or say how long windows are'),
    (f"{CSV}1e3\n", None, 'theirs: line 2: column "octets": expected a whole number below 2^63, '
     'got "1e3"'),
    (f"{CSV}-1\n", None, 'column "octets": expected a whole number from 0 on, got "-1"'),
    (f"{CSV}1,2\n", None, "theirs: line 2: expected 5 cells, got 6"),
    (CSV.replace(END, "soon") + "1\n", None, 'line 2: column "window_end": expected a time of '
     'ISO 8601, or Unix seconds, got "soon"'),
    (CSV.replace(END, START) + "1\n", None, f"line 2: expected an end after {START}, got {START}"),
    ("day,subscriber,rule,octets\n3.11.2026,x,y,1\n", None,
     'column "day": expected a day as "2026-11-03", got "3.11.2026"'),
    ('[{"octets": 1.5, "day": "2026-11-03", "subscriber": "x", "rule": null}]', None,
     'theirs: record 1: column "octets": expected a whole number below 2^63, got "1.5"'),
    ('[{"octets": 1, "day": "2026-11-03", "subscriber": "x", "rule": null}, {}]', None,
     'theirs: record 2: expected a column "octets", found none'),
    ('{"a": [1]}', None, "theirs: no column for octets"),
    ("[1]", None, "theirs: no records found; say where they are in a mapping file"),
    ('{"schema": "tollsplit.statement/1"}', None, 'expected schema "tollsplit.account/1", got'),
    ('{"schema": "tollsplit.account/1", "usage": [{}]}', None, "theirs: usage 1: "),
    (document(usage())[:-20], None, "theirs: at character "),
    (document(usage()).replace(": 400", ": 04"), None, "theirs: at character "),
    (document(usage(), layer="frame"), None, "was metered at layer ip, theirs at frame"),
    (OPERATORS, MAP.replace('"hoch"', '"up"'), 'theirs: no column "up" for uplink_octets; it has: '
     "Beginn, Teilnehmer"),
    (OPERATORS, MAP.replace("uplink_octets", "uplnk_octets"), 'map.toml:11: columns: unknown key '
     '"uplnk_octets"; did you mean "uplink_octets"?'),
    (OPERATORS, MAP.replace('"CNY"', '"cny"'), "map.toml:6: "),
    (OPERATORS.replace("0.000087", "0.0000875"), MAP, 'line 2: column "Betrag": expected an amount '
     'with at most six decimals as "1.234567", got "0.0000875"'),
    (OPERATORS.replace("03.11.2026", "3rd"), MAP, 'column "Beginn": expected a time as'),
])  # fmt: skip
def test_reconcile_bad_input_is_one_message(
    theirs: str, mapping: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TollsplitError) as raised:
        against(theirs, mapping)
    assert message in str(raised.value)
    assert raised.value.exit_code == 3
    options = ["--map", "map.toml"] if mapping is not None else []
    assert main(["reconcile", "ours.json", "theirs", *options]) == 3
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize("options", [
    {"by": "week"}, {"by": "day,month"}, {"by": "rule,rule"}, {"by": ""}, {"tolerance": "-1"},
    {"tolerance": "lots"}, {"period": "2026"}, {"zone": "Mars"},
])  # fmt: skip
def test_reconcile_usage_errors(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        reconcile("ours.json", "ours.json", **options)


def test_reconcile_ledgers_that_cannot_be_read() -> None:
    with pytest.raises(ReconcileError, match=r"nowhere\.db: no such ledger"):
        reconcile("ours.json", "sqlite:///nowhere.db")
    with pytest.raises(UsageError, match="needs no mapping"):
        reconcile("ours.json", "sqlite:///nowhere.db", mapping="map.toml")
    assert not Path("nowhere.db").exists()


# --- what is written -----------------------------------------------------------------------------


def test_reconcile_forms_carry_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    Path("theirs.json").write_text(document(usage(uplink_octets=1_399, sponsor_octets={})))
    command = ["reconcile", "ours.json", "theirs.json"]
    assert main([*command, "--format", "json"]) == 1
    whole = json.loads(capsys.readouterr().out)
    assert whole["schema"] == "tollsplit.reconcile/1" and whole["agrees"] is False
    assert whole["usage"]["lines"]["differing"] == 1
    [line] = whole["lines"]
    assert line["verdict"] == "differing"
    assert line["window_start"] == "2026-11-03T00:00:00.000000000Z"
    [figure] = [f for f in line["figures"] if f["figure"] == "uplink_octets"]
    assert figure == {"figure": "uplink_octets", "ours": 400, "theirs": 1399, "difference": 999,
                      "percent": 249.75}
    assert main([*command, "--format", "csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    [row] = [r for r in rows if r["line"] == "usage" and r["figure"] == "uplink_octets"]
    assert (row["ours"], row["theirs"], row["difference"]) == ("400", "1399", "999")
    [row] = [r for r in rows if r["line"] == "usage total" and r["figure"] == "uplink_octets"]
    assert (row["ours"], row["theirs"]) == ("400", "1399")
    assert main(command) == 1
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for part in ("2026-11-03 00:00..01:00  10.0.0.7  pay-proxy: differing", "+999", "+249.75 %",
                 "octets of video-co", "THE TWO DO NOT AGREE"):
        assert part in text
    assert main(["reconcile", "ours.json", "ours.json", "--all", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["lines"]) == 1
    assert main(["reconcile", "ours.json", "ours.json"]) == 0
    assert "the two agree" in capsys.readouterr().out
