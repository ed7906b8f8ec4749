"""The house rules: who may import whom, and who may speak to the world."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tollsplit"

WORDS = {"model", "errors", "limits"}
# room → the rooms that it may import; every room may import itself
MAY_IMPORT = {
    "model": set(),
    "errors": set(),
    "limits": set(),
    "cext": set(),  # it raises ValueError with an offset; capture adds the path
    "capture": WORDS | {"cext"},
    "rules": WORDS | {"cext"},
    "tokens": WORDS | {"rules"},
    "engine": WORDS | {"cext", "rules", "tokens"},  # any source will do, so not capture
    "ledger": WORDS,  # money knows no packets
    "services": WORDS | {"__init__", "ledger", "rules"},
    "snapshot": WORDS,
    "reconcile": WORDS | {"ledger", "rules"},
    "export": WORDS | {"ledger", "report"},
    "ipfix": WORDS | {"snapshot"},
    "radius": WORDS | {"rules", "snapshot"},
    # what is counted goes from machine to machine; the ledger does not
    "cluster": WORDS | {"__init__", "cext", "capture", "rules", "engine"},
    "report": WORDS | {"__init__", "cext", "capture", "rules", "engine", "ledger"},
    "run": WORDS | {"__init__", "cext", "capture", "rules", "tokens", "engine", "ledger", "report",
              "carryover", "cluster"},
    "carryover": WORDS | {"rules", "engine", "ledger"},
    # a live run: all parts but where the frames come from
    "gateway": WORDS | {"__init__", "carryover", "cext", "rules", "tokens", "engine", "ledger",
                        "report", "snapshot"},
    "broker": WORDS | {"engine", "gateway", "ledger", "snapshot"},
    "__init__": WORDS | {"report", "run"},
    "cli": WORDS
    | {"__init__", "capture", "rules", "engine", "ledger", "services", "reconcile", "export",
       "ipfix", "radius", "report", "run", "gateway", "broker", "snapshot", "tokens"},
    "__main__": {"cli"},
}
# Slow to import, or missing on a small installation: only inside the function that needs it.
LATE = {
    "anyio", "argon2", "cryptography", "distributed", "dpkt", "h11", "http_message_signatures",
    "httpx2", "jeepney", "llvmlite", "msgspec", "nats", "numba", "prometheus_client", "psycopg",
    "pyarrow", "pyrad", "segno", "smartcard", "starlette", "uvicorn",
}
TEST_ONLY = {"scapy", "hypothesis", "pytest"}
# Late by nature: nothing else in the package imports them at once, and they are nothing without.
BY_NATURE = {
    Path("engine/reference"): {"dpkt"}, Path("ledger/postgres"): {"psycopg"},
    Path("ledger/signing"): {"cryptography"},
    Path("broker"): {"nats"},
    # Services are imported by their commands, when they run.
    Path("services"): {
        "anyio", "argon2", "cryptography", "h11", "http_message_signatures", "httpx2",
        "jeepney", "msgspec", "prometheus_client", "starlette", "uvicorn",
    },
}  # fmt: skip

SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each absolute dotted name that a module imports, with its line."""
    package = ("tollsplit", *path.parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else ())))
            for alias in node.names:
                yield f"{module}.{alias.name}", node.lineno


def rooms_imported(path: Path, tree: ast.AST) -> Iterator[tuple[str, int]]:
    for name, line in imports(path, tree):
        parts = name.split(".")
        if parts[0] == "tollsplit":
            inner = parts[1] if len(parts) > 1 else "__init__"
            known = (PACKAGE / inner).is_dir() or (PACKAGE / f"{inner}.py").is_file()
            yield (inner if known else "__init__"), line


def tree_of(path: Path) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text(), filename=str(path))


def eager(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements that run when a module is imported."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        yield node
        pending += [
            child for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.stmt | ast.ExceptHandler)
        ]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_house_rooms_import_only_whom_they_may(path: Path) -> None:
    here = room(path)
    assert here in MAY_IMPORT, f"{path}: a new room needs its line in MAY_IMPORT"
    wrong = [
        f"{path}:{line} imports {there}"
        for there, line in rooms_imported(path, tree_of(path))
        if there != here and there not in MAY_IMPORT[here]
    ]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_house_slow_and_optional_libraries_come_late(path: Path) -> None:
    for node in eager(tree_of(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, line in imports(path, node):
                top = name.split(".")[0]
                by_nature = any(
                    top in libraries and (home in path.parents or path == home.with_suffix(".py"))
                    for home, libraries in BY_NATURE.items()
                )
                assert top not in LATE or by_nature, f"{path}:{line}: {top} at import time"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_house_test_tools_are_never_imported(path: Path) -> None:
    for name, line in imports(path, tree_of(path)):
        assert name.split(".")[0] not in TEST_ONLY, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", [p for p in SOURCES if room(p) != "cli"], ids=str)
def test_house_only_cli_prints_or_exits(path: Path) -> None:
    spoken = [
        f"{path}:{node.lineno} {ast.unparse(node.func)}()"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in {"print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    ]
    assert path == Path("__main__.py") or not spoken
    assert not [f"{path}:{line}" for name, line in imports(path, tree_of(path)) if name == "click"]


def test_house_core_has_one_door() -> None:
    """Directives stand in setup.py alone: a header would override a checked build."""
    for path in PACKAGE.rglob("*.pyx"):
        for line in path.read_text().splitlines():
            assert not line.startswith("# cython:"), f"{path.name}: {line}"
            assert not line.startswith("# distutils:"), f"{path.name}: {line}"
