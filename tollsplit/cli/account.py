"""`tollsplit account`: who pays for how many octets of a capture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from .ipfix import send_report, write_reports
from .output import USAGE_FORMATS, Output
from .radius import Server

if TYPE_CHECKING:
    from ..report import Report
    from ..rules.rule import At, Layer

_FORMS = (*USAGE_FORMATS, "spreadsheet", "dataset")


@click.command()
@click.argument("captures", metavar="CAPTURE...", nargs=-1, required=True)
@click.option("--rules", "rules_path", metavar="FILE", required=True,
              help="The rules file (TOML).")
@click.option("--format", "form", type=click.Choice(_FORMS), default="table", show_default=True,
              help="How the result is written; html is a page to read and print, dataset adds the "
              "run to a folder of Parquet files.")
@click.option("--output", metavar="PATH", type=click.Path(path_type=Path),
              help="Write the result to a file, which appears only when it is whole; of a dataset, "
              "the folder.")
@click.option("--ledger", metavar="URL",
              help="Book the run: sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
@click.option("--ipfix", "collector", metavar="URL",
              help="Send the usage to a collector: udp://HOST:PORT or tcp://HOST:PORT.")
@click.option("--radius", "accounting", metavar="URL",
              help="Report the usage to an accounting server: radius://HOST:PORT.")
@click.option("--radius-secret", "secret_path", metavar="FILE",
              type=click.Path(path_type=Path), help="What is shared with that server.")
@click.option("--workers", metavar="N", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Threads that meter; the result does not depend on it.")
@click.option("--cluster", metavar="URL",
              help="Have a Dask cluster meter: tcp://HOST:PORT of its scheduler, or tls://.")
@click.option("--layer", type=click.Choice(("ip", "frame", "payload")),
              help="Which octets count, whatever the rules file says.")
@click.option("--at", type=click.Choice(("inner", "outer")),
              help="Which IP packet of a tunnel counts, whatever the rules file says.")
@click.option("--skip-links", is_flag=True,
              help="Count frames of unknown link types as faults instead of refusing the file.")
@click.option("--trust-ip-length", is_flag=True,
              help="Believe IP lengths beyond the frame's length (files sliced by some tools).")
@click.option("--top", metavar="N", type=click.IntRange(1), default=20, show_default=True,
              help="How many subscribers table and page show.")
def account(
    captures: tuple[str, ...],
    rules_path: str,
    form: str,
    output: Path | None,
    ledger: str | None,
    collector: str | None,
    accounting: str | None,
    secret_path: Path | None,
    workers: int,
    cluster: str | None,
    layer: Layer | None,
    at: At | None,
    skip_links: bool,
    trust_ip_length: bool,
    top: int,
) -> int:
    """Meter captures, split their octets between payers, rate them.

    CAPTURE is a pcap or pcapng file, plain or compressed (.gz, .zst, .lz4, .xz, .bz2); - reads
    standard input. Several captures count as one. With --ledger the charges are booked; the same
    captures under the same rules are booked once, however often this runs. Likewise a dataset has
    them once; it is partitioned by day and gateway (docs/data.md).

    With --cluster the workers of a Dask scheduler meter; they see the captures at the same paths,
    and CAPTURE may be a pattern in quotes (docs/cluster.md). The result is that of one machine.

    \b
    Exit codes:
      0  accounted, and booked if asked
      1  failed: the result cannot be written, the ledger refuses, the collector is away
      2  usage
      3  bad input: rules or capture; of a capture that ends inside a record
         everything before is shown, nothing is booked or sent
      4  the books do not balance; nothing is booked

    \b
    Example:
      tollsplit account capture.pcap --rules rules.toml --format json
    """
    from .. import run
    from ..errors import IdentityError
    from ..ipfix import parse_url
    from .progress import bar

    if collector:
        parse_url(collector)
    server = Server.of(accounting, secret_path)

    def work() -> Report:
        with bar() as progress:
            return run.account(
                captures, rules_path, ledger=ledger, workers=workers, cluster=cluster,
                layer=layer, at=at, skip_links=skip_links, trust_ip_length=trust_ip_length,
                identified=form == "dataset", progress=progress)

    if form == "dataset":
        if output is None:
            raise UsageError("a dataset is a folder of files: name it with --output PATH")
        report = work()
        if report.identity_holds and not report.truncated:
            _add(report, output)
    else:
        with Output(output, form) as result:
            report = work()
            _write(report, form, result, top)
    for message in report.truncated:
        unbooked = "; nothing was booked" if ledger else ""
        unwritten = "; nothing was written" if form == "dataset" else ""
        click.echo(f"tollsplit: {message}{unbooked}{unwritten}", err=True)
    if not report.identity_holds:
        raise IdentityError("the buckets do not add up to what was seen; nothing was booked")
    if not report.truncated:
        if collector:
            send_report(report, collector)
        if server is not None:
            server.report(report)
    return 3 if report.truncated else 0


def _write(report: Report, form: str, result: Output, top: int) -> None:
    from .table import print_account

    if form == "json":
        result.write_text(report.write_json)
    elif form == "csv":
        result.write_text(report.write_csv)
    elif form == "spreadsheet":
        from .spreadsheet import write_spreadsheet

        result.write_text(
            lambda stream: write_spreadsheet(stream, report.columns, report.lines()))
    elif form == "parquet":
        result.write_binary(report.to_parquet)
    elif form == "ipfix":
        result.write_binary(lambda stream: write_reports([report], stream))
    elif form == "html":
        from .report_page import report_page

        result.write(report_page(report, top))
    else:
        result.write_text(lambda stream: print_account(report, stream, top))


def _add(report: Report, folder: Path) -> None:
    from ..export import add_report
    from .output import print_written

    print_written(folder, add_report(report, folder))
