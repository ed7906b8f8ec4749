"""`tollsplit ingest`: from a broker into the ledger, once each."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .broker import address_of

if TYPE_CHECKING:
    from ..broker.address import Address
    from ..broker.ingest import Figures, Ingester
    from ..ledger import Missing


class Size(click.ParamType):  # type: ignore[type-arg]
    """Octets: "10 GiB"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from ..rules.units import size

        try:
            return size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("url", metavar="BROKER")
@click.option("--ledger", "ledger_url", metavar="URL", required=True,
              help="Where usage is booked: postgresql://USER@HOST/DATABASE, sqlite:///PATH.")
@click.option("--create", is_flag=True,
              help="Make the broker's streams first, or bring them to --room and --replicas.")
@click.option("--room", metavar="SIZE", type=Size(), default="10 GiB", show_default=True,
              help="With --create: what may wait in the broker; beyond it gateways wait.")
@click.option("--replicas", metavar="N", type=click.Choice(("1", "3", "5")), default="1",
              show_default=True, help="With --create: servers that have each message.")
@click.option("--again", is_flag=True, help="Take in again what was refused before.")
@click.option("--until-empty", is_flag=True, help="End when the broker has nothing left.")
@click.option("--metrics", metavar="ADDRESS", help="Answer Prometheus there: 127.0.0.1:9466.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table",
              show_default=True, help="How the sums are written at the end.")
def ingest(
    url: str, ledger_url: str, create: bool, room: int, replicas: str, again: bool,
    until_empty: bool, metrics: str | None, form: str,
) -> int:  # fmt: skip
    """Book what gateways have published to BROKER (NATS JetStream), each batch once.

    BROKER is nats://HOST:PORT or tls://HOST:PORT, several hosts with commas between them, then
    /STREAM where it is not "tollsplit", then ?credentials=FILE&ca=FILE&certificate=FILE&key=FILE
    where needed. A batch is confirmed after its COMMIT; any number of ingesters may run at once.
    What cannot be booked is kept in the broker and told. While broker or ledger is away it waits.

    \b
    Signals: TERM, INT end it when the batch that it works on is booked.

    \b
    Exit codes:
      0  ended as asked
      1  failed, or something was refused
      2  usage
      4  with --until-empty: records of an epoch are missing though later ones are booked

    \b
    Example:
      tollsplit ingest nats://127.0.0.1:4222 --create --ledger postgresql://books@/books
    """
    address = address_of(url)
    from ..broker.ingest import Ingester
    from ..ledger import open_ledger
    from .metrics import ingest_registry, serve_registry

    def told(text: str) -> None:
        click.echo(f"tollsplit: {text}", err=True)

    with open_ledger(ledger_url) as ledger:  # what is wrong with it is said first
        shown = ledger.url
    ingester = Ingester(address, ledger_url, told)
    missing: list[Missing] = []
    with ExitStack() as stack:
        if metrics is not None:
            stack.enter_context(serve_registry(
                metrics, lambda: ingest_registry(ingester.figures)))
        stack.callback(lambda: _write(ingester.figures, missing, form))
        told(f"from {address.hosts}, stream {address.stream}, into {shown}, from now on")
        asyncio.run(_run(ingester, address, create, room, int(replicas), again, until_empty))
        with open_ledger(ledger_url) as ledger:
            missing += [one for one in ledger.missing()
                        if (one.source, one.epoch) in ingester.figures.epochs]
    for one in missing:
        told(f"{one.source}, epoch {one.epoch}: records {one.first_sequence} to "
             f"{one.first_sequence + one.records - 1} are not booked, though later ones are")
    if missing and until_empty:
        return 4
    return 1 if ingester.figures.refused else 0


async def _run(
    ingester: Ingester, address: Address, create: bool, room: int, replicas: int, again: bool,
    until_empty: bool,
) -> None:  # fmt: skip
    from ..broker.address import connected
    from ..broker.streams import create as create_streams
    from ..broker.streams import put_back

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ingester.stop)
    if create or again:
        async with connected(address, "tollsplit ingest") as (_, broker):
            if create:
                await create_streams(broker, address.stream, room, replicas)
            if again:
                count = await put_back(broker, address.stream)
                click.echo(f"tollsplit: {count:,} refused before, taken in again", err=True)
    await ingester.run(until_empty)


def _write(done: Figures, missing: Sequence[Missing], form: str) -> None:
    if form == "json":
        names = ("batches", "records", "known", "events", "refused")
        click.echo(json.dumps({
            "schema": "tollsplit.ingest/1", **{name: getattr(done, name) for name in names},
            "missing": [asdict(one) for one in missing]}))
        return
    click.echo(f"{done.batches:,} batches booked, {done.records:,} records; {done.known:,} "
               f"batches were booked before; {done.events:,} events; {done.refused:,} refused; "
               f"{sum(one.records for one in missing):,} records missing")
