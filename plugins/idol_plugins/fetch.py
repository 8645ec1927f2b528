"""A download of ONNX Runtime's C headers from Debian's archive, because no Python package contains them.

python -m idol_plugins.fetch FOLDER

apt downloads one package with its own lists and sources: the system is not changed, and root is not needed. The archive
is the one in the system's own sources, else Debian's.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, header_folder

__all__ = ["Archive", "archives", "fetch_onnxruntime", "main"]

_PACKAGE = "libonnxruntime-dev"
_RELEASE = "trixie"  # Debian 13, the first release with the package
_ARCHIVE = "http://deb.debian.org/debian"
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SECONDS = 240  # time limit of each apt command
_ADVICE = f"give their folder with {ONNXRUNTIME.option}, or install {_PACKAGE} of a distribution that has it"


@dataclass(frozen=True)
class Archive:
    """A package archive.

    Attributes:
        uri: Address of the archive.
        options: Options of a source line, for example `signed-by=…`.
    """

    uri: str
    options: str

    @property
    def line(self) -> str:
        """Source line for the release that has the headers."""
        options = f"[{self.options}] " if self.options else ""
        return f"deb {options}{self.uri} {_RELEASE} main\n"


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
                failures.append(f"{archive.uri}: {error}")
                continue
            into = header_folder(ONNXRUNTIME) if into is None else into
            try:
                shutil.copytree(unpacked, into, dirs_exist_ok=True)
            except OSError as error:
                raise PluginError(f"{into} cannot be written ({error}); choose another folder") from error
            return into
    raise PluginError(f"ONNX Runtime's headers cannot be fetched ({'; '.join(failures)}); {_ADVICE}")


def archives(etc: Path = Path("/etc")) -> list[Archive]:
    """Return the archives of the system's own Debian release, then Debian's.

    Args:
        etc: Folder of the system's settings.
    """
    keys = f"signed-by={_KEYS}" if Path(_KEYS).is_file() else ""
    codename = _codename(etc)
    own = [
        Archive(uri.rstrip("/"), _options(fields) or keys)
        for fields in _sources(etc / "apt")
        if "deb" in fields.get("types", "").split()
        and fields.get("enabled", "yes").lower() != "no"
        # The suite excludes security updates and third-party archives.
        and codename in fields.get("suites", "").split()
        and "main" in fields.get("components", "").split()
        for uri in fields.get("uris", "").split()
    ]
    return list(dict.fromkeys([*own, Archive(_ARCHIVE, keys)]))


def _codename(etc: Path) -> str:
    """Return the code name of a Debian release; empty on any other system."""
    try:
        release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', (etc / "os-release").read_text(), re.MULTILINE))
    except OSError:
        return ""
    return release.get("VERSION_CODENAME", "") if release.get("ID") == "debian" else ""


def _sources(apt: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of every apt source, in the names of the deb822 format."""
    parts = apt / "sources.list.d"
    for path in [apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        try:
            text = path.read_text()
        except OSError:
            continue
        if path.suffix == ".sources":
            text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
            for stanza in re.split(r"\n\s*\n", text):
                fields = re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
                yield {key.lower(): " ".join(value.split()) for key, value in fields}
            continue
        for line in text.splitlines():
            if match := re.match(r"\s*deb\s+(?:\[(.*?)\]\s*)?(\S+)\s+(\S+)\s+([^#]*)", line):
                options, uri, suite, components = match.groups(default="")
                given = dict(option.split("=", 1) for option in options.split() if "=" in option)
                yield given | {"types": "deb", "uris": uri, "suites": suite, "components": components}


def _options(fields: Mapping[str, str]) -> str:
    """Return the trust options. A key inside the file does not fit a source line, and the system has it anyway."""
    keys = fields.get("signed-by", "")
    options = [f"signed-by={keys}"] if keys.startswith("/") else []
    if fields.get("trusted", "").lower() == "yes":
        options.append("trusted=yes")
    return " ".join(options)


def _unpack(archive: Archive, work: Path) -> Path:
    """Download and unpack the package; return the folder of its headers."""
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    (work / "sources.list").write_text(archive.line)
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


def _run(command: Sequence[str], work: Path) -> None:
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
