"""Gets ONNX Runtime's C headers from Debian's archive: no Python package brings them.

python -m idol_plugins.fetch FOLDER

apt downloads one package with lists and sources of its own; nothing of the system's is touched, and no right of root is
needed. The archive is the one that this system's own sources name, else Debian's.
"""

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
_RELEASE = "trixie"  # Debian 13, the first that has the package
_ARCHIVE = "http://deb.debian.org/debian"
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SECONDS = 240  # that apt may take for the lists, and for the package


@dataclass(frozen=True)
class Archive:
    """Where packages come from.

    Attributes:
        uri: of the archive.
        options: of a line of sources, such as `signed-by=…`.
    """

    uri: str
    options: str

    @property
    def line(self) -> str:
        """Of a list of sources, for the release that has the headers."""
        options = f"[{self.options}] " if self.options else ""
        return f"deb {options}{self.uri} {_RELEASE} main\n"


def fetch_onnxruntime(into: Path | None = None) -> Path:
    """Download and unpack the headers.

    Args:
        into: folder to put them into, made if need be; None: where `find_headers` finds them.

    Returns:
        The folder.

    Raises:
        PluginError: this is no Debian or Ubuntu, or no archive can be reached.
    """
    advice = (
        f"give their folder with {ONNXRUNTIME.option}, or install {_PACKAGE} of a distribution that has it"
    )
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PluginError(
                f"ONNX Runtime's headers come from a Debian package, and {tool} is not here; {advice}"
            )
    tried = []
    for archive in archives():
        with tempfile.TemporaryDirectory(prefix="idol-headers-") as work:
            try:
                unpacked = _unpack(archive, Path(work))
            except PluginError as error:
                tried.append(f"{archive.uri}: {error}")
                continue
            return _install(unpacked, header_folder(ONNXRUNTIME) if into is None else into)
    raise PluginError(f"ONNX Runtime's headers could not be fetched ({'; '.join(tried)}); {advice}")


def archives(etc: Path = Path("/etc")) -> list[Archive]:
    """Those that this system takes its own release from, then Debian's.

    Args:
        etc: the folder of the system's settings.
    """
    keys = f"signed-by={_KEYS}" if Path(_KEYS).is_file() else ""
    found = [
        Archive(uri.rstrip("/"), options or keys)
        for uri, suites, components, options in _sources(etc / "apt")
        # Neither security updates nor archives of others.
        if _codename(etc) in suites and "main" in components
    ]
    return list(dict.fromkeys([*found, Archive(_ARCHIVE, keys)]))


def _codename(etc: Path) -> str:
    """Of a Debian; empty on any other system."""
    try:
        release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', (etc / "os-release").read_text(), re.MULTILINE))
    except OSError:
        return ""
    return release.get("VERSION_CODENAME", "") if release.get("ID") == "debian" else ""


def _sources(apt: Path) -> Iterator[tuple[str, list[str], list[str], str]]:
    """URI, suites, components and options of every source of binary packages, in either form."""
    parts = apt / "sources.list.d"
    for path in [apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        try:
            text = path.read_text()
        except OSError:
            continue
        yield from _stanzas(text) if path.suffix == ".sources" else _lines(text)


def _stanzas(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): " ".join(value.split())
            for key, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        options = _options(fields)
        for uri in fields.get("uris", "").split():
            yield uri, fields.get("suites", "").split(), fields.get("components", "").split(), options


def _lines(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[(.*?)\]\s*)?(\S+)\s+(\S+)\s+([^#]*)(?:#.*)?", line)
        if match:
            given = dict(option.split("=", 1) for option in (match[1] or "").split() if "=" in option)
            yield match[2], [match[3]], match[4].split(), _options(given)


def _options(given: Mapping[str, str]) -> str:
    """What says whom to trust; a key within the file itself would not fit a line, and is the system's anyway."""
    keys = given.get("signed-by", "")
    kept = [f"signed-by={keys}"] if keys.startswith("/") else []
    if given.get("trusted", "").lower() == "yes":
        kept.append("trusted=yes")
    return " ".join(kept)


def _unpack(archive: Archive, work: Path) -> Path:
    """The package's contents."""
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
        "APT::Sandbox::User": "root",  # the folder is ours alone
        "APT::Update::Error-Mode": "any",
    }
    apt = ["apt-get", "-q", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], work)
    _run([*apt, "download", _PACKAGE], work)
    packages = list(work.glob("*.deb"))
    if not packages:
        raise PluginError(f"apt-get brought no {_PACKAGE}")
    _run(["dpkg-deb", "-x", str(packages[0]), "unpacked"], work)
    headers = list((work / "unpacked").rglob(ONNXRUNTIME.file))
    if not headers:
        raise PluginError(f"{packages[0].name} holds no {ONNXRUNTIME.file}")
    return headers[0].parent


def _run(command: Sequence[str], work: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, cwd=work, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PluginError(f"{command[0]} took more than {_SECONDS} s") from error
    if done.returncode:
        said = done.stderr.splitlines()
        errors = [line for line in said if line.startswith("E:")] or said or [f"status {done.returncode}"]
        raise PluginError(" ".join(errors[0].split()))


def _install(headers: Path, into: Path) -> Path:
    try:
        shutil.copytree(headers, into, dirs_exist_ok=True)
    except OSError as error:
        raise PluginError(f"{into} cannot be written ({error}); choose another folder") from error
    return into


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1:
        sys.stderr.write("usage: python -m idol_plugins.fetch FOLDER\n")
        return 2
    try:
        folder = fetch_onnxruntime(Path(given[0]))
    except PluginError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
