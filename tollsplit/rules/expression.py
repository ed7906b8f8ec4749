"""The `where` expressions: integer conditions over the fields of a packet's row.

    octets > 100 and server_port != 53
    protocol == tcp and tcp_flags & 0x02 and not vlan in (100, 200)

Values are 64-bit integers that wrap around: names, decimal and 0x literals, + - * // % & | ^
<< >> ~, compared by == != < <= > >= (chains too) and `in (…)`, joined by and, or, not. A number
alone is true unless it is 0.

A comparison that uses a value that does not exist is false: a tag that the packet does not
carry, the port of a fragment, a division by 0, a shift by less than 0 or more than 63. So
`vlan != 100` and `vlan == 100` are both false without a VLAN tag, and `not vlan == 100` is true.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import operator
import os
import platform
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tollsplit.limits import WHERE_CHARACTERS_MAX, WHERE_DEPTH_MAX
from tollsplit.rules.units import PROTOCOLS, nearest, shown

# Names, and the tag without which the value does not exist (keys of cext.layout.TAGS).
FIELDS: dict[str, str | None] = {
    "octets": None, "frame_octets": None, "ip_octets": None, "payload_octets": None,
    "tunnel_octets": None, "version": None, "protocol": None, "direction": None, "dscp": None,
    "ttl": None, "depth": None, "source_port": "ports", "destination_port": "ports",
    "server_port": "ports", "subscriber_port": "ports", "tcp_flags": "ports",
    "flow_label": "flow_label", "vlan": "vlan", "vlan_inner": "vlan_inner", "mpls": "mpls",
    "gtp_teid": "gtp_teid", "qfi": "qfi", "gre_key": "gre_key", "vni": "vni",
    "pppoe_session": "pppoe_session",
}  # fmt: skip
CONSTANTS = {"uplink": 0, "downlink": 1} | {n: p for n, p in PROTOCOLS.items() if n not in FIELDS}

_INT64_MAX = 2**63 - 1
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], str] = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}
_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_APPLIED: dict[str, Callable[[int, int], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv,
    "%": operator.mod, "&": operator.and_, "|": operator.or_, "^": operator.xor,
    "<<": operator.lshift, ">>": operator.rshift, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def check(text: str) -> tuple[str, ...]:
    """The fields that the expression uses, sorted. Raises ValueError with the column."""
    names = {n.id for n in ast.walk(_parsed(text)) if isinstance(n, ast.Name)}
    return tuple(sorted(names & FIELDS.keys()))


def evaluate(text: str, row: Any) -> bool:
    """Whether the expression holds for one row of PACKET, slowly and without compiling."""
    from tollsplit.cext.layout import TAGS

    return _Row(row, TAGS).holds(_parsed(text))


@dataclass(frozen=True, slots=True)
class WherePredicate:
    """Machine code that tells which expressions hold: void(packets, n, out, words).

    For each of n rows of PACKET it sets bit (rule % 64) of out[row * words + rule // 64] for
    every rule whose expression holds, and touches no other bit. It needs no GIL.
    """

    address: int
    module: ModuleType  # keeps the code alive


def compile(expressions: Sequence[tuple[int, str]]) -> WherePredicate:
    """Compile (rule index, expression) pairs, or load what an earlier process compiled."""
    module = _module(_source(expressions))
    return WherePredicate(module.predicate.address, module)


# --- the language ------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.expr:
    if len(text) > WHERE_CHARACTERS_MAX:
        raise ValueError(f"expected at most {WHERE_CHARACTERS_MAX} characters, got {len(text)}")
    for column, character in enumerate(text, 1):
        is_plain = (character.isascii() and character.isprintable()) or character in "\n\t"
        if not is_plain or character == "#":
            raise ValueError(f"column {column}: unexpected character {shown(character)}")
    # On one line, so that a multi-line string in the rules file needs no parentheses.
    line = text.replace("\n", " ").replace("\t", " ")
    start = len(line) - len(line.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "1or 2" is a warning to Python, a slip to us
            tree = ast.parse(line[start:], mode="eval").body
    except SyntaxError as error:
        column = start + (error.offset or len(line[start:]) + 1)
        raise ValueError(f"column {column}: {error.msg}") from None
    except (MemoryError, RecursionError):
        raise ValueError("nested too deeply") from None
    _Checker(start).condition(tree, 0)
    return tree


class _Checker:
    """Refuses what is not in the language."""

    def __init__(self, start: int) -> None:
        self._start = start

    def _refuse(self, node: ast.expr, message: str) -> ValueError:
        return ValueError(f"column {self._start + node.col_offset + 1}: {message}")

    def condition(self, node: ast.expr, depth: int) -> None:
        if depth > WHERE_DEPTH_MAX:
            raise self._refuse(node, f"nested deeper than {WHERE_DEPTH_MAX}")
        if isinstance(node, ast.BoolOp):
            for value in node.values:
                self.condition(value, depth + 1)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.condition(node.operand, depth + 1)
        elif isinstance(node, ast.Compare):
            self._number(node.left, depth + 1)
            for compared, right in zip(node.ops, node.comparators, strict=True):
                self._comparand(compared, right, depth + 1)
        else:
            self._number(node, depth)

    def _comparand(self, compared: ast.cmpop, right: ast.expr, depth: int) -> None:
        if isinstance(compared, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
                raise self._refuse(right, 'expected a list of numbers after "in": in (80, 443)')
            for element in right.elts:
                self._number(element, depth)
        elif type(compared) in _COMPARED:
            self._number(right, depth)
        else:
            raise self._refuse(right, 'expected a comparison of numbers; did you mean "=="?')

    def _number(self, node: ast.expr, depth: int) -> None:
        if depth > WHERE_DEPTH_MAX:
            raise self._refuse(node, f"nested deeper than {WHERE_DEPTH_MAX}")
        if isinstance(node, ast.Name):
            if node.id not in FIELDS and node.id not in CONSTANTS:
                remedy = nearest(node.id, [*FIELDS, *CONSTANTS])
                raise self._refuse(node, f"unknown name {shown(node.id)}{remedy}")
        elif isinstance(node, ast.Constant):
            if type(node.value) is not int or node.value > _INT64_MAX:
                raise self._refuse(node, "expected a whole number below 2^63")
        elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            self._number(node.operand, depth + 1)
        elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            self._number(node.left, depth + 1)
            self._number(node.right, depth + 1)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            raise self._refuse(node, 'numbers are whole: write "//" instead of "/"')
        elif isinstance(node, ast.BoolOp | ast.Compare):
            raise self._refuse(
                node, 'expected a number, got a condition; join conditions by "and", "or", "not"'
            )
        else:
            raise self._refuse(node, "expected a number, a field or a comparison")


# --- slowly, in Python -------------------------------------------------------------------


class _Absent(Exception):
    """A value that does not exist."""


class _Row:
    """Walks an expression's tree for one packet."""

    def __init__(self, row: Any, tags: dict[str, int]) -> None:
        self._row = row
        self._tags = tags

    def holds(self, node: ast.expr) -> bool:
        if isinstance(node, ast.BoolOp):
            joined = all if isinstance(node.op, ast.And) else any
            return joined(self.holds(value) for value in node.values)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not self.holds(node.operand)
        try:
            if isinstance(node, ast.Compare):
                return self._compared(node)
            return self.value(node) != 0
        except _Absent:
            return False

    def _compared(self, node: ast.Compare) -> bool:
        left, held = self.value(node.left), True
        for compared, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(compared, ast.In | ast.NotIn):
                # The values of the list exist all or the comparison is false.
                found = left in [self.value(e) for e in _elements(right)]
                held &= found == isinstance(compared, ast.In)
            else:
                value = self.value(right)
                held &= bool(_APPLIED[_COMPARED[type(compared)]](left, value))
                left = value
        return held

    def value(self, node: ast.expr) -> int:
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if isinstance(node, ast.Constant):
            return int(node.value)  # type: ignore[arg-type]  # the checker let only integers by
        if isinstance(node, ast.UnaryOp):
            operand = self.value(node.operand)
            return _wrapped({"-": -operand, "+": operand, "~": ~operand}[_UNARY[type(node.op)]])
        assert isinstance(node, ast.BinOp)
        left, right, symbol = self.value(node.left), self.value(node.right), _binary(node)
        if symbol in ("//", "%") and right == 0:
            raise _Absent
        if symbol in ("<<", ">>") and not 0 <= right <= 63:
            raise _Absent
        return _wrapped(_APPLIED[symbol](left, right))

    def _named(self, name: str) -> int:
        if name not in FIELDS:
            return CONSTANTS[name]
        tag = FIELDS[name]
        if tag is not None and not int(self._row["tags"]) & self._tags[tag]:
            raise _Absent
        if name == "tcp_flags" and int(self._row["protocol"]) != PROTOCOLS["tcp"]:
            raise _Absent
        return int(self._row[name])


def _elements(node: ast.expr) -> list[ast.expr]:
    assert isinstance(node, ast.Tuple | ast.List | ast.Set)
    return node.elts


def _binary(node: ast.BinOp) -> str:
    return _BINARY[type(node.op)]


def _wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


# --- fast, by Numba ----------------------------------------------------------------------

_HEAD = '''\
"""Written by tollsplit for Numba: which `where` expressions hold for a batch of packets."""

from numba import carray, cfunc, int64, njit, types, uint64

from tollsplit.cext.layout import PACKET


@njit(inline="never", error_model="numpy")
def floordiv(a, b):
    # The machine traps on the least integer by -1.
    return int64(uint64(0) - uint64(a)) if b == -1 else a // b


@njit(inline="never", error_model="numpy")
def modulo(a, b):
    return a & 0 if b == -1 else a % b
'''
_GROUP = '''

@njit(inline="never", error_model="numpy")
def group_{number}(rows, n, out, words):
    for i in range(n):
        tags = int64(rows[i].tags)
'''
_TAIL = '''

@cfunc(
    types.void(types.voidptr, types.int64, types.CPointer(types.uint64), types.int64),
    cache=True, nopython=True, error_model="numpy",
)
def predicate(packets, n, out, words):
    rows = carray(packets, n, PACKET)
'''
# Compiling takes time with the square of a function's length; one packet's row stays in cache.
_GROUP_RULES = 16


def _source(expressions: Sequence[tuple[int, str]]) -> str:
    """The module's text: expressions become guarded comparisons, in groups of a few rules."""
    from importlib import metadata

    from tollsplit.cext.layout import PACKET, TAGS

    writer = _Writer(TAGS)
    parts = [f"# {PACKET.descr} {metadata.version('numba')} {platform.python_version()}\n", _HEAD]
    starts = range(0, len(expressions), _GROUP_RULES)
    for number, start in enumerate(starts):
        group = expressions[start : start + _GROUP_RULES]
        names = {"protocol"}.union(*(check(text) for _, text in group))
        parts.append(_GROUP.format(number=number))
        parts += [f"        {name} = int64(rows[i].{name})\n" for name in sorted(names)]
        for rule, text in group:
            parts.append(
                f"        if {writer.condition(_parsed(text))}:\n"
                f"            out[i * words + {rule // 64}] |= uint64({1 << rule % 64})\n"
            )
    parts.append(_TAIL)
    parts += [f"    group_{number}(rows, n, out, words)\n" for number in range(len(starts))]
    return "".join(parts)


class _Writer:
    """Writes conditions as Python that Numba compiles to the same meaning as _Row has."""

    def __init__(self, tags: dict[str, int]) -> None:
        self._tags = tags

    def condition(self, node: ast.expr) -> str:
        if isinstance(node, ast.BoolOp):
            word = " and " if isinstance(node.op, ast.And) else " or "
            return f"({word.join(self.condition(v) for v in node.values)})"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"(not {self.condition(node.operand)})"
        return f"({' and '.join([*self._guards(node), *self._comparisons(node)])})"

    def _guards(self, node: ast.expr) -> Iterator[str]:
        """What must hold for every value of the comparison to exist, innermost first."""
        names = sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)})
        mask = 0
        for name in names:
            tag = FIELDS.get(name)
            mask |= self._tags[tag] if tag else 0
        if mask:
            yield f"tags & {mask} == {mask}"
        if "tcp_flags" in names:
            yield f"protocol == {PROTOCOLS['tcp']}"
        for part in reversed(list(ast.walk(node))):  # a walk meets parents before children
            if isinstance(part, ast.BinOp) and _binary(part) in ("//", "%"):
                yield f"{self._value(part.right)} != 0"
            elif isinstance(part, ast.BinOp) and _binary(part) in ("<<", ">>"):
                yield f"0 <= {self._value(part.right)} <= 63"

    def _comparisons(self, node: ast.expr) -> Iterator[str]:
        if not isinstance(node, ast.Compare):
            yield f"{self._value(node)} != 0"
            return
        left = self._value(node.left)
        for compared, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(compared, ast.In | ast.NotIn):
                equal = " or ".join(f"{left} == {self._value(e)}" for e in _elements(right))
                yield f"({equal})" if isinstance(compared, ast.In) else f"not ({equal})"
            else:
                value = self._value(right)
                yield f"{left} {_COMPARED[type(compared)]} {value}"
                left = value

    def _value(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name) and node.id in FIELDS:
            return node.id
        if not any(isinstance(n, ast.Name) and n.id in FIELDS for n in ast.walk(node)):
            return self._constant(node)
        if isinstance(node, ast.UnaryOp):
            operand, symbol = self._value(node.operand), _UNARY[type(node.op)]
            negated = f"int64(uint64(0) - uint64({operand}))"
            return negated if symbol == "-" else f"({symbol}{operand})"
        assert isinstance(node, ast.BinOp)
        left, right, symbol = self._value(node.left), self._value(node.right), _binary(node)
        if symbol in ("+", "-", "*"):
            # Signed overflow is undefined in Numba (LLVM's nsw); unsigned numbers wrap.
            return f"int64(uint64({left}) {symbol} uint64({right}))"
        call = {"//": "floordiv", "%": "modulo"}.get(symbol)
        return f"{call}({left}, {right})" if call else f"({left} {symbol} {right})"

    def _constant(self, node: ast.expr) -> str:
        """A literal: Python would fold constants without wrapping, and Numba type them anew."""
        try:
            return str(_Row(None, self._tags).value(node))
        except _Absent:
            return "0"  # never used: a guard is false


# --- the cache of compiled modules -------------------------------------------------------


def _module(source: str) -> ModuleType:
    """The module of that text, written where Numba keeps its machine code beside it."""
    name = f"tollsplit_where_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    if name in sys.modules:
        return sys.modules[name]
    path = _directory() / f"{name}.py"
    _write(path, source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Numba finds the module of cached code by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _directory() -> Path:
    """A directory that only we can write to; loading a cache runs code, so no other will do."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(root) / "tollsplit"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        is_ours = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o022
        if is_ours and os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="tollsplit-"))


def _write(path: Path, source: str) -> None:
    """Write the file unless it is there: Numba knows its cache by the file's time of change."""
    if path.exists() and path.read_text() == source:
        return
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        file.write(source)
    os.replace(unfinished, path)  # another process sees all of it or nothing
