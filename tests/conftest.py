"""Which build is tested, by which modules, and where the real captures are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = os.environ.get("TOLLSPLIT_BUILD", "release")
# Where the build under test lies; the root comes second, for `benchmarks`.
HOME = ROOT if BUILD == "release" else ROOT / "build" / BUILD / "lib"
sys.path[:0] = [str(HOME), str(ROOT)]
# Processes that tests start take the same build, whatever folder they start in.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HOME), str(ROOT)])
os.environ["PYTHONSAFEPATH"] = "1"

import tollsplit  # noqa: E402 - the path comes first

# Those that others import come before them.
pytest_plugins = ["browser", "databases", "brokers", "networks", "proofs", "serving",
                  "card_readers", "cardholders", "clusters", "push_parties", "resources"]

# Modules that never reach the core (money, the texts of rules, what is shown), or reach it through
# processes and clocks of their own (commands, live runs, measurements of memory), or by packets
# that others bring there, too (whole runs, attacks, real captures by name and by retransmission):
# one run of them, on the release build, says all there is to say. On the others they are not even
# imported: under ASan that takes a minute.
BEYOND_THE_CORE = (
    "test_answers", "test_api", "test_attacks", "test_benchmarks", "test_broker",
    "test_browser", "test_card", "test_cli", "test_cluster", "test_data", "test_docs",
    "test_export", "test_gateway", "test_house", "test_ipfix", "test_ledger", "test_live",
    "test_memory", "test_metrics", "test_names_captures", "test_octets", "test_package",
    "test_proof", "test_radius", "test_rating", "test_reconcile", "test_report",
    "test_retransmissions_corpus", "test_rules", "test_services", "test_session",
    "test_spreadsheet", "test_statement", "test_story", "test_token_", "test_verify",
    "test_view",
)

collect_ignore_glob = [f"*{name}*.py" for name in BEYOND_THE_CORE] if BUILD != "release" else []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "window(length): of the rules that lie in a gateway's home")
    # A mix-up of trees would pass every test on the wrong build.
    package = Path(tollsplit.__file__).resolve().parent
    if package.parent != HOME:
        pytest.exit(f"{BUILD} build: expected tollsplit in {HOME}, got {package.parent}", 4)


def pytest_report_header() -> str:
    return f"tollsplit: {BUILD} build"


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real captures; tests that need it skip where it is not there."""
    folder = Path(os.environ.get("TOLLSPLIT_CORPUS", ROOT.parent / "shared" / "corpus"))
    if not folder.is_dir():
        pytest.skip(f"no corpus of real captures at {folder} (TOLLSPLIT_CORPUS names another)")
    return folder


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with a gateway's rules, and a short name: a socket's path has 107 octets."""
    from gateways import write_rules

    mark = request.node.get_closest_marker("window")
    write_rules(tmp_path, window=mark.args[0] if mark else "1s")
    return tmp_path


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled example, in the current folder."""
    from tollsplit.cli.demo.example import write_example

    write_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
