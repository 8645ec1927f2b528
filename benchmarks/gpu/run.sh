#!/bin/sh
# Run benchmarks.gpu.run from a checkout that only torch and numpy are installed for. Builds the libraries in a temporary
# folder. PYTHON selects the interpreter (default: python3).
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export IDOL_PLUGINS="$work" PYTHONUNBUFFERED=1
export PYTHONPATH=".:export:plugins:runtime${PYTHONPATH:+:$PYTHONPATH}"
"${PYTHON:-python3}" -m benchmarks.gpu.run "$@"
