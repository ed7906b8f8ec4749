"""`tollsplit capture` that is given more than it can take: what it did not see, it says exactly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from lab import GATEWAY, SUBSCRIBER_1, Lab, wait_until
from test_live_accounting import capturing, write_rules
from test_live_capture import send_raw, udp

SENT = 40_000  # more than a ring of 2 MiB holds
PORT = 4999  # nobody else sends there
METRICS = ("127.0.0.1", 9464)
pytestmark = pytest.mark.usefixtures("served")


def scrape(lab: Lab) -> dict[str, float]:
    """Samples by name and labels."""
    with lab.socket(GATEWAY, socket.AF_INET, socket.SOCK_STREAM) as asked:
        asked.connect(METRICS)
        asked.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: asked.recv(65536), b"")).decode()
    return {name: float(value) for name, value in
            re.findall(r"^(tollsplit\S+) ([\d.e+]+)$", answer, re.MULTILINE)}


@pytest.mark.parametrize("workers", [1, 2])
def test_live_overload_is_told_to_the_packet(lab: Lab, tmp_path: Path, workers: int) -> None:
    """sent = seen + lost, in the document, in the events and in the metrics, of a command that
    stands still while more comes than its ring holds."""
    with capturing(
        lab, tmp_path, "sub1", "--rules", str(write_rules(tmp_path)), "--ring", "2", "--workers",
        str(workers), "--filter", f"udp and dst port {PORT}", "--flush", "100ms", "--format",
        "json", "--events", "events.jsonl", "--metrics", ":".join(map(str, METRICS)),
    ) as running:
        pid = running.process.pid
        frames = [udp(number % 4096, PORT) for number in range(SENT)]
        send_raw(lab, SUBSCRIBER_1.name, frames[:100])
        wait_until(lambda: scrape(lab).get("tollsplit_seen_packets_total") == 100)
        os.kill(pid, signal.SIGSTOP)
        try:
            send_raw(lab, SUBSCRIBER_1.name, frames[100:])
        finally:
            os.kill(pid, signal.SIGCONT)
        seen, lost = "tollsplit_seen_packets_total", 'tollsplit_lost_packets_total{place="kernel"}'
        wait_until(lambda: (found := scrape(lab)).get(seen, 0) + found.get(lost, 0) == SENT)
        found = scrape(lab)
        time.sleep(0.3)  # nothing more comes
        document = json.loads(running.end())
        said = running.said
    assert document["seen"]["packets"] + document["lost"]["kernel"] == SENT
    assert document["seen"]["packets"] > 200  # and some of what came meanwhile
    assert document["lost"]["kernel"] > 10_000
    assert document["lost"]["interface"] == 0
    assert document["identity"] == {"holds": True}
    # What was not seen is nobody's: the rest is billed to the octet.
    assert document["metered"]["octets"] == 46 * document["seen"]["packets"]
    assert (found[seen], found[lost]) == (document["seen"]["packets"], document["lost"]["kernel"])
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [event for event in events if event["kind"] == "lost"]
    assert sum(event["octets"] for event in told) == document["lost"]["kernel"]
    assert found['tollsplit_events_total{kind="lost"}'] == len(told)
    assert said.count(" lost") == len(told)
