#!/bin/sh
# Writes what each image installs, `base.lock` and one lock per backend that needs more, after pyproject.toml changed.
# All can send traces: nothing of that is imported before somebody asks for it.
# Versions are those of ../requirements.lock, so that a container runs what the tests ran. Needs `uv`.
set -eu
cd "$(dirname "$0")/.."
lock() { # NAME [EXTRA [EXTRA [GROUP]]]
  uv pip compile pyproject.toml --extra traces ${2:+--extra "$2"} ${3:+--extra "$3"} ${4:+--group "$4"} --constraint requirements.lock --universal --python-version 3.11 \
    --generate-hashes --no-header --no-annotate --quiet --output-file "requirements/$1.lock"
}
lock base
# What `make up` installs: everything but the tools for tests and checks.
uv pip compile pyproject.toml --all-extras --group checkout --constraint requirements.lock --universal --python-version 3.11 \
  --generate-hashes --no-header --no-annotate --quiet --output-file requirements-run.lock
# The tools of `make dist` and `make sbom`, beside those of the whole lock.
uv pip compile --group release --constraint requirements.lock --universal --python-version 3.11 \
  --generate-hashes --no-header --no-annotate --quiet --output-file requirements-release.lock
lock local local gpu model # its model is what a GPU is for
for extra in ollama openai gemini anthropic; do lock "$extra" "$extra"; done
# What builds the documentation (`make docs`): no image and no test needs it.
echo mkdocs-material==9.8.* | uv pip compile - --constraint requirements.lock --universal --python-version 3.11 \
  --generate-hashes --no-header --no-annotate --quiet --output-file requirements/docs.lock
