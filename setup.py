"""Builds the Cython core. TOLLSPLIT_BUILD chooses how: release (default), checked, sanitizer.

With "none" the core is left alone: the Makefile installs the package so, and builds by itself.
"""

from __future__ import annotations

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

# Named, not globbed: a source that goes missing stops the build.
MODULES = (
    "layout", "reader", "ring", "recorder", "dissect", "lpm", "field", "suffixes", "covering",
    "classify", "subscribers", "table", "bounded", "fragments", "flows", "state", "totals",
    "merge", "counted", "follower", "meter", "order", "columns", "shares", "hello", "http",
    "exchange", "quic", "dns", "token",
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

build = os.environ.get("TOLLSPLIT_BUILD", "release")
if build not in BUILDS:
    raise SystemExit(f"TOLLSPLIT_BUILD: expected one of {', '.join(BUILDS)}, got {build!r}")
compile_args, link_args, checks = BUILDS[build]

setup(
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
