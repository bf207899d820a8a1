# Needs a Python >= 3.11 with venv; everything else is installed into .venv, as the lock files say.

# The first one that is new enough.
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$p"; break; }; done)

# make up ARGS="--workers simulated:2"
ARGS ?=

.PHONY: help python setup setup-run release-tools up test check bench docs clients promtool dist sbom clean

help:
	@echo "make up      the whole mesh on this machine (Ctrl-C stops it); ARGS=\"--workers simulated:2\""
	@echo "make test    every test; ARGS=\"-n 0 tests/unit\" for some of them, one at a time"
	@echo "make check   ruff, mypy strict, import-linter"
	@echo "make bench   what the mesh adds to a request, measured"
	@echo "make docs    the documentation as a site, in build/site; the first time it installs what builds it"
	@echo "make clients clients that others wrote, for tests/clients; they need npm, and 2 GB"
	@echo "make promtool   Prometheus's own, into .venv: then make test tries the alerts as well. Needs Go, and minutes"
	@echo "make setup   only .venv, with everything that they need"
	@echo "make dist    the wheel and the source archive, in dist/"
	@echo "make sbom    what is installed with it, as CycloneDX, in dist/sbom.json"
	@echo "make clean   removes .venv and caches; keeps .bullpen, where the books are"

python:
	@test -n "$(PYTHON)" || { echo "Bullpen needs Python 3.11 or newer as python3: https://www.python.org/downloads/" >&2; exit 1; }

setup: python
	@"$(PYTHON)" .ci/setup.py

# Without the tools for tests and checks.
setup-run: python
	@"$(PYTHON)" .ci/setup.py run

up: setup-run
	@.venv/bin/bullpen up $(ARGS)

test: setup
	@.venv/bin/python -m pytest -q $(or $(ARGS),-n auto --dist worksteal)

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup
	@.venv/bin/python -m benchmarks overhead $(ARGS)

docs: python
	@"$(PYTHON)" .ci/docs.py $(ARGS)

clients: setup
	@.venv/bin/python .ci/clients.py

promtool: setup
	GOBIN="$(CURDIR)/.venv/bin" go install github.com/prometheus/prometheus/cmd/promtool@v0.316.0

release-tools: setup
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-release.lock

dist: release-tools
	@.venv/bin/python .ci/dist.py

sbom: release-tools
	@mkdir -p dist
	@.venv/bin/python -m cyclonedx_py requirements --output-reproducible --of JSON -o dist/sbom.json requirements-run.lock
	@echo "dist/sbom.json: what requirements-run.lock installs"

clean:
	rm -rf .venv .docs .clients build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
