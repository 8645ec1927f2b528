#!/usr/bin/env bash
# Tries all that this project does with TensorRT on your device, and writes one JSON file to send back.
#
#   scripts/verify_tensorrt.sh [--output FILE] [--tensorrt-include DIR] [BUNDLE.idol...]
#   scripts/verify_tensorrt.sh --dry-run ...      the same steps on stand-ins, without a device
#
# Without a bundle it takes the one of models/. It says which step failed, and goes on with those that do not need it.
# Where idol-deploy is not installed for $PYTHON, it makes .venv-tensorrt, which sees the system's packages: on a Jetson,
# JetPack's TensorRT.
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
    if ! "$python" -c 'import tensorrt' 2>/dev/null; then extras=cpu,tensorrt; fi
    if ! "$python" -m pip install ".[$extras]" >"$venv/install.log" 2>&1; then
        tail -n 20 "$venv/install.log" >&2
        say $name "the step that failed: installing; see above" >&2
        exit 1
    fi
fi
exec "$python" scripts/verify_tensorrt.py "$@"
