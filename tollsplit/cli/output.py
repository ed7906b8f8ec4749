"""Where a command's result goes: standard output, or a file that appears only when whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

import click

from ..errors import TollsplitError, UsageError

if TYPE_CHECKING:
    from ..export import Written

FORMATS = ("table", "json", "csv", "parquet")
USAGE_FORMATS = (*FORMATS, "ipfix", "html")


def print_written(folder: Path, written: Written) -> None:
    """Say what became of a dataset's runs."""
    parts = [f"{written.added:,} runs added", f"{written.known:,} were there"]
    if written.removed:
        parts.append(f"{written.removed:,} taken out: they were reversed")
    click.echo(f"{folder}: {', '.join(parts)}")


class Output:
    """The place of one result.

    Entering it comes before the work, so that a folder that cannot be written to is known at
    once. A file takes its name when everything is in it and on the disk.
    """

    def __init__(self, path: Path | None, form: str) -> None:
        self._form = form
        self._path = None if path is None or str(path) == "-" else path
        self._partial: Path | None = None
        self._file: IO[bytes] | None = None
        if self._path is None and form == "parquet" and sys.stdout.isatty():
            raise UsageError("parquet is no text for a terminal: name a file with --output FILE")

    def __enter__(self) -> Output:
        path = self._path
        if path is not None:
            try:
                if path.exists() and not path.is_file():  # a device, a pipe: nothing to rename
                    self._file = open(path, "wb")
                else:
                    self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
                    self._file = open(self._partial, "xb")
            except OSError as error:
                raise self._failed(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._file is not None:
                self._file.close()
        except OSError:
            if error is None:
                raise
        finally:
            if self._partial is not None:
                self._partial.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        """Write a text that is there as a whole."""

        def render(stream: IO[str]) -> None:
            stream.write(text)

        self.write_text(render)

    def write_text(self, render: Callable[[IO[str]], None]) -> None:
        """Have text rendered into the result; machines get UTF-8 whatever the locale is."""

        def encode(binary: IO[bytes]) -> None:
            text = TextIOWrapper(binary, encoding="utf-8", newline="")
            try:
                render(text)
                text.flush()
            finally:
                with suppress(OSError):  # whatever fails here has failed before
                    text.detach()

        if self._file is None and self._form == "table":
            render(sys.stdout)
            sys.stdout.flush()
        else:
            self.write_binary(encode)

    def write_binary(self, render: Callable[[IO[bytes]], None]) -> None:
        """Have octets rendered into the result."""
        if self._file is None:
            sys.stdout.flush()
            render(sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        try:
            render(self._file)
            self._file.flush()
            if self._partial is not None and self._path is not None:
                os.fsync(self._file.fileno())
                os.replace(self._partial, self._path)
                self._partial = None
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TollsplitError:
        return TollsplitError(f"{self._path}: cannot be written: {error.strerror or error}")
