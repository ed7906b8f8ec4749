"""The broker's commands, its URL, and who may do what there."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from batches import (
    EPOCH,
    ask,
    dispatching,
    expect_booked,
    ingest,
    make_streams,
    octets_of,
    segments,
    wait,
)
from brokers import Broker
from collectors import free_port
from commands import COMMAND, tollsplit
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from databases import PostgresDatabase
from gateways import write_rules

from tollsplit.broker.address import identity, parse_url
from tollsplit.broker.ingest import Figures
from tollsplit.cli.metrics import ingest_registry
from tollsplit.errors import BrokerError, UsageError
from tollsplit.rules import RuleSet

pytestmark = pytest.mark.usefixtures("hurried")
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "broker.md"


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    return write_rules(tmp_path, window="1m")


# --- commands -----------------------------------------------------------------------------


def test_ingest_command_says_what_it_did_and_what_is_missing(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    found = tollsplit("ingest", broker.url, "--ledger", books.url, "--until-empty")
    assert found.returncode == 1 and "tollsplit ingest --create" in found.stderr
    paths = segments(tmp_path / "journal", rules, 4)
    command = ("ingest", broker.url, "--ledger", books.url, "--create", "--until-empty",
               "--format", "json")
    assert tollsplit(*command).returncode == 0
    with dispatching(broker, [paths[0], paths[2]]) as dispatch:
        wait(lambda: dispatch.is_through)
        found = tollsplit(*command)
        assert found.returncode == 4, found.stderr
        assert json.loads(found.stdout) == {
            "schema": "tollsplit.ingest/1", "batches": 2, "records": 10, "known": 0, "events": 0,
            "refused": 0, "missing": [{"source": "gw1", "epoch": EPOCH, "first_sequence": 5,
                                       "records": 5}]}
        assert "records 5 to 9 are not booked, though later ones are" in found.stderr
        dispatch.add(paths[1])
        dispatch.add(paths[3])
        wait(lambda: dispatch.is_through)
        found = tollsplit(*command[:-2])
        assert found.returncode == 0, found.stderr
        assert found.stdout == ("2 batches booked, 10 records; 0 batches were booked before; "
                                "0 events; 0 refused; 0 records missing\n")
    expect_booked(books.url, books.rows, octets_of(4))


def test_ingest_command_ends_when_it_is_asked_to(
    broker: Broker, books: PostgresDatabase
) -> None:
    with subprocess.Popen(
        [*COMMAND, "ingest", broker.url, "--ledger", books.url, "--create"],
        stdout=subprocess.PIPE, text=True,
    ) as process:
        wait(lambda: connections(broker))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read().startswith("0 batches booked")


def connections(broker: Broker) -> int:
    """Who waits for batches."""
    try:
        info = ask(broker, lambda js: js.consumer_info("tollsplit", "ingest"))
    except BrokerError:
        return 0
    return int(info.num_waiting or 0)


def test_ingest_metrics_have_every_figure() -> None:
    from prometheus_client import generate_latest

    figures = Figures(batches=2, records=10, known=3, events=4, refused=5, waiting=6)
    text = generate_latest(ingest_registry(figures)).decode()
    for line in ('batches_total{what="booked"} 2.0', 'batches_total{what="known"} 3.0',
                 'batches_total{what="refused"} 5.0', "records_total 10.0", "events_total 4.0",
                 "waiting 6.0", "failing 0.0"):
        assert f"\ntollsplit_ingest_{line}\n" in text
    figures.trouble = "away"
    assert "\ntollsplit_ingest_failing 1.0\n" in generate_latest(
        ingest_registry(figures)).decode()


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--ledger", "sqlite:///l.db"), "--ledger and --publish: usage is booked in one place"),
    ((), "--journal FOLDER is needed with --publish"),
    (("--journal", "j"), "expected nats://HOST:PORT"),
])
def test_capture_command_publishes_from_a_journal_alone(
    tmp_path: Path, rules: RuleSet, arguments: tuple[str, ...], expected: str
) -> None:
    found = tollsplit("capture", "lo", "--rules", rules.path, "--publish", "http://broker",
                      *arguments, cwd=tmp_path)
    assert found.returncode in (1, 2, 3), found.stderr
    assert expected in " ".join(found.stderr.split())


# --- URLs ---------------------------------------------------------------------------------


def test_broker_url_names_hosts_stream_and_files() -> None:
    found = parse_url("tls://a.example,[2001:db8::7]:4333/books?credentials=/c&ca=/ca")
    assert found.servers == ("tls://a.example:4222", "tls://[2001:db8::7]:4333")
    assert (found.stream, found.is_encrypted) == ("books", True)
    assert (found.credentials, found.ca) == (Path("/c"), Path("/ca"))
    assert parse_url("nats://a").stream == "tollsplit"


@pytest.mark.parametrize("url", [
    "http://a", "nats://", "nats://a:x", "nats://a:99999", "nats://a/b.c", "nats://a/b/c",
    "nats://a?x=1", "nats://a?", "nats://a,", "nats://a#b", "nats://a?ca=/x", "tls://a?key=/k",
    "nats://a?credentials",
])
def test_broker_url_that_is_none_is_refused(url: str) -> None:
    if url == "nats://a?":  # nothing is asked for
        assert parse_url(url).credentials is None
        return
    with pytest.raises(UsageError, match="expected nats://HOST:PORT"):
        parse_url(url)


def test_broker_that_is_not_there_is_told_with_what_starts_one(tmp_path: Path) -> None:
    url = f"nats://127.0.0.1:{free_port(socket.SOCK_STREAM)}"
    done = tollsplit("ingest", url, "--until-empty", "--ledger", f"sqlite:///{tmp_path / 'b.db'}")
    assert done.returncode == 1
    assert (f"{url}: no broker answers: connection refused; start one: nats-server --jetstream\n"
            in done.stderr)


def test_broker_url_with_a_password_is_refused_without_repeating_it() -> None:
    for url in ("nats://gw1:hunter2@a", "nats:gw1:hunter2@a", "nats:/gw1:hunter2@a",
                "nats://gw1:12#hunter2@a"):
        with pytest.raises(UsageError, match="credentials=FILE") as refused:
            parse_url(url)
        assert "hunter2" not in str(refused.value)


# --- who may do what ------------------------------------------------------------------------


def authority() -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate("authority", key, None, key), key


def certificate(name: str, key: Any, issuer: Any, issuer_key: Any) -> Any:
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(named)
        .issuer_name(issuer.subject if issuer else named).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, issuer is None,
                                     issuer is None, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(
            issuer_key.public_key()), False))
    if issuer is not None:
        made = made.add_extension(x509.SubjectAlternativeName(
            [x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    return made.sign(issuer_key, hashes.SHA256())


def write_pem(folder: Path) -> None:
    root, root_key = authority()
    key = ec.generate_private_key(ec.SECP256R1())
    own = certificate("broker", key, root, root_key)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "own.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker with TLS and the accounts that the documentation has."""
    write_pem(tmp_path)
    block = re.search(r"    authorization \{.*?\n    \}\n", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    accounts = block[0].replace("$2a$11$…", "secret")
    broker = Broker(f'{accounts}\ntls {{ cert_file: "{tmp_path}/own.pem", '
                    f'key_file: "{tmp_path}/key.pem" }}\n')
    yield broker
    broker.close()


def test_broker_holds_each_to_its_own(
    tmp_path: Path, rules: RuleSet, guarded: Broker, books: PostgresDatabase
) -> None:
    for user in ("gw1", "ingest"):
        (tmp_path / user).write_text(f"{user}:secret\n")
    (tmp_path / "wrong").write_text("gw1:guessed\n")
    url = guarded.url.replace("nats:", "tls:")
    guarded.url = f"{url}?ca={tmp_path}/ca.pem&credentials={tmp_path}/ingest"
    make_streams(guarded)
    with dispatching(guarded, segments(tmp_path / "one", rules, 2),
                     options=f"&credentials={tmp_path}/gw1") as own:
        wait(lambda: ingest(guarded, books.url) and not own.batches)
    others = segments(tmp_path / "two", rules, 1, source="gw2")
    with dispatching(guarded, others, "gw2", f"&credentials={tmp_path}/gw1") as other:
        wait(lambda: other.error is not None)
        assert "permissions violation" in str(other.error).lower()
        assert other.batches == 1
    with dispatching(guarded, others, "gw2", f"&credentials={tmp_path}/wrong") as nobody:
        wait(lambda: nobody.error is not None)
        assert "Authorization Violation" in str(nobody.error)
    assert not ingest(guarded, books.url).batches
    guarded.url = f"{url}?credentials={tmp_path}/ingest"  # and nobody vouches for the broker
    with pytest.raises(BrokerError, match="certificate"):
        make_streams(guarded)
    expect_booked(books.url, books.rows, octets_of(2))


@pytest.mark.parametrize("form", ["seed", "credentials"])
def test_broker_knows_whom_a_key_belongs_to(tmp_path: Path, form: str) -> None:
    """An nkey's seed; a credentials file is told from it by its first line."""
    import nkeys

    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    pair = nkeys.from_seed(bytearray(seed))
    path = tmp_path / "gw1.key"
    path.write_bytes(seed + b"\n")
    if form == "credentials":
        path.write_text("-----BEGIN NATS USER JWT-----\nx\n")
        assert identity(parse_url(f"nats://a?credentials={path}")) == {
            "user_credentials": str(path)}
        return
    broker = Broker(f"authorization {{ users = [{{ nkey: {pair.public_key.decode()} }}] }}\n")
    try:
        with pytest.raises(BrokerError, match="Authorization Violation"):
            make_streams(broker)
        broker.url += f"?credentials={path}"
        make_streams(broker)
    finally:
        broker.close()


def test_broker_credentials_that_are_none_are_refused_without_repeating_them(
    tmp_path: Path
) -> None:
    path = tmp_path / "gw1"
    path.write_text("hunter2")
    for text in ("hunter2", None):
        if text is None:
            path.unlink()
        with pytest.raises(UsageError) as refused:
            identity(parse_url(f"nats://a?credentials={path}"))
        assert str(path) in str(refused.value) and "hunter2" not in str(refused.value)
