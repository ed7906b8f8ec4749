"""IPFIX: Debian's collectors come to our octets; what is sent is what the RFCs say."""

from __future__ import annotations

import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from collectors import (
    START,
    Found,
    Nfacctd,
    Nfcapd,
    TcpCollector,
    batch,
    dumped,
    free_port,
    messages,
    usage_record,
    wait,
)

from tollsplit import run
from tollsplit.cli import main
from tollsplit.cli.ipfix import write_reports
from tollsplit.errors import TollsplitError, UsageError
from tollsplit.ipfix import Collector, collector, export, parse_url, write_file
from tollsplit.ipfix.element import OWN
from tollsplit.ipfix.message import Body
from tollsplit.ipfix.records import FLOWS, PROPERTIES
from tollsplit.model import Volume
from tollsplit.rules.rule import Layer

EVERYBODY = """
[meter]
window = "{window}"
layer = "{layer}"
[[pools]]
prefixes = ["0.0.0.0/0", "::/0"]
ipv6_key = 128
"""
SHARES, BUCKETS, RELIABILITY = 402, 403, 404
# Of the corpus: VLAN, GRE, GTP-U, IPv6 fragments, an HTTP exchange, PPPoE.
CAPTURES = ("10", "13", "14", "16", "21", "30")
TOTALS = (("seen", Volume(9, 900)), ("lost:kernel", Volume(4, 0)))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def account(*arguments: object) -> dict[str, Any]:
    """What `tollsplit account` says, while it exports what the arguments name."""
    out = Path("account.json")
    assert main(["account", *map(str, arguments), "--format", "json", "--output", str(out)]) == 0
    return dict(json.loads(out.read_text()))


def metered(document: dict[str, Any]) -> Found:
    return Found(document["metered"]["octets"], document["metered"]["packets"])


@pytest.fixture
def captures(corpus: Path) -> list[list[Path]]:
    """Runs of `account`: captures and rules of each."""
    Path("all.toml").write_text(EVERYBODY.format(window="all", layer="ip"))
    Path("minutes.toml").write_text(EVERYBODY.format(window="1m", layer="ip"))
    named = [next(corpus.glob(f"{number}_*")) for number in CAPTURES]
    return [*([capture, Path("all.toml")] for capture in named), [*named, Path("minutes.toml")]]


# --- collectors ------------------------------------------------------------------------------


def test_ipfix_nfcapds_octets_are_ours(captures: list[list[Path]], tmp_path: Path) -> None:
    for number, (*files, rules) in enumerate(captures):
        nfcapd = Nfcapd(tmp_path / str(number))
        with nfcapd.running() as url:
            document = account(*files, "--rules", rules, "--ipfix", url)
        assert nfcapd.found() == metered(document) and metered(document).octets > 0, files
        by_address: Counter[str] = Counter()
        for source, destination, octets, _ in nfcapd.flows():
            by_address[source if destination in ("0.0.0.0", "::") else destination] += octets
        ours: Counter[str] = Counter()
        for entry in document["usage"]:
            ours[entry["subscriber"]] += entry["uplink_octets"] + entry["downlink_octets"]
        assert by_address == ours


def test_ipfix_nfacctds_octets_are_ours_by_sponsor_and_rule(
    example: Path, captures: list[list[Path]], tmp_path: Path
) -> None:
    nfacctd = Nfacctd(tmp_path / "pmacct")
    with nfacctd.running() as url:
        documents = [account("capture.pcap", "--rules", "rules.toml", "--ipfix", url),
                     *(account(*files, "--rules", rules, "--ipfix", url)
                       for *files, rules in captures)]
    assert nfacctd.found() == Found(*map(sum, zip(*map(metered, documents), strict=True)))
    ours: Counter[tuple[str, str, str]] = Counter()
    for document in documents:
        for entry in document["usage"]:
            key = (entry["account"], entry["rule"] or "", entry["sponsor_identity"] or "")
            ours[key] += entry["uplink_octets"] + entry["downlink_octets"]
    theirs: Counter[tuple[str, str, str]] = Counter()
    for entry in nfacctd.entries():
        theirs[entry["usageaccount"], entry["usagerule"], entry["usagesponsoridentity"]] += (
            entry["bytes"])
    assert theirs == ours and len({key[2] for key in ours}) > 2


def test_ipfix_over_tcp_is_what_a_file_has(example: Path, tmp_path: Path) -> None:
    """libfixbuf-tools read files; what a connection brings is one, so it is read as one."""
    with TcpCollector() as listener:
        document = account("capture.pcap", "--rules", "rules.toml", "--ipfix", listener.url)
        wait(lambda: listener.ended == 1, "the connection does not end")
    (kept,) = listener.sessions
    Path("tcp.ipfix").write_bytes(kept)
    assert main(["account", "capture.pcap", "--rules", "rules.toml", "--format", "ipfix",
                 "--output", "file.ipfix"]) == 0  # fmt: skip
    assert dumped(Path("tcp.ipfix")) == dumped(Path("file.ipfix"))
    nfcapd = Nfcapd(tmp_path / "nfcapd")  # the same records, which it takes over UDP alone
    with nfcapd.running() as url:
        account("capture.pcap", "--rules", "rules.toml", "--ipfix", url)
    flows = [values for number, values in dumped(Path("tcp.ipfix")) if number < 400]
    found = Found(sum(int(f["octetDeltaCount"]) for f in flows),
                  sum(int(f["packetDeltaCount"]) for f in flows))
    assert found == nfcapd.found() == metered(document)


def test_ipfix_file_holds_the_whole_document(example: Path) -> None:
    document = account("capture.pcap", "--rules", "rules.toml", "--ledger", "sqlite:///l.db")
    assert main(["account", "capture.pcap", "--rules", "rules.toml", "--format", "ipfix",
                 "--ledger", "sqlite:///l.db", "--output", "usage.ipfix"]) == 0  # fmt: skip
    records = dumped(Path("usage.ipfix"))
    [properties] = [values for number, values in records if number == PROPERTIES.number]
    first = document["usage"][0]
    assert {name: properties[name] for name in properties if name != "commonPropertiesId"} == {
        "usageSource": first["source"], "usageEpoch": first["epoch"], "usageLayer": "ip",
        "usageRulesVersion": document["rules_version"], "usageMeteredAt": "inner"}
    shares: dict[int, dict[str, int]] = {}
    for number, values in records:
        if number == SHARES:
            assert values["commonPropertiesId"] == properties["commonPropertiesId"]
            shares.setdefault(int(values["usageSequence"]), {})[
                values["usageSponsorIdentity"]] = int(values["usagePaidOctetDeltaCount"])
    flows = [values for number, values in records if number < 400]
    for entry in document["usage"]:
        mine = [f for f in flows if int(f["usageSequence"]) == entry["sequence"]]
        by_direction = {f["flowDirection"]: f for f in mine}
        for direction, way in (("0", "uplink"), ("1", "downlink")):
            flow = by_direction.get(direction, {"octetDeltaCount": "0", "packetDeltaCount": "0"})
            assert int(flow["octetDeltaCount"]) == entry[f"{way}_octets"]
            assert int(flow["packetDeltaCount"]) == entry[f"{way}_packets"]
        for flow in mine:
            assert flow["usageSubscriber"] == entry["subscriber"]
            assert flow["usageAccount"] == entry["account"]
            assert flow["usageRule"] == (entry["rule"] or "")
            assert flow["usageSponsorIdentity"] == (entry["sponsor_identity"] or "")
            assert flow["usageAspIdentity"] == (entry["asp_identity"] or "")
            group = entry["rating_group"]
            assert int(flow["usageRatingGroup"]) == (0xFFFFFFFF if group is None else group)
            assert flow["usageWindowStart"][:19] == entry["window_start"][:19].replace("T", " ")
            assert flow["flowStartMilliseconds"] == entry["first_packet"][:23].replace("T", " ")
        paid = shares.pop(entry["sequence"])
        assert paid.pop("") == entry["subscriber_octets"]
        assert paid == entry["sponsor_octets"]
    assert not shares
    buckets = {v["usageBucket"]: (int(v["usageBucketPacketTotalCount"]),
                                  int(v["usageBucketOctetTotalCount"]))
               for number, v in records if number == BUCKETS}
    for name in ("seen", "metered", "unattributed", "non_ip", "control", "duplicate"):
        assert buckets[name] == (document[name]["packets"], document[name]["octets"]), name
    assert buckets["lost:kernel"] == (0, 0) and buckets["non_ip"][0] > 0
    [reliability] = [values for number, values in records if number == RELIABILITY]
    assert int(reliability["exportedFlowRecordTotalCount"]) == len(flows)
    assert reliability["notSentFlowTotalCount"] == "0"


@pytest.mark.parametrize(("layer", "element"), [
    ("frame", "layer2OctetDeltaCount"), ("payload", "transportOctetDeltaCount")])
def test_ipfix_octets_are_named_by_their_layer(example: Path, layer: str, element: str) -> None:
    document = account("capture.pcap", "--rules", "rules.toml", "--layer", layer)
    assert main(["account", "capture.pcap", "--rules", "rules.toml", "--format", "ipfix",
                 "--layer", layer, "--output", "usage.ipfix"]) == 0  # fmt: skip
    records = dumped(Path("usage.ipfix"))
    flows = [values for number, values in records if number < 400]
    assert sum(int(flow[element]) for flow in flows) == document["metered"]["octets"]
    assert not any("octetDeltaCount" in flow for flow in flows)
    assert [v["usageLayer"] for number, v in records if number == PROPERTIES.number] == [layer]


def test_ipfix_subscribers_of_all_kinds_are_counted(tmp_path: Path) -> None:
    keys = ("10.0.0.7", "10.1.0.0/24", "2001:db8:0:7::/64", "2001:db8::1", "teid:0x0000beef",
            "vlan:100.200", "pppoe:0x0007", "mac:02:00:00:00:00:07")
    usage = batch(*(usage_record(i, key, octets=(2**40 + i, i)) for i, key in enumerate(keys)))
    nfcapd, nfacctd = Nfcapd(tmp_path / "nfcapd"), Nfacctd(tmp_path / "nfacctd")
    expected = Found(usage.volume.octets, usage.volume.packets)
    with nfcapd.running() as url:
        export(url, usage, TOTALS)
    assert nfcapd.found() == expected
    with nfacctd.running() as url:
        export(url, usage, TOTALS)
    assert nfacctd.found() == expected
    with open(tmp_path / "f.ipfix", "wb") as stream:
        write_file(stream, [(usage, TOTALS)])
    flows = [values for number, values in dumped(tmp_path / "f.ipfix") if number < 400]
    assert [flow["usageSubscriber"] for flow in flows[::2]] == list(keys)
    assert ip_address(flows[4]["sourceIPv6Address"]) == ip_address("2001:db8:0:7::")
    assert flows[4]["sourceIPv6PrefixLength"] == "64"
    assert flows[3]["destinationIPv4PrefixLength"] == "24"


def test_ipfix_file_of_a_run_whose_rules_changed(example: Path) -> None:
    """A live run has a report for each version of its rules; all are in one file."""
    layers: tuple[Layer, ...] = ("ip", "frame")
    reports = [run.account("capture.pcap", "rules.toml", layer=layer) for layer in layers]
    with open("usage.ipfix", "wb") as stream:
        write_reports(reports, stream)
    records = dumped(Path("usage.ipfix"))  # libfixbuf sees that sequence numbers go on
    for layer, element, report in zip(layers, ("octetDeltaCount", "layer2OctetDeltaCount"),
                                      reports, strict=True):
        [properties] = [values["commonPropertiesId"] for number, values in records
                        if number == PROPERTIES.number and values["usageLayer"] == layer]
        mine = [values for number, values in records
                if number < 400 and values["commonPropertiesId"] == properties]
        assert sum(int(flow[element]) for flow in mine) == report.tally.metered.octets


def test_ipfix_long_names_are_whole(tmp_path: Path) -> None:
    names = ["", "x" * 254, "x" * 255, "x" * 256, "ü" * 500, "x" * 60_000]
    with open(tmp_path / "f.ipfix", "wb") as stream:
        write_file(stream, [(batch(*(usage_record(i, account=name)
                                     for i, name in enumerate(names))), ())])
    flows = [values for number, values in dumped(tmp_path / "f.ipfix") if number < 400]
    assert [flow["usageAccount"] for flow in flows[::2]] == names


# --- what the RFCs say -----------------------------------------------------------------------


class Datagrams:
    """A UDP socket on loopback, and what it got."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"udp://127.0.0.1:{self.socket.getsockname()[1]}"

    def taken(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(65_535, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return found


@pytest.fixture
def datagrams() -> Iterator[Datagrams]:
    made = Datagrams()
    with closing(made.socket):
        yield made


def test_ipfix_sequence_numbers_count_data_records(
    datagrams: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Templates are none, options data records are (RFC 7011 §3.1): libfixbuf counts them too."""
    monkeypatch.setattr(collector, "IPFIX_INTRODUCE_MESSAGES", 5)
    export(datagrams.url, batch(*(usage_record(i) for i in range(100))), TOTALS)
    sent = datagrams.taken()
    assert len(sent) > 20
    for octets in sent:
        [message] = messages(octets)
        assert len(octets) <= 1400 and message.domain == messages(sent[0])[0].domain != 0
    Path("sent.ipfix").write_bytes(b"".join(sent))
    assert len(dumped(Path("sent.ipfix"))) > 400
    Path("sent.ipfix").write_bytes(b"".join(sent[:9] + sent[10:]))
    with pytest.raises(AssertionError, match="out of sequence"):  # it does look
        dumped(Path("sent.ipfix"))


def test_ipfix_templates_come_again_over_udp(
    datagrams: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "IPFIX_INTRODUCE_MESSAGES", 5)
    usage = batch(*(usage_record(i) for i in range(100)))
    export(datagrams.url, usage, TOTALS)
    sent = datagrams.taken()
    missing = 0  # messages in a row without templates
    for octets in sent:
        [message] = messages(octets)
        missing = 0 if {2, 3} & set(message.numbers) else missing + 1
        assert missing <= 6
    # A collector that was not there at the start reads all from the next templates on.
    late = sent[7:]
    while not {2, 3} & set(messages(late[0])[0].numbers):
        late = late[1:]
    Path("late.ipfix").write_bytes(b"".join(late))
    flows = [values for number, values in dumped(Path("late.ipfix")) if number < 400]
    assert int(flows[-1]["usageSequence"]) == 99 and len(flows) > 100


def test_ipfix_what_no_datagram_holds_is_counted(datagrams: Datagrams) -> None:
    usage = batch(usage_record(0), usage_record(1, account="x" * 2000, octets=(7, 4),
                                                sponsored={}), usage_record(2))  # fmt: skip
    with pytest.raises(TollsplitError, match=r"1 records are too long .* over tcp://"):
        export(datagrams.url, usage, TOTALS)
    Path("sent.ipfix").write_bytes(b"".join(datagrams.taken()))
    records = dumped(Path("sent.ipfix"))
    numbers = [values["usageSequence"] for number, values in records if number < 400]
    assert numbers == ["0", "0", "2", "2"]
    [reliability] = [values for number, values in records if number == RELIABILITY]
    assert {name: value for name, value in reliability.items() if name.startswith("notSent")} == {
        "notSentFlowTotalCount": "1", "notSentPacketTotalCount": "5",
        "notSentOctetTotalCount": "11"}


def test_ipfix_udp_is_paced(datagrams: Datagrams) -> None:
    slept: list[float] = []
    paced = Collector(datagrams.url, 7, sleep=slept.append)
    for _ in range(3000):
        paced.send(Body(b"\x01\x00\x00\x05x", 1))
        datagrams.taken()
    paced.close()
    # The clock went on by itself as well, so no more than this was slept.
    assert 0 < max(slept) < 1 and sum(slept) > 0


def test_ipfix_numbers_of_templates_never_change() -> None:
    """Collectors keep templates by their numbers: one that meant another would be misread."""
    assert {key: template.number for key, template in FLOWS.items()} == {
        ("ip", 4, 0): 260, ("ip", 4, 1): 261, ("ip", 6, 0): 262, ("ip", 6, 1): 263,
        ("frame", 4, 0): 276, ("frame", 4, 1): 277, ("frame", 6, 0): 278, ("frame", 6, 1): 279,
        ("payload", 4, 0): 292, ("payload", 4, 1): 293, ("payload", 6, 0): 294,
        ("payload", 6, 1): 295}
    assert [element.number for element in OWN] == list(range(1, len(OWN) + 1))


def test_ipfix_elements_are_published() -> None:
    """docs/ipfix.md says of every element of ours what the type records say."""
    text = (Path(__file__).parents[1] / "docs" / "ipfix.md").read_text()
    for own in OWN:
        assert f"| {own.number} | `{own.name}` | {own.type} | {own.meaning} |" in text, own.name


# --- what goes wrong -------------------------------------------------------------------------


def test_ipfix_account_says_that_nobody_listens(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scheme, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)):
        url = f"{scheme}://127.0.0.1:{free_port(kind)}"
        assert main(["account", "capture.pcap", "--rules", "rules.toml", "--ipfix", url]) == 1
        err = capsys.readouterr().err
        assert f"{url}: the collector does not take the records: Connection refused" in err


def test_ipfix_account_says_that_not_all_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in our own kernel's buffer is not at the collector."""
    monkeypatch.setattr(collector, "IPFIX_SEND_S", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        usage = batch(*(usage_record(i) for i in range(200)))
        with pytest.raises(TollsplitError, match="the collector does not take what was sent"):
            export(f"tcp://127.0.0.1:{deaf.getsockname()[1]}", usage, TOTALS)


@pytest.mark.parametrize("url", [
    "udp://", "collector:4739", "sctp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://h/path",
    "udp://h:99999", "udp://[::1", "udp://u@h:1"])
def test_ipfix_url_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected udp://HOST:PORT or tcp://HOST:PORT"):
        parse_url(url)
    missing = str(tmp_path / "missing.pcap")
    assert main(["account", missing, "--rules", missing, "--ipfix", url]) == 2


def test_ipfix_url_names_transport_host_and_port() -> None:
    assert parse_url("udp://[2001:db8::7]:4740") == ("udp", "2001:db8::7", 4740)
    assert parse_url("tcp://flows.example") == ("tcp", "flows.example", 4739)


def test_ipfix_times_are_the_windows(tmp_path: Path) -> None:
    with open(tmp_path / "f.ipfix", "wb") as stream:
        write_file(stream, [(batch(usage_record(window_start=None, window_end=None)), ())])
    (_, values), *_ = [r for r in dumped(tmp_path / "f.ipfix") if r[0] < 400]
    assert values["usageWindowStart"] == values["usageWindowEnd"] == "1970-01-01 00:00:00.000"
    assert values["flowEndMilliseconds"] == f"{START:%Y-%m-%d %H:%M}:10.500"
    header = struct.unpack(">HHIII", (tmp_path / "f.ipfix").read_bytes()[:16])
    assert header[0] == 10 and header[2] > START.timestamp() - 10**8
