"""Zip files with a checked head: JSON with a schema version, whose SHA-256 is the zip's comment.

Bundles and engines are such files. Members are stored without compression, so that no member is larger than the file.
The head holds the hashes of the important members. This detects accidents; it is not a signature.
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from idol_runtime.errors import IdolError
from idol_runtime.files import replacing
from idol_runtime.json_text import JSON_ERRORS

__all__ = ["SealedZip", "sha256", "write_sealed"]


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_sealed(path: str | Path, name: str, head: msgspec.Struct, members: Mapping[str, bytes]) -> None:
    """Write a file atomically.

    Args:
        path: path of the file.
        name: name of the head's member.
        head: head with a `schema_version`.
        members: contents of the other members by name.

    Raises:
        OutputError: the path cannot be written.
    """
    encoded = msgspec.json.format(msgspec.json.encode(head), indent=2)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = sha256(encoded).encode()
        for member, data in {name: encoded, **members}.items():
            archive.writestr(member, data)


class SealedZip:
    """An open zip file; close it after use.

    Args:
        path: path of the file.
        refuse: function that makes the error to raise from a description of the fault.
    """

    def __init__(self, path: Path, refuse: Callable[[str], IdolError]) -> None:
        self._refuse = refuse
        try:
            self._archive = zipfile.ZipFile(path)
        except Exception as error:  # zipfile raises many kinds of error
            raise refuse(_reason(error)) from error
        for info in self._archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                self.close()
                raise refuse(f"{info.filename} is compressed, and no member may be")

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    @property
    def names(self) -> list[str]:
        """Names of the members; a duplicate member appears twice."""
        return self._archive.namelist()

    def head(self, name: str, limit: int) -> tuple[int, bytes]:
        """Return the schema version and the bytes of the head."""
        encoded = self.read(name, limit)
        if sha256(encoded) != self._archive.comment.decode("ascii", "replace"):
            raise self._refuse(f"{name} was changed after it was written")
        try:
            return msgspec.json.decode(encoded, type=_Versioned).schema_version, encoded
        except JSON_ERRORS as error:
            raise self._refuse(f"{name} is not valid ({error})") from error

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of a member, at most `limit` of them."""
        try:
            with self._archive.open(name) as member:
                # The size in the zip's header may be wrong; one byte beyond the limit shows it.
                data = member.read(limit + 1)
        except Exception as error:  # see `__init__`
            raise self._refuse(f"{name} cannot be read ({_reason(error)})") from error
        if len(data) > limit:
            raise self._refuse(f"{name} is larger than {limit / 2**20:g} MiB")
        return data


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Versioned(msgspec.Struct):
    schema_version: int
