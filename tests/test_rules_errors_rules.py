"""Broken [[rules]] tables: each with the exact message and line that a person gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_rules_errors import check_broken, rule

# (what is wrong, document, files beside it, messages)
BROKEN: list[tuple[str, str, dict[str, str], list[str]]] = [
    (
        "share above 100 %",
        rule('split = { sponsor = "video-co", share = "120%" }'),
        {},
        ['rules.toml:4: rule "video": key "share": expected 0%..100%, got 120%'],
    ),
    (
        "share 0 %",
        rule('split = { sponsor = "video-co", share = "0%" }'),
        {},
        [
            'rules.toml:4: rule "video": key "share": expected more than 0%, got 0%; '
            "leave the sponsor out instead"
        ],
    ),
    (
        "a share as a binary fraction",
        rule('split = { sponsor = "video-co", share = 0.7 }'),
        {},
        [
            'rules.toml:4: rule "video": key "share": expected a share in quotes such as "70%" '
            'or "1/3", got 0.7; did you mean "70%"?'
        ],
    ),
    (
        "a share with too many digits",
        rule('split = { sponsor = "video-co", share = "33.33333333333%" }'),
        {},
        [
            'rules.toml:4: rule "video": key "share": expected a fraction whose denominator is '
            'at most 1,000,000,000, got "33.33333333333%"'
        ],
    ),
    (
        "shares above 100 % together",
        rule('[[rules.split]]\nsponsor = "video-co"\nshare = "60%"\n'
             '[[rules.split]]\nsponsor = "shop-co"\nshare = "50%"'),
        {},
        [
            'rules.toml:4: rule "video": key "split": expected shares of at most 100% together, '
            "got 110%"
        ],
    ),
    (
        "shares without a common denominator",
        rule('split = [{ sponsor = "video-co", share = "1/99991" },\n'
             '         { sponsor = "shop-co", share = "1/99989" }]'),
        {},
        [
            'rules.toml:4: rule "video": key "split": expected shares with a common denominator '
            "of at most 1,000,000,000"
        ],
    ),
    (
        "a sponsor twice",
        rule('split = [{ sponsor = "video-co", share = "10%" },\n'
             '         { sponsor = "video-co", share = "20%" }]'),
        {},
        ['rules.toml:5: rule "video": key "sponsor": "video-co" has a part already'],
    ),
    (
        "periods that disagree",
        rule('split = [\n  { sponsor = "video-co", share = "10%", per = "day" },\n'
             '  { sponsor = "shop-co", share = "20%", per = "month" },\n]'),
        {},
        ['rules.toml:6: rule "video": key "per": expected "day" as before, got "month"'],
    ),
    (
        "unknown sponsor",
        rule('split = { sponsor = "vidoe-co" }'),
        {},
        [
            'rules.toml:4: rule "video": key "sponsor": unknown sponsor "vidoe-co"; '
            'did you mean "video-co"?'
        ],
    ),
    (
        "no sponsor, odd quota",
        rule('split = { share = "10%", quota = "0.3 KiB", per = "week" }'),
        {},
        [
            'rules.toml:4: rule "video": key "sponsor" is missing',
            'rules.toml:4: rule "video": key "quota": expected a whole number of octets, '
            'got "0.3 KiB"',
            'rules.toml:4: rule "video": key "per": expected "window", "day", "month" or '
            '"session", got "week"',
        ],
    ),
    (
        "quota in small letters, and 0",
        rule('split = [{ sponsor = "video-co", share = "1%", quota = "50 mib", per = "day" },\n'
             '{ sponsor = "shop-co", share = "1%", quota = 0, per = "day" }]'),
        {},
        [
            'rules.toml:4: rule "video": key "quota": expected a size such as "50 MiB", "1 GB" '
            'or a number of octets, got "50 mib"; did you mean "MiB"?',
            'rules.toml:5: rule "video": key "quota": expected a size of at least 1 octet and '
            "below 2^63, got 0",
        ],
    ),
    (
        "id and precedence missing",
        '[[rules]]\nmatch = { protocol = "tcp" }',
        {},
        [
            'rules.toml:1: rule 1: key "id" is missing',
            'rules.toml:1: rule 1: key "precedence" is missing',
        ],
    ),
    (
        "id and precedence twice",
        rule('[[rules]]\nid = "video"\nprecedence = 1'),
        {},
        [
            'rules.toml:5: rule "video": key "id": expected one of its own, '
            'got "video" of the rule on line 1',
            'rules.toml:6: rule "video": key "precedence": expected one of its own, '
            "got 1 of the rule on line 1",
        ],
    ),
    (
        "conditions out of range",
        rule('[rules.match]\nport = [443, 70000, "90-80"]\nprotocol = "tpc"\ndscp = 64\n'
             'vlan = 4095\nqfi = true\nserver = "sponsor.txt"\ndirection = "up"\n'
             "gtp_teid = 4_294_967_296"),
        {"sponsor.txt": "192.0.2.1\n"},
        [
            'rules.toml:5: rule "video": key "port": expected a port 0..65535 or a range '
            '"8000-8100", got 70000',
            'rules.toml:5: rule "video": key "port": expected a port 0..65535 or a range '
            '"8000-8100", got "90-80"; did you mean "80-90"?',
            'rules.toml:6: rule "video": key "protocol": expected a protocol\'s name or a number '
            '0..255, got "tpc"; did you mean "tcp"?',
            'rules.toml:7: rule "video": key "dscp": expected a code point\'s name (EF, AF41, '
            "CS1) or a number 0..63, got 64",
            'rules.toml:8: rule "video": key "vlan": expected a number 0..4094, got 4095',
            'rules.toml:9: rule "video": key "qfi": expected a number 0..63, got true',
            'rules.toml:11: rule "video": key "direction": expected "uplink", "downlink" or '
            '"both", got "up"',
            'rules.toml:12: rule "video": key "gtp_teid": expected a number 0..4294967295, '
            "got 4294967296",
        ],
    ),
    (
        "ports of a protocol without ports",
        rule('match = { port = 80, protocol = ["icmp", "esp"] }'),
        {},
        [
            'rules.toml:4: rule "video": key "port": expected "protocol" tcp, udp or another '
            "that has ports"
        ],
    ),
    (
        "a claim that nothing proves",
        rule('match = { dscp = 46 }\nsplit = { sponsor = "video-co" }'),
        {},
        [
            'rules.toml:4: rule "video": key "dscp": users can write dscp themselves; add '
            '"server", "dns", a "token", an "ingress" that is trusted, or unverified = true to the '
            "rule"
        ],
    ),
    (
        "a claim inside an expression, through an ingress that is not trusted",
        '[ingress.gi]\ninterface = "gi0"\n'
        + rule('match = { where = "flow_label == 7", ingress = "gi" }'),
        {},
        [
            'rules.toml:6: rule "video": key "where": users can write flow_label themselves; add '
            '"server", "dns", a "token", an "ingress" that is trusted, or unverified = true to the '
            "rule"
        ],
    ),
    (
        "claims that only a server condition of everybody backs",
        rule('match = { dscp = 46, server = ["192.0.2.0/24", "::/0"], where = "flow_label > 0" }'),
        {},
        [
            'rules.toml:4: rule "video": key "dscp": users can write dscp themselves, and "server" '
            "holds ::/0, which is everybody; list the sponsor's own servers, or add \"dns\", a "
            '"token", an "ingress" that is trusted, or unverified = true to the rule',
            'rules.toml:4: rule "video": key "where": users can write flow_label themselves, and '
            '"server" holds ::/0, which is everybody; list the sponsor\'s own servers, or add '
            '"dns", a "token", an "ingress" that is trusted, or unverified = true to the rule',
        ],
    ),
    (
        "unknown ingress",
        '[ingress.core]\ninterface = "gi0"\n' + rule('match = { ingress = "cor" }'),
        {},
        ['rules.toml:6: rule "video": key "ingress": unknown ingress "cor"; did you mean "core"?'],
    ),
    (
        "a prefix where a file is named",
        rule('match = { server = "203.0.113.0/24" }'),
        {},
        [
            'rules.toml:4: rule "video": key "server": "203.0.113.0/24" cannot be read: '
            'No such file or directory; prefixes stand in brackets: ["203.0.113.0/24"]'
        ],
    ),
    (
        "a prefix file's lines",
        rule('match = { server = "lists/sponsor.txt" }'),
        {"lists/sponsor.txt": "# ours\n203.0.113.0/24\n\n203.0.113.1/24 # theirs\nexample.org\n"},
        [
            'lists/sponsor.txt:4: expected a prefix without host bits, got "203.0.113.1/24"; '
            "did you mean 203.0.113.0/24?",
            'lists/sponsor.txt:5: expected a prefix such as 203.0.113.0/24, got "example.org"',
        ],
    ),
    (
        "an empty prefix file",
        rule('match = { server = "sponsor.txt" }'),
        {"sponsor.txt": "# none yet\n"},
        ["sponsor.txt:1: expected one prefix a line, got an empty file"],
    ),
    (
        "an expression's name",
        rule('match = { where = "octets > 100 and serverport != 53" }'),
        {},
        [
            'rules.toml:4: rule "video": key "where": column 18: unknown name "serverport"; '
            'did you mean "server_port"?'
        ],
    ),
    (
        "an expression's syntax",
        rule('match = { where = "octets >" }'),
        {},
        ['rules.toml:4: rule "video": key "where": column 9: invalid syntax'],
    ),
    (
        "a sticky rule with an expression",
        rule('match = { vlan = 46, where = "octets > 100", sticky = true }'),
        {},
        [
            'rules.toml:4: rule "video": key "sticky": expected no "where" beside it: give its '
            "conditions as keys"
        ],
    ),
    (
        "a sticky rule that every packet of a flow fulfils, or none",
        rule('match = { server = ["192.0.2.0/24"], port = 443, sticky = true }'),
        {},
        [
            'rules.toml:4: rule "video": key "sticky": expected a condition that one packet of a '
            'flow can fulfil and another not: "dscp", "ingress", "flow_label", "vlan", '
            '"vlan_inner", "mpls", "gtp_teid", "qfi", "gre_key" or "vni", direction'
        ],
    ),
    (
        "more sticky rules than a flow has bits for",
        "\n".join(f'[[rules]]\nid = "r{n}"\nprecedence = {n}\nmatch = {{ vlan = {n}, '
                  "sticky = true }" for n in range(65)),
        {},
        [
            'rules.toml:260: rule "r64": key "sticky": expected at most 64 conditions on flows in '
            'all rules ("sticky", "sni", "host", "dns" or "token"), this is one more'
        ],
    ),
    (
        "a name that nothing proves",
        rule('match = { sni = ["video.example"], port = 443 }'),
        {},
        [
            'rules.toml:4: rule "video": key "sni": users can write sni themselves; add "server", '
            '"dns", a "token", an "ingress" that is trusted, or unverified = true to the rule'
        ],
    ),
    (
        "names as people write them",
        rule('match = { sni = ["bücher.example", "https://a.example/", "a..b", "192.0.2.1", ""] }\n'
             "unverified = true"),
        {},
        [
            'rules.toml:4: rule "video": key "sni": expected a name such as video.example, got '
            '"bücher.example"; did you mean xn--bcher-kva.example?',
            'rules.toml:4: rule "video": key "sni": expected a name such as video.example, got '
            '"https://a.example/"; did you mean a.example?',
            'rules.toml:4: rule "video": key "sni": expected a name such as video.example, got '
            '"a..b"',
            'rules.toml:4: rule "video": key "sni": expected a name, got "192.0.2.1": addresses '
            'are a "server"',
            'rules.toml:4: rule "video": key "sni": expected a name such as video.example, got ""',
        ],
    ),
    (
        "a file of names",
        rule('match = { host = "names.txt", server = ["192.0.2.0/24"] }'),
        {"names.txt": "# ours\nvideo.example # all\nvideo example\n"},
        ['names.txt:3: expected a name such as video.example, got "video example"'],
    ),
    (
        "a name in place of a file",
        rule('match = { sni = "video.example", server = ["192.0.2.0/24"] }'),
        {},
        [
            'rules.toml:4: rule "video": key "sni": "video.example" cannot be read: No such file '
            'or directory; names stand in brackets: ["video.example"]'
        ],
    ),
    (
        "answers of resolvers that nobody has named",
        rule('match = { dns = ["video.example"] }'),
        {},
        [
            'rules.toml:4: rule "video": key "dns": expected [meter] "resolvers" beside it: the '
            "addresses of the resolvers whose answers are believed"
        ],
    ),
    (
        "a token of an unknown sponsor",
        rule('match = { token = "vidio-co" }'),
        {},
        [
            'rules.toml:4: rule "video": key "token": unknown sponsor "vidio-co"; did you mean '
            '"video-co"?',
            'rules.toml:4: rule "video": key "token": expected [tokens] "keys" beside it: the '
            "files of the keys that tokens are checked with",
        ],
    ),
    (
        "keys of tokens",
        '[tokens]\nkeys = [""]\nkey = 1\n' + rule('match = { token = "video-co" }'),
        {},
        [
            'rules.toml:2: tokens: key "keys": expected a string with something in it, got ""',
            'rules.toml:3: tokens: unknown key "key"; did you mean "keys"?',
        ],
    ),
    (
        "hidden names without names",
        rule('match = { server = ["192.0.2.0/24"], ech = true }'),
        {},
        ['rules.toml:4: rule "video": key "ech": expected an "sni" beside it'],
    ),
    (
        "a name with an expression",
        rule('match = { sni = ["a.example"], server = ["192.0.2.0/24"], where = "octets > 1" }'),
        {},
        [
            'rules.toml:4: rule "video": key "sni": expected no "where" beside it: give its '
            "conditions as keys"
        ],
    ),
]


@pytest.mark.parametrize(
    ("document", "files", "messages"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN]
)
def test_broken_rules_say_what_and_where(
    document: str,
    files: dict[str, str],
    messages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    check_broken(document, files, messages)
