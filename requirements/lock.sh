#!/bin/sh
# Writes what each image installs, `base.lock` and one lock per backend that needs more, after pyproject.toml changed.
# All can send traces: nothing of that is imported before somebody asks for it.
# Versions are those of ../requirements.lock, so that a container runs what the tests ran. Needs `uv`.
set -eu
cd "$(dirname "$0")/.."
lock() { # NAME [EXTRA [EXTRA]]
  uv pip compile pyproject.toml --extra traces ${2:+--extra "$2"} ${3:+--extra "$3"} --constraint requirements.lock --universal --python-version 3.11 \
    --generate-hashes --no-header --no-annotate --quiet --output-file "requirements/$1.lock"
}
lock base
lock local local gpu # its model is what a GPU is for
for extra in ollama openai gemini anthropic; do lock "$extra" "$extra"; done
