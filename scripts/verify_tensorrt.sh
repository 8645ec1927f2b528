#!/usr/bin/env bash
# Run all checks of this project with TensorRT on your device, and write one JSON file to send back.
#
#   scripts/verify_tensorrt.sh [--output FILE] [--tensorrt-include DIR] [BUNDLE.idol...]
#   scripts/verify_tensorrt.sh --dry-run ...      the same steps with fakes, without a device
#
# Without a bundle it uses the bundle in models/. If a step fails, its name is printed and independent steps still run.
# If idol-deploy is not installed for $PYTHON, the script makes .venv-tensorrt, which can use the system's packages, such
# as JetPack's TensorRT on a Jetson.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
name=verify-tensorrt

python=${PYTHON:-python3}
require_python $name "$python"
dry=
for argument in "$@"; do if [[ $argument == --dry-run ]]; then dry=1; fi; done
if [[ -z $dry ]] && ! "$python" -c 'import idol_runtime, idol_deploy, importlib.metadata as m; m.version("idol-deploy")' 2>/dev/null
then
    venv=.venv-tensorrt
    say $name "installing into $venv, the log is $venv/install.log"
    "$python" -m venv --system-site-packages "$venv"
    python=$PWD/$venv/bin/python
    extras=cpu
    if [[ $(uname -r) == *tegra* ]]; then
        extras=cpu,jetson
    elif ! "$python" -c 'import tensorrt' 2>/dev/null; then
        extras=cpu,tensorrt
    fi
    if ! "$python" -m pip install ".[$extras]" >"$venv/install.log" 2>&1; then
        tail -n 20 "$venv/install.log" >&2
        say $name "the step that failed: installing; see above" >&2
        exit 1
    fi
fi
exec "$python" scripts/verify_tensorrt.py "$@"
