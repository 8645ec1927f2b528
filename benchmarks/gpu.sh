#!/bin/sh
# Runs gpu.py from a bare checkout, nothing installed but torch and numpy; builds the libraries into a folder that is
# gone afterwards. PYTHON chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export IDOL_PLUGINS="$work" PYTHONUNBUFFERED=1
export PYTHONPATH=".:export:plugins:runtime${PYTHONPATH:+:$PYTHONPATH}"
"${PYTHON:-python3}" benchmarks/gpu.py "$@"
