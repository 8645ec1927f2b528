"""A download of ONNX Runtime's C headers from Debian's archive, because no Python package contains them.

python -m idol_plugins.fetch FOLDER

apt downloads one package with its own lists and sources: the system is not changed, and root is not needed. The archive
is the one in the system's own sources, else Debian's.
"""

import argparse
import contextlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, header_folder

__all__ = ["archives", "fetch_onnxruntime", "main"]

_PACKAGE = "libonnxruntime-dev"
_RELEASE = "trixie"  # Debian 13, the first release with the package
_ARCHIVE = "http://deb.debian.org/debian"
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SECONDS = 240  # time limit of each apt command
_ADVICE = f"give their folder with {ONNXRUNTIME.option}, or install {_PACKAGE} of a distribution that has it"


def fetch_onnxruntime(into: Path | None = None) -> Path:
    """Download and unpack the headers.

    Args:
        into: Folder for the headers, created if missing; None: the folder that `find_headers` searches.

    Returns:
        Folder of the headers.

    Raises:
        PluginError: The system is not Debian or Ubuntu, or no archive can be reached.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PluginError(
                f"ONNX Runtime's headers come from a Debian package, and {tool} is not here; {_ADVICE}"
            )
    failures = []
    for archive in archives():
        with tempfile.TemporaryDirectory(prefix="idol-headers-") as work:
            try:
                unpacked = _unpack(archive, Path(work))
            except PluginError as error:
                failures.append(f"{archive}: {error}")
                continue
            into = header_folder(ONNXRUNTIME) if into is None else into
            try:
                shutil.copytree(unpacked, into, dirs_exist_ok=True)
            except OSError as error:
                raise PluginError(f"{into} cannot be written ({error}); choose another folder") from error
            return into
    raise PluginError(f"ONNX Runtime's headers cannot be fetched ({'; '.join(failures)}); {_ADVICE}")


def archives() -> list[str]:
    """Return the addresses of the system's own Debian archives, as apt knows them, then Debian's."""
    own = []
    with contextlib.suppress(OSError, PluginError):  # another system
        release = platform.freedesktop_os_release()
        if release["ID"] == "debian":
            # The suite excludes security updates and third-party archives.
            main = ("Created-By: Packages", f"Release: {release.get('VERSION_CODENAME')}", "Component: main")
            own = _run(
                ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", *main]
            ).split()
    return list(dict.fromkeys(uri.rstrip("/") for uri in (*own, _ARCHIVE)))


def _unpack(archive: str, work: Path) -> Path:
    """Download and unpack the package; return the folder of its headers."""
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    keys = f"[signed-by={_KEYS}] " if Path(_KEYS).is_file() else ""
    (work / "sources.list").write_text(f"deb {keys}{archive} {_RELEASE} main\n")
    settings = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": 2,
        "Acquire::http::Timeout": 20,
        "Acquire::https::Timeout": 20,
        "APT::Sandbox::User": "root",  # the temporary folder belongs to this user
        "APT::Update::Error-Mode": "any",
    }
    apt = ["apt-get", "-q", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], work)
    _run([*apt, "download", _PACKAGE], work)
    packages = list(work.glob("*.deb"))
    if not packages:
        raise PluginError(f"apt-get downloaded no {_PACKAGE}")
    _run(["dpkg-deb", "-x", str(packages[0]), "unpacked"], work)
    headers = list((work / "unpacked").rglob(ONNXRUNTIME.file))
    if not headers:
        raise PluginError(f"{packages[0].name} contains no {ONNXRUNTIME.file}")
    return headers[0].parent


def _run(command: Sequence[str], work: Path | None = None) -> str:
    """Run a command in a folder and return its output."""
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, cwd=work, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PluginError(f"{command[0]} took more than {_SECONDS} s") from error
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("E:")] or lines or [f"status {done.returncode}"]
        raise PluginError(" ".join(errors[0].split()))
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m idol_plugins.fetch", description="Fetch the headers.")
    parser.add_argument("folder", type=Path, help="folder for the headers")
    try:
        folder = fetch_onnxruntime(parser.parse_args(arguments).folder)
    except PluginError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
