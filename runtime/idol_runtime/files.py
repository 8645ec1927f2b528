"""Atomic writing of files, checks of output paths, and digests."""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from idol_runtime.errors import ConfigError, OutputError

__all__ = [
    "file_digest",
    "hidden_path",
    "lock",
    "refuse_replacing",
    "replacing",
    "require_suffix",
    "sync",
    "writable_target",
    "write_error",
    "write_text",
]

_BLOCK = 2**20


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def writable_target(path: str | Path) -> Path:
    """Check that a file can be written at `path`, and return the path or the target of its link.

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
        # Renaming would replace /dev/null by a regular file.
        raise OutputError(f"{target} is not a regular file; give another file name")
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {target}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise OutputError(f"cannot write {target}: permission denied; choose another place")
    return target


def write_error(path: str | Path, error: OSError) -> OutputError:
    """Return the error of a file that cannot be written, with its fix."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "free some space" if full else "check its disk and its folder"
    return OutputError(f"cannot write {path}: {error.strerror or error}; {fix}")


def lock(descriptor: int, path: str | Path) -> None:
    """Lock an open file until it is closed, so that no other run writes it; ignored where the system cannot do this.

    Args:
        descriptor: descriptor of the file.
        path: path for the message.

    Raises:
        OutputError: the file is locked already.
    """
    with contextlib.suppress(OSError, ImportError):
        import fcntl  # POSIX only

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"cannot write {path}: another run writes it; end that run, or give another name"
            ) from error


def sync(path: str | Path) -> None:
    """Write a file, or the names in a folder, to the disk; ignored where the system cannot do this."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def refuse_replacing(outputs: Iterable[Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Check that no output overwrites an input, also through another name of the same file; None is ignored.

    Raises:
        ConfigError: an output is an input.
    """
    read = {identity for path in inputs if (identity := _identity(path)) is not None}
    for path in outputs:
        if _identity(path) in read:
            raise ConfigError(f"{path} is an input as well; give the output another name")


def _identity(path: str | Path | None) -> tuple[int, int] | Path | None:
    """Return device and inode, equal for all names of a file; of a missing file the path, None if it cannot exist."""
    if path is None:
        return None
    with contextlib.suppress(OSError, ValueError):  # ValueError: a NUL in the name
        try:
            status = os.stat(path)
        except FileNotFoundError:  # a file that is written later
            return Path(path).resolve()
        return status.st_dev, status.st_ino
    return None


def hidden_path(target: Path) -> Path:
    """Return an unused hidden path beside a target, with its suffix."""
    # Shortened, so that the name with the random letters has at most 255 bytes in any script.
    return target.with_name(f".{target.stem[:40]}-{secrets.token_hex(4)}{target.suffix[:20]}")


@contextlib.contextmanager
def replacing(path: str | Path, *, keep_mode: bool = False) -> Iterator[Path]:
    """Yield a temporary path with the target's suffix; rename it to the target on success, delete it on failure.

    Args:
        path: target.
        keep_mode: give the new file the permissions of the target, if it exists; False: those of a new file.

    Raises:
        OutputError: the target cannot be written, or the disk is full.
    """
    target = writable_target(path)
    temporary = hidden_path(target)
    try:
        # Not with tempfile, whose files are private: applying the umask would need reading it, which sets it.
        temporary.touch(exist_ok=False)
        if keep_mode and target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        mode = temporary.stat().st_mode
    except OSError as error:
        raise write_error(target, error) from error
    try:
        yield temporary
        temporary.chmod(mode)  # a library may have made a private file in its place
        temporary.replace(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):  # the disk is read-only by now
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8, as `replacing` does.

    Raises:
        OutputError: the file cannot be written, or the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
