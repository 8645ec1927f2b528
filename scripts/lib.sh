# Virtual environments for the other scripts; sourced, not run.
#
#   ensure_venv NAME FOLDER PYTHON CONSTRAINTS ARGUMENT...
#
# creates a virtual environment of PYTHON in FOLDER and runs `pip install ARGUMENT...` in it, within CONSTRAINTS. Quick if
# nothing changed. An interrupted installation starts again, because pip cannot detect a partly unpacked package.

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off

say() { printf '[%s] %s\n' "$1" "$2"; }

require_python() { # NAME PYTHON
    if ! command -v "$2" >/dev/null; then
        say "$1" "Python not found: $2; install Python 3.10 or newer, or select one: make PYTHON=/path/to/python3" >&2
        return 1
    fi
    if ! "$2" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        say "$1" "Python too old: $2 is $("$2" -V 2>&1); select 3.10 or newer: make PYTHON=python3.11" >&2
        return 1
    fi
    if ! "$2" -c 'import ensurepip, venv' 2>/dev/null; then
        say "$1" "venv is missing in $2; install it: apt-get install python3-venv" >&2
        return 1
    fi
}

# Export VARIABLE as the folder of headers that scripts/fetch-headers KIND downloads, unless it is set. After a failure, a
# file next to the folder contains the reason, the tests that need the headers skip with it, and no further attempt is made.
use_headers() { # NAME KIND VARIABLE
    local folder=$PWD/build/headers/$2
    if [[ ${!3-} ]]; then return; fi
    if [[ ! -f $folder/.complete && ! -f $folder.why ]]; then
        mkdir -p build/headers
        if ! scripts/fetch-headers "$2" "$folder" 2>"$folder.log" >&2; then
            tail -n 1 "$folder.log" >"$folder.why"
            say "$1" "headers of $2 are missing: $(<"$folder.why") (to try again: rm $folder.why)"
        fi
    fi
    if [[ -f $folder/.complete ]]; then export "$3=$folder"; fi
}

fingerprint() { # FOLDER PYTHON CONSTRAINTS ARGUMENT...
    { "$2" -V && pwd && cat pyproject.toml "$3" scripts/lib.sh && echo "$@"; } | cksum
}

ensure_venv() {
    local name=$1 folder=$2 python=$3 constraints=$4
    shift 4
    require_python "$name" "$python" || return 1
    local wanted started=$SECONDS
    wanted=$(fingerprint "$folder" "$python" "$constraints" "$@")
    if [[ -f $folder/.ready && $(<"$folder/.ready") == "$wanted" ]] && "$folder/bin/python" -c '' 2>/dev/null; then
        return 0
    fi
    # Update a complete environment; replace an incomplete one.
    if [[ ! -f $folder/.ready || ! -x $folder/bin/python || $(<"$folder/.python") != "$("$python" -V) $PWD" ]]; then
        say "$name" "creating $folder with $("$python" -V)"
        rm -rf "$folder"
        "$python" -m venv "$folder" || return 1
        echo "$("$python" -V) $PWD" >"$folder/.python"
    fi
    rm -f "$folder/.ready"
    say "$name" "installing into $folder, log in $folder/install.log (the first time takes minutes)"
    if ! _install "$name" "$folder" "$constraints" "$@"; then
        tail -n 20 "$folder/install.log" >&2
        say "$name" "installation failed, see above; check that the package index is reachable and run again" >&2
        return 1
    fi
    echo "$wanted" >"$folder/.ready"
    say "$name" "ready in $((SECONDS - started)) s"
}

_install() { # NAME FOLDER CONSTRAINTS ARGUMENT...
    local name=$1 pip=("$2/bin/python" -m pip install -c "$3") log=$2/install.log
    shift 3
    # The build backend is installed first and pinned, so that pip needs no isolated build environment.
    "${pip[@]}" hatchling editables 2>&1 | _progress "$name" "$log" new || return 1
    "${pip[@]}" --no-build-isolation "$@" 2>&1 | _progress "$name" "$log" || return 1
}

_progress() { # NAME LOG [new]: write everything to LOG, print one line per package
    [[ ${3-} ]] && : >"$2"
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$2"
        case $line in
            *.whl.metadata*) ;;
            "  Downloading "* | "  Using cached "* | "Processing "*.whl*)
                line=${line%% (from *} # the requiring package
                line=${line##*/}       # its folder
                printf '[%s]   %s\n' "$1" "${line#  }" ;;
            "Installing collected"*) printf '[%s]   unpacking\n' "$1" ;;
        esac
    done
}
