"""Names in real captures: what each connection with one costs, as tshark adds it up."""

from __future__ import annotations

from pathlib import Path

import pytest
from strategies import prefix
from test_corpus import CORPUS

from tollsplit.capture import open_capture
from tollsplit.engine import meter
from tollsplit.rules.rule import Match, Pool, Rule, RuleSet, Split, Sponsor

# File: clients, and what tshark says of each name: the IP octets of all packets of the TCP and UDP
# streams whose hello has it (tls.handshake.extensions_server_name, tcp.stream, udp.stream, ip.len).
FIGURES: dict[str, tuple[list[str], dict[str, int]]] = {
    "19": (["192.168.0.0/16"], {"clients6.google.com": 4749}),
    "21": (["10.0.0.1/32"], {
        "www.google.com": 337482, "www.facebook.com": 22669, "s-static.ak.facebook.com": 1375,
        "fbstatic-a.akamaihd.net": 4924, "ssl.bbc.co.uk": 8988, "www.google.co.il": 166083,
        "ssl.gstatic.com": 5173, "www.gstatic.com": 10386, "apis.google.com": 10347,
        "id.google.co.il": 6988, "img.cybersear.ch": 55439}),
    "29": (["1.1.1.1/32"], {"xp.apple.com": 38284}),
    "36": (["2a0a:4587::/32"], {"googleads.g.doubleclick.net": 15137}),
    "38": (["192.168.0.0/16"], {"google.de": 10298}),
    "48": (["192.0.2.0/24"], {
        "bulk-download.example.test": 243954, "gre-analysis.example.test": 113352,
        "tls-mini.example.test": 504, "edge.microsoft.com": 14838, "web.whatsapp.com": 12320,
        "ep2.adtrafficquality.google": 11749, "www.youtube.com": 11806}),
}


def capture_of(number: str) -> Path:
    found = sorted(CORPUS.glob(f"{number}_*"))
    if not found:
        pytest.skip(f"no capture {number} in {CORPUS}: set TOLLSPLIT_CORPUS")
    return next(path for path in found if path.is_file())


def sponsored(number: str, ech: bool) -> dict[str, int]:
    clients, octets = FIGURES[number]
    rules = RuleSet(
        "names", "sha256:0", pools=(Pool(tuple(map(prefix, clients))),),
        sponsors={name: Sponsor(name, f"sponsor:{name}") for name in octets},
        rules=tuple(Rule(name, n, Match(sni=(name,), ech=ech), (Split(name),), unverified=True)
                    for n, name in enumerate(octets, 1)))
    tally = meter([open_capture(str(capture_of(number)), ingresses={}, skip_links=False)], rules)
    assert tally.identity_holds
    return tally.sponsor_octets


@pytest.mark.parametrize("number", FIGURES)
def test_names_of_real_captures_cost_what_tshark_adds_up(number: str) -> None:
    assert sponsored(number, ech=True) == FIGURES[number][1]


def test_name_that_a_real_browser_may_hide_is_not_believed() -> None:
    """Edge, and Chrome over QUIC, send an Encrypted Client Hello, true or not."""
    assert sponsored("48", ech=False) == FIGURES["48"][1] | {
        "edge.microsoft.com": 0, "web.whatsapp.com": 0, "ep2.adtrafficquality.google": 0,
        "www.youtube.com": 0}
