"""`tollsplit serve`: the five services as one HTTP service."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import click

from ..errors import UsageError

_PATH = click.Path(path_type=Path)
MISSING = "{}; the services need an extra: pip install 'tollsplit[services]'"


@click.command()
@click.option("--ledger", "url", metavar="URL", required=True,
              help="The ledger, which is there: sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
@click.option("--listen", metavar="ADDRESS", default="127.0.0.1:8080", show_default=True,
              help="HOST:PORT to listen on; an IPv6 host in brackets, port 0 for any.")
@click.option("--tls-cert", metavar="FILE", type=_PATH, help="Serve HTTPS: certificates in PEM.")
@click.option("--tls-key", metavar="FILE", type=_PATH, help="The certificate's private key in PEM.")
@click.option("--insecure-listen", is_flag=True,
              help="Listen beyond loopback without TLS: whoever is on the way reads along.")
@click.option("--origin", "origins", metavar="URL", multiple=True,
              help="An address that devices know the service by, where a proxy stands before it.")
@click.option("--metrics", metavar="ADDRESS", help="Answer Prometheus there: 127.0.0.1:9465.")
@click.option("--settings", metavar="FILE", type=_PATH,
              help="What services are set to: TOML, a table for each.")
def serve(
    url: str, listen: str, tls_cert: Path | None, tls_key: Path | None, insecure_listen: bool,
    origins: tuple[str, ...], metrics: str | None, settings: Path | None,
) -> None:  # fmt: skip
    """Serve the five services over HTTP, on a ledger that `ledger init` has made.

    Devices register a key and sign their requests; `tollsplit device enrol` lets the first one in.
    SIGTERM and SIGINT end it: calls that have begun are answered, streams end. Each call is a line
    of JSON on standard error; GET /health says whether the ledger is there.

    \b
    Exit codes: 0 stopped as asked, 1 failed, 2 usage.

    \b
    Example:
      tollsplit serve --ledger sqlite:///books.db --listen 127.0.0.1:8080
    """
    try:
        from ..services.server import Options, Server, read_settings
    except ImportError as error:
        raise UsageError(MISSING.format(error)) from error
    from .metrics import parse_address, serve_registry

    host, port = parse_address(listen)
    _log()
    server = Server(Options(
        url, host, port, tls_cert, tls_key, insecure_listen,
        tuple(origin.rstrip("/").lower() for origin in origins),
        read_settings(settings) if settings else {},
    ))  # fmt: skip
    click.echo(f"tollsplit: serving on {server.address}, process {os.getpid()}", err=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if metrics is None:
        server.run()
        return
    with serve_registry(metrics, lambda: server.figures.registry) as bound:
        click.echo(f"tollsplit: metrics on {bound}", err=True)
        server.run()


def _log() -> None:
    """Lines of JSON on standard error: of each call, and of what others warn about."""
    from ..services.call_log import JsonLines, log

    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)
