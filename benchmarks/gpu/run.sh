#!/bin/sh
# Run benchmarks.gpu.run from a checkout that only torch and numpy are installed for. Builds the libraries in a temporary
# folder, or in $IDOL_PLUGINS, which a later run with --only can use again. Installs the wheels that benchmarks.gpu.pack
# wrote to $PACKED (default: benchmarks/gpu/packed) in a temporary folder. Uses the engines' headers in build/headers, if
# scripts/fetch-headers wrote them there. PYTHON selects the interpreter (default: python3).
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export IDOL_PLUGINS="${IDOL_PLUGINS:-$work/lib}" TORCHINDUCTOR_CACHE_DIR="$work/inductor" PYTHONUNBUFFERED=1
export PYTHONPATH=".:export:plugins:runtime${PYTHONPATH:+:$PYTHONPATH}"
for engine in onnxruntime:ORT_INCLUDE_DIR tensorrt:TENSORRT_INCLUDE_DIR; do
    variable=${engine#*:} folder=$PWD/build/headers/${engine%:*}
    if [ -d "$folder" ]; then eval "export $variable=\${$variable:-\$folder}"; fi
done
packed=${PACKED:-benchmarks/gpu/packed}
if [ -d "$packed" ]; then
    if "${PYTHON:-python3}" -m benchmarks.gpu.pack --packed "$packed" --install "$work/packages" >&2; then
        PYTHONPATH="$work/packages:$PYTHONPATH"
    else
        echo "note: going on without the packed wheels" >&2
    fi
fi
"${PYTHON:-python3}" -m benchmarks.gpu.run "$@"
