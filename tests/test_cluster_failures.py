"""Many machines, some of which lack something, differ or die: no bill but the right one."""

from __future__ import annotations

import os
import re
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from clusters import Cluster, started, wait_for
from test_cluster import document, folder, small_parts, tasks, write  # noqa: F401
from test_workers import MIB, RULES, ordinary

from tollsplit import account
from tollsplit.cli import main
from tollsplit.cluster import client as cluster_client
from tollsplit.cluster import job
from tollsplit.errors import CaptureError, ClusterError, UsageError

# What Dask's client leaves behind where the other side has died is no failure of ours.
pytestmark = [
    pytest.mark.usefixtures("swept"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HERE = Path("/proc/self/cwd")  # what each process sees in the folder that it was started in


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler to which tests add workers."""
    with started(tmp_path_factory.mktemp("alone"), 0) as running:
        yield running


class Once:
    """A progress function that does something when the first task is done."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.then: Callable[[], object] | None = then

    def __call__(self, done: int, total: int | None) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()


# --- workers that die ----------------------------------------------------------------------------


@pytest.mark.usefixtures("small_parts")
def test_cluster_worker_killed_on_the_way_changes_nothing(
    folder: Path, alone: Cluster  # noqa: F811
) -> None:
    names = [write(folder, f"{n}.pcap", ordinary(24 * MIB)) for n in range(2)]
    once = document(names)
    killed = [alone.start_worker(), alone.start_worker()]
    alone.expect_workers(2)
    seen: list[int] = []

    def kill() -> None:
        with alone.client() as client:
            held = client.has_what()
            pids = client.run(os.getpid)
        address = max(held, key=lambda each: len(held[each]))
        assert held[address]
        seen.append(pids[address])
        alone.kill(pids[address])

    assert document(names, cluster=alone.url, progress=Once(kill)) == once
    assert seen
    assert seen[0] in killed
    alone.expect_workers(1)


@pytest.mark.usefixtures("small_parts")
def test_cluster_worker_that_comes_for_one_that_died_goes_on(
    folder: Path, alone: Cluster  # noqa: F811
) -> None:
    """As a nanny starts another one; and what it sees is looked at, too."""
    name = write(folder, "large.pcap", ordinary(24 * MIB))
    once = document(name)
    (folder / "empty").mkdir()
    for home in (folder, folder / "empty"):
        first = alone.start_worker(folder=folder)
        alone.expect_workers(1)

        def exchange(first: int = first, home: Path = home) -> None:
            alone.kill(first)
            alone.start_worker(folder=home)

        if home == folder:
            assert document(HERE / name, cluster=alone.url, progress=Once(exchange)) == once
            alone.kill(alone.workers[-1].pid)
            continue
        with pytest.raises(CaptureError, match=rf"^worker tcp://\S+: {HERE}/{name}: is missing$"):
            document(HERE / name, cluster=alone.url, progress=Once(exchange))


@pytest.mark.usefixtures("small_parts")
def test_cluster_without_workers_ends_with_the_remedy(
    folder: Path, alone: Cluster, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    monkeypatch.setattr(cluster_client, "CLUSTER_WAIT_S", 0.5)
    monkeypatch.setattr(cluster_client, "CLUSTER_LOOK_S", 0.2)
    name = write(folder, "large.pcap", ordinary(24 * MIB))
    with pytest.raises(ClusterError, match="has no workers; start some: dask worker tcp://"):
        account(name, "rules.toml", cluster=alone.url)
    only = alone.start_worker()
    alone.expect_workers(1)
    with pytest.raises(ClusterError, match=r"no worker is left, .*start some: dask worker tcp://"):
        account(name, "rules.toml", cluster=alone.url, progress=Once(lambda: alone.kill(only)))


@pytest.mark.usefixtures("small_parts")
def test_cluster_scheduler_that_dies_ends_the_run(
    folder: Path, alone: Cluster, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    name = write(folder, "large.pcap", ordinary(24 * MIB))
    alone.start_worker()
    alone.expect_workers(1)
    with pytest.raises(ClusterError, match=r"the work was lost|answers no more"):
        account(name, "rules.toml", cluster=alone.url, progress=Once(alone.scheduler.kill))


# --- workers that lack something -----------------------------------------------------------------


def test_cluster_names_worker_and_capture_that_differ_before_work(
    folder: Path, alone: Cluster, tasks: list[str]  # noqa: F811
) -> None:
    whole = ordinary(4 * MIB)
    names = [write(folder, f"{n}.pcap", whole) for n in range(4)]
    other = folder / "other"
    other.mkdir()
    for name, there in zip(names, (whole, whole[:-1], whole[:-9] + bytes(9)), strict=False):
        write(other, name, there)
    alone.start_worker(folder=folder)
    alone.start_worker(folder=other)
    alone.expect_workers(2)
    with pytest.raises(CaptureError) as caught:
        account([HERE / name for name in names], "rules.toml", cluster=alone.url)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3  # the first worker has all, and one of them is good
    for line, name, said in zip(lines, names[1:], (
            r"has [\d,]+ octets there, [\d,]+ here", "holds other octets there than here",
            "is missing"), strict=True):
        assert re.match(rf"worker tcp://\S+: {HERE}/{name}: {said}", line)
    assert not tasks


def test_cluster_refuses_another_program(
    folder: Path, cluster: Cluster, tasks: list[str], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    write(folder, "a.pcap", ordinary(MIB))
    monkeypatch.setattr(job, "__version__", "0.0.1")
    with pytest.raises(ClusterError, match=r"worker tcp://\S+: this is tollsplit 0.0.1 \(\w+\), "
                       r"there it is tollsplit \S+ \(\w+\); install the same there"):
        account("a.pcap", "rules.toml", cluster=cluster.url)
    assert not tasks


@pytest.mark.parametrize("name", ["counting.py", "core.cpython-311-x86_64-linux-gnu.so"])
def test_cluster_program_is_what_was_loaded_and_its_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A worker that was started before an upgrade counts as before, whatever lies on its disk."""
    (tmp_path / name).write_bytes(b"before")
    monkeypatch.setattr(job, "PACKAGE", tmp_path)
    monkeypatch.setattr(job, "_LOADED", job._digest())
    started = job.program()
    assert re.fullmatch(r"tollsplit \S+ \(\w{12}\)", started)
    (tmp_path / name).write_bytes(b"after")
    stale = job.program()
    assert stale.startswith(started[:-1])
    assert re.search(r"\(\w{12}, on the disk \w{12} since: restart it\)$", stale)


# --- requests that make no sense -----------------------------------------------------------------


def test_cluster_that_nobody_answers_for_is_exit_code_1(
    folder: Path, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:
    write(folder, "a.pcap", ordinary(MIB))
    arguments = ["account", "a.pcap", "--rules", "rules.toml", "--cluster"]
    assert main([*arguments, "tcp://127.0.0.1:1"]) == 1
    assert "tcp://127.0.0.1:1: no scheduler answers: Connection refused" in capsys.readouterr().err
    for url in ("", "127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://127.0.0.1", "tcp://x:port"):
        assert main([*arguments, url]) == 2
        assert f"{url}: expected tcp://HOST:PORT" in capsys.readouterr().err


def test_cluster_refuses_pipes_workers_and_tokens(
    folder: Path, cluster: Cluster  # noqa: F811
) -> None:
    write(folder, "a.pcap", ordinary(MIB))
    with pytest.raises(UsageError, match="read files, no pipes"):
        account("-", "rules.toml", cluster=cluster.url)
    with pytest.raises(UsageError, match="workers of its own"):
        account("a.pcap", "rules.toml", cluster=cluster.url, workers=2)
    with pytest.raises(CaptureError, match=r"b\*\.pcap: no file has such a name"):
        account("b*.pcap", "rules.toml", cluster=cluster.url)
    with pytest.raises(UsageError, match="named twice"):
        account(["a.pcap", "a*.pcap"], "rules.toml", cluster=cluster.url)
    (folder / "tokens.toml").write_text(RULES + """
[tokens]
keys = ["keys.toml"]
[sponsors.shop]
[[rules]]
id = "paid"
precedence = 1
match = { token = ["shop"] }
split = { sponsor = "shop" }
""")
    with pytest.raises(UsageError, match="keys stay where they are"):
        account("a.pcap", "tokens.toml", cluster=cluster.url)


def test_cluster_task_that_nobody_wants_any_more_ends(
    folder: Path, cluster: Cluster  # noqa: F811
) -> None:
    """One that takes minutes, which Dask would let go on."""
    write(folder, "long.pcap", ordinary(1))
    os.truncate("long.pcap", 1 << 40)  # empty records, and no block of the disk

    def interrupt() -> None:
        wait_for(lambda: any(at_work().values()))
        interrupt_main()

    with cluster.client() as client:
        def at_work() -> dict[str, int]:
            found: dict[str, int] = client.run(lambda dask_worker: len(dask_worker.active_threads))
            return found

        Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            account("long.pcap", "rules.toml", cluster=cluster.url)
        wait_for(lambda: not any(at_work().values()))


@pytest.mark.usefixtures("small_parts")
def test_cluster_interrupted_run_leaves_nothing_behind(
    folder: Path, cluster: Cluster  # noqa: F811
) -> None:
    name = write(folder, "large.pcap", ordinary(24 * MIB))

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        account(name, "rules.toml", cluster=cluster.url, progress=Once(interrupt))
    with cluster.client() as client:
        # sent as it stands: the scheduler knows no tests
        wait_for(lambda: client.run_on_scheduler(lambda dask_scheduler: not dask_scheduler.tasks))


# --- books ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_parts")
def test_cluster_books_what_one_machine_books(
    example: Path, cluster: Cluster
) -> None:
    found = []
    for number, url in enumerate([None, cluster.url]):
        report = account("capture.pcap", "rules.toml", ledger=f"sqlite:///{number}.db", cluster=url)
        assert report.receipt
        assert report.receipt.booked
        found.append([*report.lines()])
    assert found[0] == found[1]
    again = account("capture.pcap", "rules.toml", ledger="sqlite:///1.db")
    assert again.receipt
    assert not again.receipt.booked
