"""A zip file whose head says what it is: JSON with a schema version, whose SHA-256 is the zip's comment.

Bundles and engines are such files. Members are stored without compression, so that none is larger than its file, and
the head holds the hashes of those that matter. This finds accidents; it is no signature.
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from idol_runtime.errors import IdolError
from idol_runtime.files import replacing

__all__ = ["SealedZip", "sha256", "write_sealed"]


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def write_sealed(path: str | Path, name: str, head: msgspec.Struct, members: Mapping[str, bytes]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: where to.
        name: of the head among the members.
        head: has a `schema_version`.
        members: the bytes of the others.

    Raises:
        OutputError: the place cannot be written.
    """
    encoded = msgspec.json.format(msgspec.json.encode(head), indent=2)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = sha256(encoded).encode()
        for member, data in {name: encoded, **members}.items():
            archive.writestr(member, data)


class SealedZip:
    """An open file, to be closed.

    Args:
        path: of the file.
        refuse: makes the error to raise, of what is wrong.
    """

    def __init__(self, path: Path, refuse: Callable[[str], IdolError]) -> None:
        self._refuse = refuse
        try:
            self._archive = zipfile.ZipFile(path)
        except Exception as error:  # zipfile raises whatever its parser meets
            raise refuse(_reason(error)) from error
        for info in self._archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                self.close()
                raise refuse(f"{info.filename} is compressed, which no member may be")

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    @property
    def names(self) -> list[str]:
        """Of the members; one that stands twice is named twice."""
        return self._archive.namelist()

    def head(self, name: str, most: int) -> tuple[int, bytes]:
        """The schema version, and the whole of the head."""
        encoded = self.read(name, most)
        if sha256(encoded) != self._archive.comment.decode("ascii", "replace"):
            raise self._refuse(f"{name} was changed after it was written")
        try:
            return msgspec.json.decode(encoded, type=_Versioned).schema_version, encoded
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._refuse(f"{name} is not valid ({error})") from error

    def read(self, name: str, most: int) -> bytes:
        """A member of at most so many bytes."""
        try:
            with self._archive.open(name) as member:
                # The size in the zip's header may lie; one byte beyond the limit is enough to know.
                data = member.read(most + 1)
        except Exception as error:  # see `__init__`
            raise self._refuse(f"{name} cannot be read ({_reason(error)})") from error
        if len(data) > most:
            raise self._refuse(f"{name} is larger than {most / 2**20:g} MiB")
        return data


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Versioned(msgspec.Struct):
    schema_version: int
