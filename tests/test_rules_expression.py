"""`where` expressions: the language, its slow meaning, and the machine code beside it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollsplit.cext.layout import PACKET, TAGS
from tollsplit.limits import WHERE_CHARACTERS_MAX
from tollsplit.rules import expression

INT64_MIN = -(2**63)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def row(**values: int) -> np.ndarray:
    """One PACKET row; `tags` are those of the values given, TCP unless said otherwise."""
    rows = np.zeros(1, PACKET)
    rows["protocol"] = 6
    for name, value in values.items():
        rows[name] = value
        tag = expression.FIELDS.get(name)
        rows["tags"] |= TAGS[tag] if tag else 0
    return rows


def compiled(expressions: Sequence[tuple[int, str]], rows: np.ndarray, words: int) -> np.ndarray:
    """What the machine code sets, rows × words."""
    predicate = expression.compile(expressions)
    call = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
    )(predicate.address)
    out = np.zeros((len(rows), words), np.uint64)
    call(rows.ctypes.data, len(rows), out.ctypes.data, words)
    return out


# --- meaning ---

MEANINGS = [
    ("octets > 100 and server_port != 53", {"octets": 101, "server_port": 80}, True),
    ("octets > 100 and server_port != 53", {"octets": 100, "server_port": 80}, False),
    ("octets > 100 and server_port != 53", {"octets": 101, "server_port": 53}, False),
    # Without the tag, every comparison is false, and what is built on it follows.
    ("server_port != 53", {"octets": 101}, False),
    ("server_port == 53", {"octets": 101}, False),
    ("not server_port == 53", {"octets": 101}, True),
    ("vlan < 100 or octets == 1", {"octets": 1}, True),
    ("vlan", {"vlan": 0}, False),
    ("vlan", {"vlan": 1}, True),
    ("not vlan", {}, True),
    ("vlan + 0 * gtp_teid == 5", {"vlan": 5}, False),
    ("flow_label == 0xfffff", {"flow_label": 0xFFFFF}, True),
    ("pppoe_session in (1, 17)", {"pppoe_session": 17}, True),
    ("pppoe_session not in (1, 17)", {"pppoe_session": 17}, False),
    ("pppoe_session not in (1, 17)", {"pppoe_session": 18}, True),
    ("pppoe_session not in (1, 17)", {}, False),
    ("1 < ttl in [5, 6] < 100", {"ttl": 5}, True),
    ("1 < ttl <= 5 != qfi", {"ttl": 5, "qfi": 4}, True),
    ("direction == downlink", {"direction": 1}, True),
    ("direction == uplink and protocol == tcp", {"direction": 0}, True),
    ("protocol == 17 or protocol == icmp6", {"protocol": 58}, True),
    ("tcp_flags & 0x02", {"tcp_flags": 0x12}, True),
    ("tcp_flags & 0x02", {"tcp_flags": 0x12, "protocol": 17}, False),
    # Division as Python has it, and by 0 nothing.
    ("-octets // 3 == -4 and -octets % 3 == 2", {"octets": 10}, True),
    ("octets // (ttl - 3) != 1", {"octets": 10, "ttl": 3}, False),
    ("octets % (ttl - 3) >= 0", {"octets": 10, "ttl": 3}, False),
    ("octets // 0 == 0 or octets == 10", {"octets": 10}, True),
    ("octets // (octets // ttl) == 5", {"octets": 10, "ttl": 5}, True),
    ("octets // (octets // ttl) == 5", {"octets": 10, "ttl": 11}, False),
    # Values wrap at 64 bits; the least one by -1 is itself.
    ("octets + 9223372036854775807 < 0", {"octets": 1}, True),
    ("(octets << 63) // -1 == -9223372036854775807 - 1", {"octets": 1}, True),
    ("(octets << 63) % -1 == 0", {"octets": 1}, True),
    ("1 << 63 < 0", {}, True),
    ("octets * 4611686018427387904 * 4 == 0", {"octets": 5}, True),
    ("octets * 9223372036854775807 == 9223372036854775803", {"octets": 5}, True),
    ("-(octets << 63) < 0 and (octets << 63) - 1 > 0", {"octets": 1}, True),
    ("~octets == -1 - octets and (octets ^ 3 | 8) == 14", {"octets": 5}, True),
    # Shifts by what a shift cannot be.
    ("octets << ttl >= 0", {"octets": 5, "ttl": 64}, False),
    ("octets << ttl >= 0", {"octets": 5, "ttl": 2}, True),
    ("octets >> (ttl - 6) >= 0", {"octets": 5, "ttl": 5}, False),
    ("-octets >> 1 == -3", {"octets": 5}, True),
    ("  octets == 5\n\tand ttl == 0 ", {"octets": 5}, True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values", "expected"), MEANINGS)
def test_where_evaluates(text: str, values: dict[str, int], expected: bool) -> None:
    assert expression.evaluate(text, row(**values)[0]) is expected


def test_where_compiled_means_the_same_as_evaluated() -> None:
    expressions = [(n, text) for n, (text, _, _) in enumerate(MEANINGS)]
    rows = np.concatenate([row(**values) for _, values, _ in MEANINGS])
    bits = compiled(expressions, rows, 1)[:, 0]
    for index, (text, values, expected) in enumerate(MEANINGS):
        assert bool(int(bits[index]) >> index & 1) is expected, (text, values)
    slow = [
        sum(int(expression.evaluate(t, r)) << n for n, t in expressions) for r in rows
    ]
    assert bits.tolist() == slow


def test_where_sets_the_bit_of_the_rule_and_no_other() -> None:
    rows = np.concatenate([row(octets=n) for n in range(3)])
    predicate = expression.compile([(63, "octets == 1"), (64, "octets >= 1"), (200, "octets < 9")])
    out = np.full((3, 4), 1 << 7, np.uint64)
    call = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
    )(predicate.address)
    call(rows.ctypes.data, 3, out.ctypes.data, 4)
    assert (out & np.uint64(1 << 7)).all()
    out &= np.uint64(~(1 << 7) & 2**64 - 1)
    last = 1 << 200 % 64
    assert out.tolist() == [[0, 0, 0, last], [1 << 63, 1, 0, last], [0, 1, 0, last]]


# --- the language ---

REFUSED = [
    ("octets >", "column 9: invalid syntax"),
    ("octet > 1", 'column 1: unknown name "octet"; did you mean "octets"?'),
    (" 1 + zz > 1", 'column 6: unknown name "zz"'),
    ("octets / 2 > 1", 'column 1: numbers are whole: write "//" instead of "/"'),
    ("octets ** 2 > 1", "column 1: expected a number, a field or a comparison"),
    ("octets > 1.5", "column 10: expected a whole number below 2^63"),
    ("octets > 9223372036854775808", "column 10: expected a whole number below 2^63"),
    ("octets == 'a'", "column 11: expected a whole number below 2^63"),
    ("octets == True", "column 11: expected a whole number below 2^63"),
    (
        "(octets > 1) & (ttl > 2)",
        'column 2: expected a number, got a condition; join conditions by "and", "or", "not"',
    ),
    ("octets in 5", 'column 11: expected a list of numbers after "in": in (80, 443)'),
    ("octets in ()", 'column 11: expected a list of numbers after "in": in (80, 443)'),
    ("octets is ttl", 'column 11: expected a comparison of numbers; did you mean "=="?'),
    ("octets.real > 1", "column 1: expected a number, a field or a comparison"),
    ("__import__('os')", "column 1: expected a number, a field or a comparison"),
    ("[x for x in (1,)]", "column 1: expected a number, a field or a comparison"),
    ("(octets := 5) > 1", "column 2: expected a number, a field or a comparison"),
    ("octets > 1 # most", "column 12: unexpected character \"#\""),
    ("octets > ۱", 'column 10: unexpected character "۱"'),
    ("octets > 1or ttl", "column 10: invalid decimal literal"),
    ("timestamp_ns > 1", 'column 1: unknown name "timestamp_ns"'),
    ("1" + " + 1" * 70, "column 1: nested deeper than 64"),
    ("not " * 70 + "ttl", "column 261: nested deeper than 64"),
    ("(" * 300 + "1" + ")" * 300, "column 201: too many nested parentheses"),
    ("-" * 4000 + "1", "nested too deeply"),
    ("1" * (WHERE_CHARACTERS_MAX + 1), "expected at most 4096 characters, got 4097"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_where_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        expression.check(text)
    assert str(caught.value) == message


def test_where_check_names_the_fields() -> None:
    found = expression.check("octets > 1 and (vlan == uplink or octets < 3) and protocol == udp")
    assert found == ("octets", "protocol", "vlan")


def test_where_fields_are_those_of_the_packet_row() -> None:
    assert expression.FIELDS.keys() <= set(PACKET.names or ())
    assert {tag for tag in expression.FIELDS.values() if tag} == TAGS.keys()


# --- fast against slow ---

ARITHMETIC = ["+", "-", "*", "//", "%", "&", "|", "^", "<<", ">>"]
COMPARING = ["==", "!=", "<", "<=", ">", ">="]
numbers = st.recursive(
    st.sampled_from(sorted(expression.FIELDS) + sorted(expression.CONSTANTS))
    | st.sampled_from([0, 1, 2, 7, 63, 64, 255, 1500, 2**31, 2**32 - 1, 2**63 - 1]).map(str),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(ARITHMETIC), inner)
        | st.builds("({}{})".format, st.sampled_from("-~+"), inner)
    ),
    max_leaves=5,
)
comparisons = (
    st.builds("{} {} {}".format, numbers, st.sampled_from(COMPARING), numbers)
    | st.builds("{} < {} >= {}".format, numbers, numbers, numbers)
    | st.builds(
        "{} {} ({}, {})".format, numbers, st.sampled_from(["in", "not in"]), numbers, numbers
    )
    | numbers
)
conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | inner.map("(not {})".format)
    ),
    max_leaves=4,
)


def random_rows(seed: int, count: int) -> np.ndarray:
    """Rows of any octets, some fields small enough to meet each other."""
    random = np.random.default_rng(seed)
    rows = np.frombuffer(random.bytes(count * PACKET.itemsize), PACKET).copy()
    for name in expression.FIELDS:
        small = random.random(count) < 0.5
        rows[name][small] = random.integers(0, 9, count)[small]
    rows["protocol"][::2] = 6
    return rows


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(texts=st.lists(conditions, min_size=8, max_size=24), seed=st.integers(0, 2**32 - 1))
def test_where_fast_equals_slow(texts: list[str], seed: int) -> None:
    rows = random_rows(seed, 64)
    expressions = [(n * 5, text) for n, text in enumerate(texts)]
    found = compiled(expressions, rows, 2)
    slow = np.zeros_like(found)
    for index, one in enumerate(rows):
        for rule, text in expressions:
            if expression.evaluate(text, one):
                slow[index, rule // 64] |= np.uint64(1 << rule % 64)
    assert found.tolist() == slow.tolist()


# --- the cache ---

PROGRAM = """
import sys, time
from tollsplit.rules import expression
from tollsplit.cext import layout
assert "numba" not in sys.modules
expression.check("octets > 1")
assert "numba" not in sys.modules
import numba
start = time.perf_counter()
module = expression.compile([(0, "octets > 41"), (1, "vlan == 7")]).module
print(time.perf_counter() - start, module.predicate.cache_hits, module.__file__)
"""


def run(directory: Path) -> tuple[float, int, Path]:
    """Seconds, cache hits and the module's file, as another process has them."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(directory)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, hits, path = done.stdout.split()
    return float(seconds), int(hits), Path(path)


def test_where_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = run(tmp_path), run(tmp_path)
    assert first[1:] == (0, second[2])
    assert second[1] == 1
    assert second[0] < first[0]
    assert second[2].parent == tmp_path / "tollsplit"
    assert not list(tmp_path.rglob("*.tmp"))


def test_where_cache_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "tollsplit").mkdir()
    (tmp_path / "tollsplit").chmod(0o777)
    assert tmp_path not in run(tmp_path)[2].parents
    assert not list((tmp_path / "tollsplit").iterdir())


def test_where_cache_that_is_no_directory_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    assert run(tmp_path / "cache")[1] == 0


def test_where_file_that_was_changed_is_written_anew(tmp_path: Path) -> None:
    path = run(tmp_path)[2]
    source = path.read_text()
    path.write_text("raise SystemExit(9)")
    run(tmp_path)
    assert path.read_text() == source
