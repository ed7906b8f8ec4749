"""Many machines: whatever they share out, the document is that of one."""

from __future__ import annotations

import gzip
import os
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from judges import Frame
from strategies import capture, examples, rule_sets, traffic
from test_counts import dealt
from test_flows import conversations, sticky_rules
from test_shares_of_flows import busy
from test_workers import MIB, RULES, nested, ordinary

from tollsplit import account
from tollsplit.cli import main
from tollsplit.cluster import client as cluster_client
from tollsplit.cluster import plan
from tollsplit.errors import CaptureError

pytestmark = pytest.mark.usefixtures("swept")
# What a document says of clocks: how long it took, and how fast that was.
CLOCKS = re.compile(rb'"(elapsed_s|packets_per_s)": [0-9.]+|[0-9.]+ (m?s\b|[a-z]*packets/s)')
# A run takes a tenth of a second: nothing is shrunk.
law = settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck),
               phases=[Phase.explicit, Phase.generate])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CLUSTER_PART_OCTETS_MIN", MIB)
    monkeypatch.setattr(plan, "CLUSTER_PART_OCTETS_MAX", MIB)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was submitted, by name."""
    found: list[str] = []
    submit = cluster_client.Cluster._submit

    def told(self: Any, task: Any, *arguments: Any, **options: Any) -> Any:
        found.append(task.__name__)
        return submit(self, task, *arguments, **options)

    monkeypatch.setattr(cluster_client.Cluster, "_submit", told)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path


def document(captures: Any, rules: Any = "rules.toml", **options: Any) -> dict[str, Any]:
    """All of a report but what depends on clocks."""
    found = account(captures, rules, **options).document()
    return {name: value for name, value in found.items()
            if name not in ("elapsed_s", "packets_per_s")}


def write(folder: Path, name: str, octets: bytes) -> str:
    (folder / name).write_bytes(octets)
    return name


# --- the law -------------------------------------------------------------------------------------


def written(data: st.DataObject, frames: list[Frame], folder: Path) -> list[str]:
    """The frames as one to four files, some of them compressed."""
    files = data.draw(st.integers(1, 4))
    packed = data.draw(st.lists(st.booleans(), min_size=files, max_size=files))
    parts = dealt(frames, files, data.draw(st.booleans()))
    names = []
    for number, (part, pack) in enumerate(zip(parts, packed, strict=True)):
        octets = capture(part)
        names.append(write(
            folder, f"{number}.pcap", gzip.compress(octets, 1) if pack else octets))
    return names


@law
@given(data=st.data())
def test_cluster_gives_one_machines_document(
    data: st.DataObject, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rules, start_s = data.draw(rule_sets())
    if any(rule.match.token for rule in rules.rules):
        return
    folder = tmp_path_factory.mktemp("law")
    files = written(data, data.draw(traffic(start_s)), folder)
    paths = [folder / name for name in files]
    assert document(paths, rules, cluster=cluster.url) == document(paths, rules)


@law
@given(data=st.data())
def test_cluster_gives_one_machines_document_of_flows(
    data: st.DataObject, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rules, frames = data.draw(sticky_rules()), data.draw(conversations())
    folder = tmp_path_factory.mktemp("flows")
    paths = [folder / name for name in written(data, frames, folder)]
    assert document(paths, rules, cluster=cluster.url) == document(paths, rules)


@pytest.mark.parametrize("form", ["table", "json", "csv", "parquet", "html"])
def test_cluster_writes_what_one_machine_writes(
    example: Path, cluster: Cluster, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(example, "copy.pcap.gz", gzip.compress(Path("capture.pcap").read_bytes(), 1))
    found = []
    for options in ([], ["--cluster", cluster.url]):
        assert main(["account", "c*.pcap" if options else "capture.pcap", "copy.pcap.gz", "--rules",
                     "rules.toml", "--format", form, "--output", "out", *options]) == 0
        assert capsys.readouterr().err == ""
        found.append(Path("out").read_bytes())
    assert readable(found[0], form) == readable(found[1], form)


def readable(octets: bytes, form: str) -> object:
    """What a file says but for clocks."""
    assert len(octets) > 1000
    if form != "parquet":
        return CLOCKS.sub(b"", octets)
    from pyarrow import parquet

    table = parquet.read_table(BytesIO(octets))
    return table.replace_schema_metadata(None), CLOCKS.sub(b"", table.schema.metadata[b"tollsplit"])


# --- how it is shared out ------------------------------------------------------------------------


@pytest.mark.usefixtures("small_parts")
def test_cluster_cuts_large_files_and_groups_small_ones(
    folder: Path, cluster: Cluster, tasks: list[str]
) -> None:
    names = [write(folder, f"small{n}.pcap", ordinary(MIB // 8)) for n in range(3)]
    names.insert(1, write(folder, "large.pcap", ordinary(6 * MIB)))
    names.append(write(folder, "packed.pcap.gz", gzip.compress(ordinary(3 * MIB), 1)))
    once = document(names)
    seen: list[tuple[int, int | None]] = []
    tasks.clear()
    assert document(names, cluster=cluster.url,
                    progress=lambda *told: seen.append(told)) == once
    assert tasks.count("settle") == 1
    assert tasks.count("count") == 1 + 7 + 3
    total = sum(os.stat(name).st_size for name in names)
    assert seen[-1] == (total, total)
    assert len(seen) > 7


@pytest.mark.usefixtures("small_parts")
def test_cluster_walks_a_file_whose_records_it_guessed_wrong(
    folder: Path, cluster: Cluster, tasks: list[str]
) -> None:
    write(folder, "nested.pcap", nested(6 * MIB))
    write(folder, "ordinary.pcap", ordinary(3 * MIB))
    names = ["nested.pcap", "ordinary.pcap"]
    assert document(names, cluster=cluster.url) == document(names)
    assert tasks.count("count") > 6


@pytest.mark.usefixtures("small_parts")
def test_cluster_tells_of_cut_files_what_one_machine_tells(
    folder: Path, cluster: Cluster
) -> None:
    write(folder, "cut.pcap", ordinary(4 * MIB)[:-5])
    write(folder, "packed.pcap.gz", gzip.compress(ordinary(MIB), 1)[:-9])
    names = ["cut.pcap", "packed.pcap.gz"]
    once = document(names)
    assert document(names, cluster=cluster.url) == once
    assert len(once["truncated"]) == 2


@pytest.mark.usefixtures("small_parts")
def test_cluster_tells_of_broken_files_what_one_machine_tells(
    folder: Path, cluster: Cluster
) -> None:
    """Of several the first one, and nothing of what comes behind it."""
    from test_workers import START_S

    broken = struct.pack("<IIII", START_S, 0, 400_000, 400_000) + bytes(16)
    write(folder, "whole.pcap", ordinary(MIB // 2))
    write(folder, "broken.pcap", ordinary(4 * MIB) + broken + ordinary(2 * MIB)[24:])
    write(folder, "none.pcap", b"no capture at all")
    for names in (["whole.pcap", "broken.pcap", "none.pcap"], ["none.pcap", "broken.pcap"]):
        told = []
        for options in ({}, {"cluster": cluster.url}):
            with pytest.raises(CaptureError) as caught:
                account(names, "rules.toml", **options)
            told.append(str(caught.value))
        assert told[0] == told[1]


def test_cluster_shares_out_flows(
    folder: Path, cluster: Cluster, tasks: list[str]
) -> None:
    from test_flows import RULES as STICKY

    for number in range(2):
        write(folder, f"{number}.pcap", capture(busy()[number::2]))
    once = document(["0.pcap", "1.pcap"], STICKY)
    assert document(["0.pcap", "1.pcap"], STICKY, cluster=cluster.url) == once
    assert tasks.count("count") == 2


def test_cluster_leaves_it_to_one_where_one_has_no_room(
    folder: Path, cluster: Cluster, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set back: what is known since a time to come keeps others from going."""
    from test_flows import RULES as STICKY
    from test_flows import UP, packet

    frames = [*busy(), packet(UP, 9_000, 46), packet(UP, 1, client=3), packet(UP, 400, client=3)]
    write(folder, "back.pcap", capture(frames))
    assert document("back.pcap", STICKY, cluster=cluster.url) == document("back.pcap", STICKY)
    assert tasks.count("count") == 3
