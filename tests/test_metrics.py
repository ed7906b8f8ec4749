"""The metrics: what is scraped equals the snapshot, and adds up as the snapshot does."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from snapshots import snapshot

from tollsplit import __version__
from tollsplit.cli.metrics import families, parse_address, serve
from tollsplit.errors import TollsplitError, UsageError
from tollsplit.model import Volume
from tollsplit.snapshot import Snapshot

Key = tuple[str, frozenset[tuple[str, str]]]
ROOT = Path(__file__).resolve().parents[1]
ANY = "127.0.0.1:0"


def fetch(address: str, accept: str = "text/plain") -> str:
    # No proxy of the environment stands between the two.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with opener.open(request, timeout=10) as response:
        assert response.status == 200
        return str(response.read().decode())


def scrape(now: Snapshot | None) -> list[Metric]:
    """Every family of one scrape over the wire."""
    with serve(ANY, lambda: now) as address:
        return list(text_string_to_metric_families(fetch(address)))


def samples(families: Iterable[Metric]) -> dict[Key, float]:
    return {(sample.name, frozenset(sample.labels.items())): sample.value
            for family in families for sample in family.samples}


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


def own(found: dict[Key, float]) -> dict[Key, float]:
    """Without the process's metrics."""
    return {name: value for name, value in found.items() if name[0].startswith("tollsplit_")}


def test_metrics_equal_the_snapshot() -> None:
    now = replace(snapshot(), lost_kernel=17, lost_interface=4, retransmitted=Volume(1, 2),
                  suspicious=Volume(3, 4), unsolicited=Volume(5, 6),
                  refused_tokens={"wrong_mac": Volume(7, 8), "used": Volume(0, 0)})
    volumes = {
        f"tollsplit_{name}_{unit}_total": getattr(getattr(now, name), unit)
        for name in ("seen", "metered", "metered_twice", "unattributed", "non_ip", "control",
                     "duplicate", "retransmitted", "coalesced", "mismatch", "overlapping",
                     "untracked", "suspicious", "unsolicited")
        for unit in ("packets", "octets")
    }
    expected = {key(name): value for name, value in volumes.items()} | {
        key("tollsplit_fault_packets_total", kind="truncated"): 7,
        key("tollsplit_fault_octets_total", kind="truncated"): 420,
        key("tollsplit_fault_packets_total", kind="ip_exceeds_wire"): 2,
        key("tollsplit_fault_octets_total", kind="ip_exceeds_wire"): 3_000,
        key("tollsplit_refused_token_packets_total", reason="wrong_mac"): 7,
        key("tollsplit_refused_token_octets_total", reason="wrong_mac"): 8,
        key("tollsplit_refused_token_packets_total", reason="used"): 0,
        key("tollsplit_refused_token_octets_total", reason="used"): 0,
        key("tollsplit_tunnel_overhead_octets_total"): 4_096,
        key("tollsplit_paid_octets_total", payer="subscriber", sponsor=""): 700_000_000,
        key("tollsplit_paid_octets_total", payer="sponsor", sponsor="sponsor-1"): 1_000_000,
        key("tollsplit_paid_octets_total", payer="sponsor", sponsor="sponsor-2"): 2_000_000,
        key("tollsplit_paid_octets_total", payer="sponsor", sponsor="sponsor-3"): 3_000_000,
        key("tollsplit_lost_packets_total", place="kernel"): 17,
        key("tollsplit_lost_packets_total", place="interface"): 4,
        key("tollsplit_identity_holds"): 1,
        key("tollsplit_subscribers"): 12_345,
        key("tollsplit_booked_records_total"): 98_765,
        key("tollsplit_unbooked_batches"): 2,
        key("tollsplit_unbooked_octets"): 1_258_291,
        key("tollsplit_unflushed_octets"): 2_048,
        key("tollsplit_booking_failed"): 0,
        key("tollsplit_events_total", kind="clock_step"): 1,
        key("tollsplit_events_total", kind="rules_changed"): 2,
        key("tollsplit_snapshot_timestamp_seconds"): now.taken_at_ns / 1e9,
        key("tollsplit_build_info", version=__version__, rules_version="sha256:3f2a9c1b77"): 1,
    }
    assert own(samples(scrape(now))) == expected


def test_metrics_add_up_again_from_what_was_scraped() -> None:
    found = samples(scrape(snapshot()))

    def total(name: str) -> float:
        return sum(value for (sample, _), value in found.items() if sample == name)

    for unit in ("packets", "octets"):
        parts = ("metered", "unattributed", "non_ip", "control", "duplicate", "retransmitted",
                 "fault")
        assert total(f"tollsplit_seen_{unit}_total") == (
            sum(total(f"tollsplit_{part}_{unit}_total") for part in parts)
            - total(f"tollsplit_metered_twice_{unit}_total")) > 0
    assert total("tollsplit_paid_octets_total") == total("tollsplit_metered_octets_total") > 0


@pytest.mark.parametrize(("change", "name", "value"), [
    ({"identity_holds": False}, "tollsplit_identity_holds", 0),
    ({"booking_error": "database is locked"}, "tollsplit_booking_failed", 1),
])  # fmt: skip
def test_metrics_tell_what_is_wrong(change: dict[str, Any], name: str, value: int) -> None:
    assert samples(families(replace(snapshot(), **change)))[key(name)] == value


def test_metrics_before_the_first_snapshot_are_the_process_s_own() -> None:
    found = samples(scrape(None))
    assert not own(found)
    assert found[key("process_resident_memory_bytes")] > 0


def test_metrics_each_scrape_has_one_snapshot_and_the_latest() -> None:
    asked: list[Snapshot] = []

    def latest() -> Snapshot:
        asked.append(snapshot(subscribers=len(asked)))
        return asked[-1]

    with serve(ANY, latest) as address:
        for count in range(3):
            assert f"\ntollsplit_subscribers {float(count)}\n" in fetch(address)
    assert len(asked) == 3


def test_metrics_follow_the_conventions() -> None:
    found = [family for family in scrape(snapshot()) if family.name.startswith("tollsplit_")]
    assert len(found) == len(list(families(snapshot())))
    for family in found:
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert not {"subscriber", "account"} & set(sample.labels)
        unit = re.search(r"_(packets|octets|seconds|records|batches)$", family.name)
        if unit:
            assert unit[1].rstrip("s") in family.documentation.lower(), family.name


def test_metrics_are_openmetrics_too() -> None:
    with serve(ANY, snapshot) as address:
        text = fetch(address, "application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics.text_string_to_metric_families(text)}
    assert {"tollsplit_seen_packets", "tollsplit_build"} <= names


def test_metrics_leave_nothing_of_a_snapshot_out() -> None:
    """Each field, when it changes, changes what is scraped; but for what is named here."""
    now = snapshot()
    before = samples(families(now))
    others = {
        int: lambda value: value + 10**9, float: lambda value: value + 1,
        bool: lambda value: not value, str: lambda value: value + "x",
        type(None): lambda value: "locked", Volume: lambda value: value + Volume(1, 1),
        dict: lambda value: dict(list(value.items())[1:]), tuple: lambda value: value[:1] * 2,
    }  # fmt: skip
    unseen = set()
    for name in (field.name for field in fields(Snapshot)):
        value = getattr(now, name)
        changed = replace(now, **{name: others[type(value)](value)})
        assert changed != now
        if samples(families(changed)) == before:
            unseen.add(name)
    assert unseen == {"running_s", "interfaces", "window", "heaviest", "has_ledger"}


# --- the server ----------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "found"), [
    ("127.0.0.1:9464", ("127.0.0.1", 9464)),
    ("[::1]:9464", ("::1", 9464)),
    ("[::]:1", ("::", 1)),
    ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ("localhost:0", ("localhost", 0)),
    (":9464", ("127.0.0.1", 9464)),
    ("9464", ("127.0.0.1", 9464)),
])  # fmt: skip
def test_metrics_address(address: str, found: tuple[str, int]) -> None:
    assert parse_address(address) == found


@pytest.mark.parametrize("address", [
    "", ":", "localhost", "localhost:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:9464x",
    "127.0.0.1:١", "::1:9464", "::1", "[::1]", "[localhost]:9464", " :9464", "[]:9464",
    "http://localhost:9464", "localhost:9464/metrics", "1" * 5000,
    "no-such-host.invalid:9464", f"{'a' * 70}:9464",
])  # fmt: skip
def test_metrics_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"^address") as refused, serve(address, snapshot):
        pass
    assert f'"{address}"' in str(refused.value)
    assert "expected HOST:PORT" in str(refused.value)


@pytest.mark.parametrize(("host", "family"), [
    ("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6),
])  # fmt: skip
def test_metrics_answer_on_both_kinds_of_address(host: str, family: int) -> None:
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    shown = f"[{host}]" if ":" in host else host
    with serve(f"{shown}:0", snapshot) as address:
        assert re.fullmatch(rf"{re.escape(shown)}:[1-9]\d*", address)
        assert "tollsplit_seen_packets_total" in fetch(address)


def test_metrics_address_in_use_is_an_error_that_names_it() -> None:
    with serve(ANY, snapshot) as address:
        with pytest.raises(TollsplitError, match=f'"{address}": cannot be listened on: '
                           "Address already in use") as error, serve(address, snapshot):
            pass
        assert not isinstance(error.value, UsageError)
        assert "tollsplit_" in fetch(address)  # the first one goes on


def test_metrics_address_of_another_machine_is_an_error_that_names_it() -> None:
    with pytest.raises(TollsplitError, match=r'"192\.0\.2\.1:9464": cannot be listened on'), serve(
            "192.0.2.1:9464", snapshot):
        pass


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_metrics_server_ends_within_a_second(error: type[BaseException] | None) -> None:
    """Even while a client holds a connection open and says nothing."""
    threads = set(threading.enumerate())

    def run() -> str:
        with serve(ANY, snapshot) as address:
            fetch(address)
            host, _, port = address.rpartition(":")
            idle.connect((host, int(port)))
            started.append(time.monotonic())
            if error is not None:
                raise error
            return address

    started: list[float] = []
    with socket.socket() as idle:
        if error is None:
            address = run()
        else:
            with pytest.raises(error):
                run()
        assert time.monotonic() - started[0] < 1
        listening = [thread for thread in set(threading.enumerate()) - threads
                     if "serve_forever" in thread.name]
        assert not listening
    if error is None:
        with pytest.raises(OSError), serve(address, snapshot):
            raise OSError("the address is free again")


def test_metrics_without_the_library_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"install 'tollsplit\[metrics\]'"), serve(ANY, snapshot):
        pass


# --- the dashboard -------------------------------------------------------------------------

DASHBOARD = ROOT / "examples" / "grafana-dashboard.json"
# Exported, for those who ask, and on no panel.
NOT_SHOWN = {
    "tollsplit_coalesced_packets", "tollsplit_coalesced_octets", "tollsplit_tunnel_overhead_octets",
}  # fmt: skip


def expressions(node: Any) -> Iterator[str]:
    """Every PromQL expression below a node of the dashboard."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("expr", "definition", "query") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded = json.loads(DASHBOARD.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_dashboard_uses_what_is_exported_and_all_of_it(dashboard: dict[str, Any]) -> None:
    now = snapshot()
    exported = {sample.name: family.name for family in scrape(now) for sample in family.samples}
    used = {name for text in expressions(dashboard)
            for name in re.findall(r"\b(?:tollsplit|process)_\w+", text)}
    assert used <= set(exported), used - set(exported)
    shown = {exported[name] for name in used}
    ours = {name for name in exported.values() if name.startswith("tollsplit_")}
    assert ours - shown == NOT_SHOWN


def test_dashboard_can_be_imported(dashboard: dict[str, Any]) -> None:
    """What Grafana's import asks for: an input for the data source, and panels that name it."""
    [source] = dashboard["__inputs"]
    assert source["type"] == "datasource" and source["pluginId"] == "prometheus"
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 36
    assert "id" not in dashboard or dashboard["id"] is None
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert {panel["datasource"]["uid"] for panel in panels} == {f"${{{source['name']}}}"}
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_dashboard_warns_of_what_must_not_be(dashboard: dict[str, Any]) -> None:
    def steps(title: str) -> dict[str, Any]:
        [panel] = [panel for panel in dashboard["panels"] if panel["title"] == title]
        found = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        return {step["color"]: step["value"] for step in found}

    assert steps("Lost packets") == {"green": None, "red": 1}
    assert steps("Identity") == {"red": None, "green": 1}
    assert steps("Ledger") == {"green": None, "red": 1}


def test_dashboard_asks_no_counter_as_it_is(dashboard: dict[str, Any]) -> None:
    """It starts anew with the program."""
    for text in expressions(dashboard):
        asked = re.findall(r"(\w*)\(?\b(?:tollsplit|process)_\w+_total\b", text)
        assert set(asked) <= {"rate", "increase", "max_over_time"}, text
