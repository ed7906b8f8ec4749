"""Builds the Cython core. TOLLSPLIT_BUILD chooses how: release (default), checked, sanitizer.

With "none" the core is left alone: the Makefile installs the package so, and builds by itself.
"""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Named, not globbed: a source that goes missing stops the build.
MODULES = (
    "layout", "reader", "ring", "recorder", "dissect", "lpm", "field", "suffixes", "covering",
    "classify", "subscribers", "table", "bounded", "fragments", "flows", "lapsing", "calls",
    "copies", "streams", "talk", "requests", "state", "totals", "merge", "counted", "bearer",
    "listener", "converser", "follower", "meter", "order", "columns", "shares", "hello", "http",
    "exchange", "quic", "dns", "resolvers", "token",
)

SANITIZE = "-fsanitize=address,undefined"
# build: compiler arguments, linker arguments, are bounds checked
BUILDS = {
    "none": ([], [], False),
    "release": (["-O3"], [], False),
    "checked": (["-O1", "-g"], [], True),
    "sanitizer": (
        ["-O1", "-g", SANITIZE, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
        [SANITIZE],
        True,
    ),
}

# What is installed beside the package, below /usr or a venv: manual pages and completions where
# docs/manual.py has written them, and what a system needs to run a gateway.
SHARED = {Path("share"): "share", Path("system"): "share/tollsplit/system",
          Path("examples"): "share/tollsplit/examples"}  # fmt: skip


def shared() -> list[tuple[str, list[str]]]:
    """(folder, its files) of all that is installed beside the package."""
    files = sorted((str(place / path.relative_to(source).parent), str(path))
                   for source, place in SHARED.items() for path in source.rglob("*")
                   if path.is_file())  # fmt: skip
    return [(folder, [path for _, path in group])
            for folder, group in groupby(files, lambda each: each[0])]


build = os.environ.get("TOLLSPLIT_BUILD", "release")
if build not in BUILDS:
    raise SystemExit(f"TOLLSPLIT_BUILD: expected one of {', '.join(BUILDS)}, got {build!r}")
compile_args, link_args, checks = BUILDS[build]

setup(
    data_files=shared(),
    ext_modules=cythonize(
        [
            Extension(
                f"tollsplit.cext.{name}",
                [f"tollsplit/cext/{name}.pyx"],
                extra_compile_args=[*compile_args, "-Wno-unused-function"],
                extra_link_args=link_args,
            )
            for name in MODULES
            if build != "none"
        ],
        # A tree of its own for each build: the directives change the C that comes out.
        build_dir=f"build/{build}/cython",
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "freethreading_compatible": False,
            "boundscheck": checks,
            "wraparound": False,
            "initializedcheck": checks,
            "cdivision": True,
        },
    ),
)
