"""What is given to others: the source archive, the wheel, manual pages, completions, units."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = os.environ.get("TOLLSPLIT_BUILD", "release")
SYSTEM = ROOT / "system"
UNITS = sorted(SYSTEM.glob("*.service"))
MODULES = sorted(path.stem for path in (ROOT / "tollsplit" / "cext").glob("*.pyx"))
# Of the tests that reach the core those that say most in a few seconds.
TRIED = ("test_layout.py", "test_meter.py", "test_segments.py", "test_shares.py", "test_table.py")


def run(*command: object, cwd: Path = ROOT, path: str | None = None, **more: str) -> str:
    environment = os.environ | {"PATH": path or os.environ["PATH"]} | more
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True,
                          env=environment, timeout=280, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What docs/manual.py writes."""
    folder = tmp_path_factory.mktemp("share")
    run(sys.executable, ROOT / "docs" / "manual.py", folder)
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, share: Path) -> Path:
    """The source archive, unpacked; made from a copy of the tree as git has it."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout: what belongs into the archive is not known")
    work = tmp_path_factory.mktemp("archive")
    tree = work / "tree"
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    shutil.copytree(share, tree / "share")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", work, cwd=tree,
        TOLLSPLIT_BUILD="none")  # fmt: skip
    [packed] = work.glob("tollsplit-*.tar.gz")
    with tarfile.open(packed) as found:
        found.extractall(work / "unpacked", filter="data")
    [unpacked] = (work / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Path:
    """A wheel built from the archive alone, repaired by auditwheel.

    What has been made of the same sources is taken from the release build: to compile it again
    would take minutes.
    """
    if BUILD != "release":
        pytest.skip("wheels hold the release build")
    work = tmp_path_factory.mktemp("wheel")
    made = archive / "build" / "release"
    for name in ("cython", "lib"):  # in this order: modules are younger than what they are made of
        shutil.copytree(ROOT / "build" / "release" / name, made / name)
        for path in (made / name).rglob("*.*"):
            os.utime(path)
    run(sys.executable, "setup.py", "--quiet", "build", "--build-lib", made / "lib", "bdist_wheel",
        "--dist-dir", work, cwd=archive, TOLLSPLIT_BUILD="release")  # fmt: skip
    [plain] = work.glob("*-linux_*.whl")
    assert "manylinux" in run(sys.executable, "-m", "auditwheel", "show", plain)
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", work, plain,
        path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # fmt: skip
    [repaired] = work.glob("*manylinux*.whl")
    return repaired


def tracked() -> list[str]:
    return run("git", "ls-files", "-z", "--cached", "--others",
               "--exclude-standard").rstrip("\0").split("\0")  # fmt: skip


def test_package_archive_holds_what_git_does(archive: Path) -> None:
    """But what only a checkout needs."""
    kept = {name for name in tracked()
            if (ROOT / name).exists() and not name.startswith((".ci/", ".git"))}  # fmt: skip
    there = {str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file()}
    assert kept - there == set()


def test_package_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    package = [name for name in names if name.startswith("tollsplit/")]
    others = {name.split("/")[0] for name in names if not name.startswith("tollsplit/")}
    assert len(others) <= 2 and all(re.match(r"tollsplit-[^/]*\.(dist-info|data)$", name)
                                    for name in others)  # fmt: skip
    modules = {name.split("/")[-1].split(".")[0] for name in package if name.endswith(".so")}
    assert modules == set(MODULES)
    assert not [name for name in package if name.endswith((".c", ".pyx", ".pxd", ".pyc"))]
    for name in tracked():
        is_source = name.endswith((".pyx", ".pxd"))
        if name.startswith("tollsplit/") and not is_source and (ROOT / name).exists():
            assert name in names
    installed = {name.partition(".data/data/")[2] for name in names}
    assert {"share/man/man1/tollsplit-capture.1", "share/zsh/site-functions/_tollsplit",
            *(f"share/tollsplit/system/{unit.name}" for unit in UNITS)} <= installed  # fmt: skip


def test_package_wheel_passes_the_tests_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    """In a folder of its own, with nothing of the tree but the tests, and an empty PATH."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path)
    for name in ("tests", "benchmarks", "docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "nothing").mkdir()
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
               *(f"tests/{name}" for name in TRIED), cwd=tmp_path, path=str(tmp_path / "nothing"),
               PYTHONPATH="", TOLLSPLIT_CORPUS=str(tmp_path / "nothing"),
               TOLLSPLIT_BUILD="release", NUMBA_CACHE_DIR=str(tmp_path / "numba"))  # fmt: skip
    passed = re.search(r"(\d+) passed", done)
    assert passed and int(passed[1]) > 100, done
    shown = run(sys.executable, "-m", "tollsplit", "demo", cwd=tmp_path,
                path=str(tmp_path / "nothing"), PYTHONPATH=str(tmp_path))  # fmt: skip
    assert "identity: the buckets add up to what was seen" in shown


def test_package_manual_is_what_roff_takes(share: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff (apt-get install groff-base)")
    pages = sorted((share / "man" / "man1").glob("*.1"))
    assert {"tollsplit.1", "tollsplit-account.1", "tollsplit-ledger-verify.1"} <= {
        page.name for page in pages}
    done = subprocess.run([groff, "-man", "-Tutf8", "-Kutf8", "-ww", *map(str, pages)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stderr == ""
    text = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
    assert "tollsplit account" in text and "Exit codes:" in text and "--rules FILE" in text


def test_package_completions_complete(share: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = share / "bash-completion" / "completions" / "tollsplit"
    asked = f'source {script}; COMP_WORDS=(tollsplit cap); COMP_CWORD=1; '
    asked += '_tollsplit_completion tollsplit; echo "${COMPREPLY[@]}"'
    scripts = Path(sys.executable).parent
    assert run(bash, "-c", asked, path=f"{scripts}:{os.environ['PATH']}").split() == ["capture"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_package_units_are_what_systemd_takes(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze (apt-get install systemd)")
    text = unit.read_text()
    # Names that this machine may not have: our program, the manual pages.
    text = text.replace("=tollsplit ", f"={sys.executable} -m tollsplit ")
    text = "".join(line for line in text.splitlines(True) if not line.startswith("Documentation"))
    written = tmp_path / unit.name
    written.write_text(text)
    done = subprocess.run([analyze, "verify", "--man=no", written], capture_output=True, text=True,
                          check=False)  # fmt: skip
    said = [line for line in done.stderr.splitlines() if unit.stem.split("@")[0] in line]
    assert not said
    rated = run(analyze, "security", "--offline=true", "--threshold=21", written)
    assert "Overall exposure level" in rated


def test_package_units_name_options_that_there_are() -> None:
    from click.testing import CliRunner

    from tollsplit.cli import tollsplit

    for unit in UNITS:
        for name, command in re.findall(r"^ExecStart(?:Pre)?=tollsplit ((?:[a-z]+ ?)+)(.*)$",
                                        unit.read_text(), re.M):  # fmt: skip
            known = CliRunner().invoke(tollsplit, [*name.split(), "--help"]).output
            for option in re.findall(r"--[a-z-]+", command):
                assert re.search(rf"{option}\b", known), (unit.name, name, option)
