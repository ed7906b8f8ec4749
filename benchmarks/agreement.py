"""The rules file that goes with generated traffic, and which packets its rules hold for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.network import Array, Network

if TYPE_CHECKING:
    from benchmarks.traffic import Traffic

DSCP_MAX = 63
POOLS = {"ipv4": ["10.0.0.0/8"], "ipv6": ["2001:db8::/32"]}
TARIFF = """
[tariffs.standard]
currency = "CNY"
price = "0.29 CNY / MiB"
increment = "1 KiB"
rounding_per = "day"
"""


def rule_name(rule: int) -> str:
    """The id of a rule, counted from 0; −1 is none of them."""
    return f"rule-{rule}" if rule >= 0 else ""


def apply_conditions(traffic: Traffic, ends: dict[str, Any]) -> None:
    """Mark the packets that a rule's tag wants, and take back the rule where another condition
    than its prefixes does not hold."""
    # A DSCP for each rule; 0 is what everybody else sends.
    marked = "dscp" in traffic.conditions
    ends["dscp"] = (ends["rule"] + 1).astype(np.uint32) if marked else np.uint32(0)
    holds: Array = np.ones(len(ends["rule"]), bool)
    if "port" in traffic.conditions:
        holds &= ends["server_port"] == 443
    if "where" in traffic.conditions:
        holds &= ends["server_port"] != 53
    ends["rule"] = np.where(holds, ends["rule"], -1)


def match_text(traffic: Traffic, network: Network, rule: int) -> str:
    conditions = []
    for name in traffic.conditions:
        if name == "server":
            servers = ", ".join(f'"{text}"' for text in network.prefix_texts(rule))
            conditions.append(f"server = [{servers}]")
        elif name == "dscp":
            conditions.append(f"dscp = {rule + 1}")
        elif name == "port":
            conditions.append("port = 443")
        else:
            conditions.append('where = "octets >= 20 and server_port != 53"')
    return ", ".join(conditions)


def rules_text(traffic: Traffic, network: Network) -> str:
    """A sponsor and a share, or a quota, for each rule."""
    if "dscp" in traffic.conditions and traffic.rules > DSCP_MAX:
        raise ValueError(f"rules: expected at most {DSCP_MAX} with a DSCP each")
    pools = POOLS.get(traffic.encapsulation) or POOLS["ipv4"]
    if traffic.encapsulation == "mixed":
        pools = [*POOLS["ipv4"], *POOLS["ipv6"]]
    prefixes = ", ".join(f'"{pool}"' for pool in pools)
    lines = ["[meter]", f'window = "{traffic.window}"', 'zone = "UTC"', "", "[[pools]]",
             f"prefixes = [{prefixes}]"]
    if traffic.key != "address":
        lines.append(f'key = "{traffic.key}"')
    for rule in range(min(traffic.rules, traffic.prefixes)):
        quota = ', quota = "1 KiB"' if traffic.quota else ""
        lines += [
            "",
            f"[sponsors.sponsor-{rule}]",
            f'account = "sponsor:{rule}"',
            "",
            "[[rules]]",
            f'id = "{rule_name(rule)}"',
            f"precedence = {100 + rule}",
            *([] if "server" in traffic.conditions else ["unverified = true"]),
            f"match = {{ {match_text(traffic, network, rule)} }}",
            f'split = {{ sponsor = "sponsor-{rule}", share = "{30 + rule % 71}%"{quota} }}',
        ]
    return "\n".join(lines) + "\n" + (TARIFF if traffic.rated else "")
