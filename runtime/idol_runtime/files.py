"""Files that are whole or absent, written under a temporary name beside their target, then renamed; and digests."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from idol_runtime.errors import ConfigError, OutputError

__all__ = ["file_digest", "refuse_replacing", "replacing", "require_suffix", "writable_target"]

_BLOCK = 2**20


def file_digest(path: str | Path) -> str:
    """SHA-256 of what a file holds, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def writable_target(path: str | Path) -> Path:
    """Check that a file can be written at `path`, before any work is done for it; where a link leads, if it is one.

    Raises:
        OutputError: the folder is missing or not writable, or `path` is a folder or a device.
    """
    target = Path(path)
    try:
        os.stat(target)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {target}: {reason}; choose another place") from error
    if target.is_symlink():
        target = target.resolve()
    if target.is_dir():
        raise OutputError(f"{target} is a folder; give a file name")
    if target.exists() and not target.is_file():
        # Renaming would put an ordinary file in the place of /dev/null.
        raise OutputError(f"{target} is not a regular file; give another file name")
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {target}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise OutputError(f"cannot write {target}: permission denied; choose another place")
    return target


def refuse_replacing(outputs: Iterable[Path | None], inputs: Iterable[str | Path | None]) -> None:
    """See that no output would take the place of what it is made of, by whatever name; None is no place.

    Raises:
        ConfigError: one would.
    """
    read = {place for path in inputs if (place := _place(path)) is not None}
    for path in outputs:
        if _place(path) in read:
            raise ConfigError(f"{path} is an input as well; give the output another name")


def _place(path: str | Path | None) -> tuple[int, int] | None:
    """Equal for all names of a file or a folder; None of what is not there."""
    try:
        found = None if path is None else os.stat(path)
    except (OSError, ValueError):  # as above
        return None
    return found and (found.st_dev, found.st_ino)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path with the target's suffix; it becomes the target on success and vanishes on failure.

    Raises:
        OutputError: the target cannot be written, or the disk is full.
    """
    target = writable_target(path)
    # Cut to what leaves room for the random letters in a name of 255 bytes, whatever the script.
    temporary = target.with_name(f".{target.stem[:40]}-{secrets.token_hex(4)}{target.suffix[:20]}")
    try:
        # Not by tempfile, which makes it private: the umask would be ours to apply, and to read it is to set it.
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def require_suffix(path: str | Path, content: str, *suffixes: str) -> str:
    """Check the suffix of an output file and return it in lower case.

    Args:
        path: path of the output file.
        content: what the file will hold, such as `a video`.
        suffixes: allowed suffixes, in lower case, with their dots.

    Raises:
        OutputError: the path has another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise OutputError(
            f"cannot write {path}: the name of {content} ends in {' or '.join(suffixes)}; rename it"
        )
    return suffix
