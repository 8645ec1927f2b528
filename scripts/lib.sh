# Virtual environments for the other scripts; sourced, not run.
#
#   ensure_venv NAME FOLDER PYTHON CONSTRAINTS ARGUMENT...
#
# makes FOLDER hold a virtual environment of PYTHON with this project (editable) and what `pip install ARGUMENT...`
# brings, within CONSTRAINTS. Quick when nothing changed. An install that was interrupted starts afresh: pip cannot
# tell a package that it unpacked halfway from a whole one.

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off

say() { printf '[%s] %s\n' "$1" "$2"; }

require_python() { # NAME PYTHON
    if ! command -v "$2" >/dev/null; then
        say "$1" "there is no $2 here; install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2
        return 1
    fi
    if ! "$2" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        say "$1" "$2 is $("$2" -V 2>&1); Python 3.10 or newer is needed, name one: make PYTHON=python3.11" >&2
        return 1
    fi
    if ! "$2" -c 'import ensurepip, venv' 2>/dev/null; then
        say "$1" "$2 cannot make virtual environments; install them: apt-get install python3-venv" >&2
        return 1
    fi
}

# Exports VARIABLE, the folder of the headers that scripts/fetch-headers KIND gets, unless it is set. Tries once: where
# they cannot be had, a file beside the folder says why, and the tests that need them skip with these words.
use_headers() { # NAME KIND VARIABLE
    local folder=$PWD/build/headers/$2
    if [[ ${!3-} ]]; then return; fi
    if [[ ! -f $folder/.complete && ! -f $folder.why ]]; then
        mkdir -p build/headers
        if ! scripts/fetch-headers "$2" "$folder" 2>"$folder.log" >&2; then
            tail -n 1 "$folder.log" >"$folder.why"
            say "$1" "without the headers of $2: $(<"$folder.why") (rm $folder.why to try again)"
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
    # A folder that was ready once is updated; any other is not to be trusted.
    if [[ ! -f $folder/.ready || ! -x $folder/bin/python || $(<"$folder/.python") != "$("$python" -V) $PWD" ]]; then
        say "$name" "making $folder with $("$python" -V) ..."
        rm -rf "$folder"
        "$python" -m venv "$folder" || return 1
        echo "$("$python" -V) $PWD" >"$folder/.python"
    fi
    rm -f "$folder/.ready"
    say "$name" "installing into $folder, the log is $folder/install.log (the first time takes minutes)"
    if ! _install "$name" "$folder" "$constraints" "$@"; then
        tail -n 20 "$folder/install.log" >&2
        say "$name" "the installation failed, see above; is the package index reachable? Run again to start afresh" >&2
        return 1
    fi
    echo "$wanted" >"$folder/.ready"
    say "$name" "ready in $((SECONDS - started)) s"
}

_install() { # NAME FOLDER CONSTRAINTS ARGUMENT...
    local name=$1 pip=("$2/bin/python" -m pip install -c "$3") log=$2/install.log
    shift 3
    # The build backend comes first and is pinned as well: no build environment of its own.
    "${pip[@]}" hatchling editables 2>&1 | _progress "$name" "$log" new || return 1
    "${pip[@]}" --no-build-isolation "$@" 2>&1 | _progress "$name" "$log" || return 1
}

_progress() { # NAME LOG [new]: copies all to LOG, shows one line per package
    [[ ${3-} ]] && : >"$2"
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$2"
        case $line in
            *.whl.metadata*) ;;
            "  Downloading "* | "  Using cached "* | "Processing "*.whl*)
                line=${line%% (from *} # who asked for it
                line=${line##*/}       # where it lay
                printf '[%s]   %s\n' "$1" "${line#  }" ;;
            "Installing collected"*) printf '[%s]   unpacking\n' "$1" ;;
        esac
    done
}
