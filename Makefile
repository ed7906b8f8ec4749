# What a person does with this tree. A fresh Debian with python3, gcc and make is enough.
#
#   make demo       the whole story in one minute, on bundled data
#   make test       lint, types, and the tests on the release and the sanitizer build of the core
#   make build      the release build of the core, in place
#   make checked    the tests that reach the core, with bounds checks compiled in
#   make sanitize   the same, bounds checks too, and 10,000 mutated captures, under ASan and UBSan
#   make bench      the benchmarks at full size: six minutes, 2 GB of scratch space; with other
#                   people's tools, where make bench-peers has installed them, nine more
#   make bench-check   instructions per packet against those on record (valgrind)
#   make package    the source archive, and a wheel for other machines, in dist/
#   make clean      remove everything that was built, .venv too

SHELL := /bin/bash
PYTHON3 ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Pip's own news are not ours.
PIP := $(BIN)/pip --disable-pip-version-check --quiet
SOURCES := setup.py $(wildcard tollsplit/cext/*.pyx tollsplit/cext/*.pxd)
BENCH_SCRATCH ?= build/bench
PEERS_DEBIAN := argus-client argus-server g++ libndpi-bin libpcap-dev libtrace-tools nfdump pmacct \
    softflowd tcpdump tshark wireshark-common
PEERS_PYPI := dpkt nfstream pypacker scapy
# A reader of smart cards in software, and what pyscard is compiled with.
CARDS := libpcsclite-dev pcscd swig vsmartcard-vpcd
# What has to come to our octets when it is sent IPFIX.
COLLECTORS := libfixbuf-tools nfdump pmacct
# How the tests are spread over processes, and which of them are not. Those of the core keep a CPU
# busy; many of the others wait for timers and databases.
AT_ONCE := --numprocesses 2 --dist worksteal
WAITING := --numprocesses 5 --dist worksteal
ALONE := tests/live tests/story tests/test_benchmarks_live.py

.PHONY: demo test prepared build checked sanitize bench bench-check bench-peers bench-record lint package clean
.DELETE_ON_ERROR:

demo: build
	$(BIN)/tollsplit demo

# --- environment -----------------------------------------------------------------------

# Debian splits python3: its venv module and its headers are packages of their own.
define REQUIRE
missing=(); \
command -v $(PYTHON3) >/dev/null || missing+=(python3); \
$(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
test -f "$$($(PYTHON3) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
    || missing+=(python3-dev); \
command -v gcc >/dev/null || missing+=(gcc); \
echo '#include <stdlib.h>' | gcc -fsyntax-only -xc - 2>/dev/null || missing+=(libc6-dev); \
if (( $${#missing[@]} )); then \
    if (( EUID )) || ! command -v apt-get >/dev/null; then \
        echo "missing; install as root: apt-get install $${missing[*]}" >&2; exit 1; \
    fi; \
    apt-get update -q && \
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}"; \
fi; \
$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
endef

# $(call INSTALL,packages): those of them that are missing, where that is possible.
INSTALL = missing=($$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(1) 2>/dev/null \
    | awk '$$1 == "installed" {print $$2}' | sort | comm -13 - <(printf '%s\n' $(1) | sort))); \
    (( ! $${\#missing[@]} )) || { (( ! EUID )) && apt-get update -q && DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "$${missing[@]}"; }

$(VENV)/.created: pyproject.toml
	@$(REQUIRE)
	$(PYTHON3) -m venv $(VENV)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/requires.txt
	$(PIP) install -r $(VENV)/requires.txt
	touch $@

# Editable and without the core, which is built below: pip would compile all of it every time.
$(VENV)/.installed: $(VENV)/.created
	TOLLSPLIT_BUILD=none $(PIP) install --no-build-isolation --editable .
	touch $@

$(VENV)/.testable: $(VENV)/.installed
	TOLLSPLIT_BUILD=none $(PIP) install --no-build-isolation --editable '.[test]'
	@$(call INSTALL,$(CARDS)) && TOLLSPLIT_BUILD=none $(PIP) install --no-build-isolation --editable '.[card]' \
	    || echo "no $(CARDS): the tests will skip readers of smart cards"
	@$(call INSTALL,valgrind) || echo "no valgrind: the tests will skip what counts instructions"
	@$(call INSTALL,hledger) || echo "no hledger: the tests will skip what it has to read"
	@$(call INSTALL,postgresql) || echo "no postgresql: the tests will skip its ledger"
	@$(call INSTALL,$(COLLECTORS)) || echo "no $(COLLECTORS): the tests will skip these collectors of IPFIX"
	@$(call INSTALL,nats-server) || echo "no nats-server: the tests will skip brokers"
	@$(call INSTALL,freeradius) || echo "no freeradius: the tests will skip it"
	@$(call INSTALL,dbus-daemon python3-dbusmock) || echo "no dbusmock: the tests will skip networks"
	@$(call INSTALL,chromium chromium-driver) || echo "no chromium: the tests will skip its pages"
	touch $@

# --- builds ----------------------------------------------------------------------------
# Each kind has a tree of its own below build/, so that none clobbers another. Release is
# linked into the source tree; the others get a copy of the package beside their modules.

build: $(VENV)/.installed build/release/.built

build/%/.built: $(SOURCES) | $(VENV)/.created
	TOLLSPLIT_BUILD=$* $(BIN)/python setup.py --quiet build_ext --build-lib build/$*/lib \
	    --build-temp build/$*/temp --parallel 2 $(if $(filter release,$*),--inplace)
	touch $@

# The package's Python files are copied anew each time: none that was removed stays behind.
define COPY_PACKAGE
find build/$(1)/lib -type f ! -name '*.so' -delete; \
TOLLSPLIT_BUILD=none $(BIN)/python setup.py --quiet build_py --build-lib build/$(1)/lib
endef

# --- tests -----------------------------------------------------------------------------

# What the lab of network namespaces is built with. Only root can build it; for others, and where
# nothing can be installed, those tests skip and say what they need.
define REQUIRE_LAB
missing=(); \
command -v ip >/dev/null || missing+=(iproute2); \
command -v nft >/dev/null || missing+=(nftables); \
command -v ethtool >/dev/null || missing+=(ethtool); \
ldconfig -p | grep -q 'libpcap\.so' || missing+=(libpcap0.8); \
if (( $${#missing[@]} && ! EUID )) && command -v apt-get >/dev/null; then \
    apt-get update -q && \
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}" \
    || echo "the tests of live capture will skip: no $${missing[*]}" >&2; \
fi
endef

$(VENV)/.lab: | $(VENV)/.testable
	@$(REQUIRE_LAB)
	touch $@

lint: $(VENV)/.testable build
	$(BIN)/ruff check .
	$(BIN)/mypy

checked: $(VENV)/.testable build/checked/.built
	$(call COPY_PACKAGE,checked)
	TOLLSPLIT_BUILD=checked $(BIN)/pytest -q $(AT_ONCE)

# libstdc++ comes first too, or ASan finds no __cxa_throw to intercept in C++ modules that are
# loaded later. Python leaks by design when it ends. Its own allocator would hide from ASan what
# is read beyond a bytes object.
sanitize: $(VENV)/.testable build/sanitizer/.built
	$(call COPY_PACKAGE,sanitizer)
	TOLLSPLIT_BUILD=sanitizer LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONMALLOC=malloc TOLLSPLIT_FUZZ=10000 $(BIN)/pytest -q $(AT_ONCE)

# One waits for the network while the others compile.
prepared: $(VENV)/.lab build build/sanitizer/.built

# The checked build is left out: the sanitizer's has its bounds checks. Live runs have the machine to
# themselves: some of them measure it, others the time. The main run comes last, so that its closing
# line is the last thing printed.
test:
	$(MAKE) --jobs 3 prepared
	$(MAKE) lint sanitize
	$(BIN)/pytest $(ALONE)
	$(BIN)/pytest $(WAITING) $(ALONE:%=--ignore=%)

# --- the rest --------------------------------------------------------------------------

$(VENV)/.benchable: $(VENV)/.testable
	TOLLSPLIT_BUILD=none $(PIP) install --no-build-isolation --editable '.[bench]'
	touch $@

# Each capture is generated in the scratch folder and removed after its sitting.
bench: export TMPDIR := $(abspath $(BENCH_SCRATCH))
bench: $(VENV)/.benchable build
	mkdir -p $(BENCH_SCRATCH)
	$(BIN)/python -m benchmarks.bench_account --naive
	$(BIN)/python -m benchmarks.bench_account --traffic imix
	$(BIN)/python -m benchmarks.bench_account --packets 10000000 --rounds 3 \
	    --subscribers 10000 100000 1000000 4000000
	$(BIN)/python -m benchmarks.bench_shapes --rounds 3
	$(BIN)/python -m benchmarks.bench_state --rounds 3
	$(BIN)/python -m benchmarks.bench_peers
	$(BIN)/python -m benchmarks.bench_peers --flows
	if (( ! EUID )); then $(BIN)/python -m benchmarks.bench_live; \
	    $(BIN)/python -m benchmarks.soak_live; fi
	$(BIN)/python -m benchmarks.bench_ledger
	$(BIN)/python -m benchmarks.bench_scale
	$(BIN)/python -m benchmarks.bench_broker
	$(BIN)/python -m benchmarks.bench_cluster
	$(BIN)/python -m benchmarks.plot
	$(BIN)/python -m benchmarks.tables

# Debian's go where the system puts them, PyPI's into a folder of their own.
bench-peers:
	@$(call INSTALL,$(PEERS_DEBIAN)) || echo "not all of $(PEERS_DEBIAN) could be installed"
	$(PYTHON3) -m venv build/peers
	build/peers/bin/pip --disable-pip-version-check --quiet install $(PEERS_PYPI)

# Timing fails nothing; instructions per packet that grow beyond 5 % do.
bench-check: $(VENV)/.testable build
	$(BIN)/python -m benchmarks.guard

bench-record: $(VENV)/.testable build
	$(BIN)/python -m benchmarks.guard --record

# The wheel is built from the archive, so what the archive lacks is missed here.
DIST ?= dist
package: $(VENV)/.testable build
	rm -rf share
	$(BIN)/python docs/manual.py share
	$(BIN)/python -m build --no-isolation --outdir $(DIST)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir $(DIST) $(DIST)/*-linux_*.whl
	rm $(DIST)/*-linux_*.whl

clean:
	rm -rf build dist share $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f tollsplit/cext/*.so
	find tollsplit tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
