"""Files that are whole or absent, written under a temporary name beside their target, then renamed; and digests."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from idol_runtime.errors import OutputError

__all__ = ["file_digest", "replacing", "writable_target"]

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
    """Check that a file can be written at `path`, before any work is done for it.

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


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path with the target's suffix; it becomes the target on success and vanishes on failure.

    Raises:
        OutputError: the target cannot be written, or the disk is full.
    """
    target = writable_target(path)
    # Cut to what leaves room for mkstemp's own letters in a name of 255 bytes, whatever the script.
    prefix, suffix = f".{target.stem[:40]}-", target.suffix[:20]
    try:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp made it private; the finished file gets the permissions any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
