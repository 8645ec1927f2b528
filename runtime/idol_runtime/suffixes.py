"""What the name of a file that is to be written ends in, where its content is of one kind whatever it is called."""

from pathlib import Path

from idol_runtime.errors import OutputError

__all__ = ["require_suffix"]


def require_suffix(path: str | Path, what: str, *suffixes: str) -> str:
    """The end of a file's name, in lower case.

    Args:
        path: of the file.
        what: is to be written, `a video` for instance.
        suffixes: that its name may have.

    Raises:
        OutputError: it has another.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise OutputError(f"cannot write {path}: the name of {what} ends in {' '.join(suffixes)}; rename it")
    return suffix
