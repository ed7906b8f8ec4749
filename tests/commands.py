"""The command line in processes of its own."""

from __future__ import annotations

import subprocess
import sys

COMMAND = (sys.executable, "-m", "tollsplit")


def tollsplit(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, check=False, **options)  # type: ignore[call-overload]
