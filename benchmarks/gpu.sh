#!/bin/sh
# Runs gpu.py from a bare checkout, nothing installed but torch and numpy. PYTHON chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
PYTHONPATH=.:export:plugins:runtime${PYTHONPATH:+:$PYTHONPATH} exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
