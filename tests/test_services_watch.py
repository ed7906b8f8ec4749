"""How a service is watched and reached: rates, log, health, metrics, TLS, addresses."""

from __future__ import annotations

import ipaddress
import json
import logging
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from databases import SqliteFile
from prometheus_client import generate_latest
from serving import on_sqlite, serving

from tollsplit.errors import TollsplitError, UsageError
from tollsplit.services import device, secret
from tollsplit.services.call_log import JsonLines, log
from tollsplit.services.client import UnreachableError
from tollsplit.services.device import MYSELF, Myself
from tollsplit.services.operation import Call, Operation, Service
from tollsplit.services.problem import Problem
from tollsplit.services.rate import Buckets, Rates, network_of
from tollsplit.services.role import EVERY
from tollsplit.services.server import Options, Server, read_settings
from tollsplit.services.signature import DeviceKey
from tollsplit.services.wire import Answer, Request, new_id


class Whisper(Request):
    pin: str


class Whispered(Answer):
    code: str


def whisper(call: Call[Whisper]) -> Whispered:
    if call.asked.pin == "break":
        raise ValueError(f"cannot read {call.asked.pin} of {call.device.public_key}")
    return Whispered(secret.new_code())


WHISPER = Operation(
    "secret.whisper", "POST", "/whispers", "Whisper", Whisper, Whispered, whisper, EVERY)
SERVICES = (device.SERVICE, Service("whispers", (WHISPER,)))


@pytest.fixture
def file(tmp_path: Path) -> SqliteFile:
    return SqliteFile(tmp_path / "books.db")


# --- rates ------------------------------------------------------------------------------


def test_rate_lets_a_burst_through_and_then_so_many_a_second() -> None:
    now_s = [100.0]
    buckets = Buckets(2, 3, lambda: now_s[0])

    def taken(name: str) -> int:
        for count in range(100):
            try:
                buckets.take(name)
            except Problem as problem:
                assert problem.headers == {"Retry-After": "1"}
                return count
        return 100

    assert taken("alice") == 3
    assert taken("bob") == 3
    now_s[0] += 1
    assert taken("alice") == 2
    now_s[0] += 60
    assert taken("alice") == 3
    assert [network_of(a) for a in ("192.0.2.7", "2001:db8::1:2", "::ffff:192.0.2.7", "local")] == [
        "192.0.2.7", "2001:db8::/64", "192.0.2.7", "local"]


def test_rate_forgets_who_was_quiet_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollsplit.services.rate.SERVICE_BUCKETS_MAX", 2)
    buckets = Buckets(1, 1, lambda: 0.0)
    for name in ("a", "b", "c", "a"):  # a was forgotten by then
        buckets.take(name)
    with pytest.raises(Problem):
        buckets.take("a")


@pytest.mark.parametrize("who", ["device", "address"])
def test_rate_is_of_a_device_and_of_an_address(file: SqliteFile, who: str) -> None:
    rates = Rates(**{"device_per_s": 0, "address_per_s": 0, f"{who}_per_s": 0.001,
                     f"{who}_burst": 5})  # fmt: skip
    with serving(file, SERVICES, settings={Rates: rates}) as served:
        alice = served.device(retries=0)  # which is a call
        for _ in range(4):
            alice.call(MYSELF, Myself())
        with pytest.raises(Problem) as caught:
            alice.call(MYSELF, Myself())
        assert caught.value.kind.status == 429 and int(caught.value.headers["retry-after"]) > 0
        if who == "device":
            served.device("operator").call(MYSELF, Myself())


# --- log, health, metrics ---------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged, as it is written."""
    written: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler = Keeping()
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    yield written
    log.setLevel(level)
    logging.getLogger().removeHandler(handler)


def test_log_has_a_line_of_json_for_each_call_and_no_secret(
    file: SqliteFile, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    key, pin = new_id(), "my own pin 4711"
    with serving(file, SERVICES) as served:
        alice = served.device()
        code = alice.call(WHISPER, Whisper(pin), key=key).code
        assert alice.call(WHISPER, Whisper(pin), key=key).code == code
        with pytest.raises(Problem, match="broken here"):
            alice.call(WHISPER, Whisper("break"))
        with pytest.raises(Problem):
            served.client(DeviceKey.new()).call(MYSELF, Myself())
        alice.http.get(f"{served.origin}/none?token={pin.replace(' ', '+')}")
    calls = [json.loads(line) for line in lines]
    assert [(call.get("operation"), call.get("status"), call.get("refusal")) for call in calls
            if call["event"] == "call"] == [
        ("device.register", 201, None), ("secret.whisper", 200, None),
        ("secret.whisper", 200, None), ("secret.whisper", 500, "internal"),
        ("device.myself", 401, "unsigned"),
    ]  # fmt: skip
    [broken] = [call for call in calls if call["event"] == "broken"]
    assert broken["error"] == "ValueError" and "whisper" in broken["place"][-1]
    assert calls[1]["device"] == alice.device and calls[1]["took_ms"] >= 0
    assert alice.key is not None
    text = "\n".join(lines)
    for hidden in (pin, "4711", code, key, "break", alice.key.public_key, "Signature"):
        assert hidden not in text, hidden
    caplog.clear()


@on_sqlite
def test_health_says_whether_the_ledger_takes_what_is_written(serve: Callable[..., Any]) -> None:
    with serve(SERVICES, wait_s=0.1) as served:
        alice = served.device(retries=0)
        healthy = f"{served.origin}/health"
        assert alice.http.get(healthy).json() == {"status": "up"}
        with closing(sqlite3.connect(served.database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = alice.http.get(healthy)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["type"] == "/problems/unavailable"
            assert "books" not in answer.text and "locked" not in answer.text
            assert alice.call(MYSELF, Myself()).account == "alice"  # reading goes on
        assert alice.http.get(healthy).status_code == 200


def test_metrics_count_calls_and_name_nobody(file: SqliteFile) -> None:
    with serving(file, SERVICES) as served:
        alice = served.device()
        alice.call(WHISPER, Whisper("pin"))
        with pytest.raises(Problem):
            served.client(DeviceKey.new()).call(MYSELF, Myself())
        found = generate_latest(served.server.figures.registry).decode()
    assert ('tollsplit_calls_total{operation="secret.whisper",refusal="",status="200"} 1.0'
            in found)  # fmt: skip
    assert ('tollsplit_calls_total{operation="device.myself",refusal="unsigned",status="401"} 1.0'
            in found)  # fmt: skip
    assert "tollsplit_streams 0.0" in found
    assert 'tollsplit_call_seconds_count{operation="secret.whisper"} 1.0' in found
    assert "alice" not in found and alice.device not in found


# --- addresses and TLS ------------------------------------------------------------------


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tollsplit's test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, private = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


def test_tls_is_spoken_where_a_certificate_is_given(file: SqliteFile, tmp_path: Path) -> None:
    certificate, private = certified(tmp_path)
    trusted = ssl.create_default_context(cafile=str(certificate))
    with serving(file, SERVICES, tls_certificate=certificate, tls_key=private) as served:
        assert served.origin.startswith("https://127.0.0.1:")
        assert served.device(verify=trusted).call(MYSELF, Myself()).account == "alice"
        with pytest.raises(UnreachableError, match="CERTIFICATE"):
            served.client(DeviceKey.new(), retries=0).call(MYSELF, Myself())


def test_listening_needs_tls_or_insistence_beyond_loopback(
    file: SqliteFile, tmp_path: Path
) -> None:
    certificate, private = certified(tmp_path)
    for more, message in (
        ({"host": "192.0.2.1"}, "--insecure-listen"),
        ({"host": "0.0.0.0"}, "with --origin"),
        ({"host": "0.0.0.0", "origins": ("https://pay.example",)}, "--insecure-listen"),
        ({"tls_certificate": certificate}, "both a certificate and its key"),
        ({"tls_certificate": private, "tls_key": private}, "expected a certificate"),
        ({"tls_certificate": tmp_path / "none", "tls_key": private}, "No such file"),
    ):
        with pytest.raises(UsageError, match=message):
            Server(Options(file.url, **more))
    assert not file.path.exists()
    with serving(file, SERVICES, host="0.0.0.0", insecure=True,
                 origins=("https://pay.example",)) as served:  # fmt: skip
        assert served.server.origins[0] == "https://pay.example"
    with serving(file, SERVICES) as served:
        port = int(served.origin.rpartition(":")[2])
        with pytest.raises(TollsplitError, match="in use"):
            Server(Options(file.url, port=port, services=SERVICES))


def test_origin_of_a_proxy_is_what_devices_sign_for(file: SqliteFile) -> None:
    with serving(file, SERVICES, origins=("https://pay.example",)) as served:
        alice = served.device()
        direct, alice.origin = alice.origin, "https://pay.example"
        request = alice.request(MYSELF, Myself())
        # As a proxy hands it on: plain HTTP, with the Host that the device named.
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1",
                                            port=int(direct.rpartition(":")[2]))  # fmt: skip
        assert alice.http.send(request).json()["account"] == "alice"


def test_settings_are_read_and_refused_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[rates]\ndevice_per_s = 5\n")
    assert read_settings(path)[Rates] == Rates(device_per_s=5)
    for text, message in (
        ("[rates]\ndevice_per_s = -1\n", r"\[rates\]: Expected `float` >= 0"),
        ("[rates]\nmore = 1\n", "unknown field `more`"),
        ("[strange]\n", r"\[strange\]: expected one of"),
        ("rates", "expected TOML"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_settings(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")
