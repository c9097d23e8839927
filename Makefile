# fedsweep: set-up, main job, tests. Needs Python 3.11, pip and make; everything else is installed into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.complete

.PHONY: setup sweep test test-all crash lint ui bench bench-peers growth lock wheel clean

setup: $(STAMP)

# TFF 0.87 pins releases that pip can no longer resolve, so the lock was resolved with overrides (pyproject.toml,
# [tool.uv]) and is installed as it is: exact versions, checked hashes, no resolution. The stamp comes last, so a set-up
# that was cut off starts again. Bytecode is compiled here because imports take three times as long without it.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "fedsweep needs Python 3.11; '$(PYTHON)' is not on the PATH (make PYTHON=... names another)" >&2; exit 1; }
	@rm -f $@
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q -j 0 .venv/lib
	@touch $@

sweep: setup
	$(BIN)/python -m fedsweep -m encoder.bits=2,4,8

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: setup lint
	$(PYTEST) -m "not exhaustive"

# Every variation of what `make test` shows with some: all encoders, codes and launchers, more kills.
test-all: setup lint
	$(PYTEST)

# Kills, full disks, servers that go away, 10,000 fuzzed inputs: docs/reliability.md says what is tried.
# It takes 50 minutes on two cores.
crash: setup
	$(BIN)/python -m tests.crash --write docs/reliability.md

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

ui: setup
	@$(BIN)/python -m fedsweep.tracking.ui --port $${PORT:-5000}

bench: setup
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/pruning.py
	$(BIN)/python benchmarks/pareto.py

growth: setup
	$(BIN)/python benchmarks/growth.py

# Each peer of benchmarks/peers in an environment of its own. PyPI's torch for x86 Linux is a CUDA build, which does not
# import without some of NVIDIA's libraries (1.8 GB more to download); where pip finds a CPU build they are left out.
PEERS := pfl flower fedjax

bench-peers: $(PEERS:%=.peers/%/.complete)

.peers/%/.complete: benchmarks/peers/%.txt benchmarks/peers/torch_cuda.txt
	@rm -f $@
	$(PYTHON) -m venv --clear .peers/$*
	.peers/$*/bin/python -m pip install --quiet --no-deps -r $<
	@if grep -q '^torch==' $< && ! .peers/$*/bin/python -c 'import torch' 2>/dev/null; then \
	  set -x; .peers/$*/bin/python -m pip install --quiet --no-deps -r benchmarks/peers/torch_cuda.txt; fi
	@touch $@

# Resolves the lock anew (after a change of pyproject.toml); needs uv on the PATH.
lock:
	uv pip compile pyproject.toml --extra dev --extra html --extra ray --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --quiet --output-file requirements.lock

wheel: setup
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf .venv dist build
