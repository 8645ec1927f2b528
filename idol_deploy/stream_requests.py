"""Streams that come over HTTP: their checks, which are stricter than those of a file that a user writes.

A client may name cameras, network streams, files in the folders of `--media`, and outputs in the folder of `--data`. It
may not read or write another file, nor start a GStreamer pipeline. Links are followed before the check. Somebody who
may write into these folders can replace a file by a link between the check and its use; give them to nobody else.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import urlsplit

from idol_runtime.errors import ConfigError
from idol_runtime.sources.camera import CameraReader
from idol_runtime.sources.opening import reader_kind
from idol_runtime.sources.stream import StreamReader

__all__ = ["MAX_NAME", "Fields", "RequestError", "StreamRequests"]

# Longest name and longest other value in characters.
MAX_NAME, MAX_TEXT = 100, 2000

_SCHEMES = ("rtsp", "rtsps", "http", "https")
_OUTPUTS = ("save", "jsonl", "masks", "state")
_OPTIONS = (
    *("boxes", "score", "queue", "latest", "stride", "max_frames", "reconnect", "read_timeout", "frozen"),
    *("after_gap", "rotate", "retain", "sync"),
)

Fields: TypeAlias = dict[str, str | int | float | bool]


class RequestError(ConfigError):
    """A refused change of the list of streams.

    Attributes:
        status: HTTP status of the refusal.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class StreamRequests:
    """The folders that streams over HTTP may use; `checked` checks one of them.

    Attributes:
        media: folders of files that may be sources.
        data: folder of outputs; None for none.
        protected: further files that no output may replace; None is ignored.

    Raises:
        ConfigError: a folder does not exist.
    """

    media: Sequence[Path] = ()
    data: Path | None = None
    protected: Sequence[Path | None] = ()

    def __post_init__(self) -> None:
        for option, folder in (*(("media", folder) for folder in self.media), ("data", self.data)):
            if folder is not None and not folder.is_dir():
                raise ConfigError(f"--{option} is not a folder: {folder}; create it first")

    def checked(self, fields: Mapping[str, str | int | float | bool]) -> tuple[str, Fields]:
        """Return the name of a stream, and its other fields as they are to be listed.

        Raises:
            RequestError: a field is missing, unknown or not allowed.
        """
        checked: Fields = {}
        for field, value in fields.items():
            if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
                raise RequestError(f"{field} must have at most {MAX_TEXT} characters, and no line breaks")
            if field == "source":
                checked[field] = self._source(value)
            elif field in _OUTPUTS:
                checked[field] = self._output(field, value)
            elif field in _OPTIONS:
                checked[field] = value
            elif field != "name":
                allowed = ", ".join(("name", "source", *_OUTPUTS, *_OPTIONS))
                raise RequestError(f"a request cannot set {field[:MAX_NAME]!r}; use {allowed}")
        return _name(fields.get("name")), checked

    def _source(self, value: object) -> str | int:
        if isinstance(value, bool | float) or value == "":
            raise RequestError("the source must be a URL, a camera or a file")
        text = str(value)
        if re.fullmatch(r"\d{1,2}|/dev/video\d{1,3}", text, re.ASCII):
            if reader_kind(value if isinstance(value, int) else text) is not CameraReader:
                raise RequestError(f"{text} is a file here; give another camera")
            return value if isinstance(value, int) else text
        if "://" in text:
            if not _is_url(text):
                raise RequestError(f"the URL must have one of the schemes {', '.join(_SCHEMES)}, and a host")
            return text
        for folder in self.media:
            path = _inside(folder, text)
            if path is not None and os.path.isfile(path):  # False for a name that is too long
                return str(path)
        hint = "" if self.media else "; for files, start serve with --media DIR"
        raise RequestError(
            f"the source must be a URL ({', '.join(_SCHEMES)}), a camera (0, /dev/video0) or a file in a folder of "
            f"--media{hint}"
        )

    def _output(self, field: str, value: object) -> str:
        if self.data is None:
            raise RequestError(f"{field} needs a folder for outputs; start serve with --data DIR")
        relative = isinstance(value, str) and value and not PurePosixPath(value).is_absolute()
        path = _inside(self.data, str(value)) if relative and not re.search(r"[{}\\]", str(value)) else None
        if path is None or path == self.data.resolve():
            raise RequestError(
                f"{field} must be a file name in the folder of --data, without .., braces or backslashes"
            )
        return str(path)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or value != value.strip():
        raise RequestError(f"the name must have 1 to {MAX_NAME} characters, without spaces at its ends")
    if "/" in value or value in (".", ".."):
        raise RequestError("the name must have no slash, and must not be . or ..")
    return value


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        host = url.hostname
    except ValueError:  # an impossible address
        return False
    plain = url.scheme in _SCHEMES and bool(host) and not re.search(r"\s", text)
    return plain and reader_kind(text) is StreamReader


def _inside(folder: Path, name: str) -> Path | None:
    """Return the place of a file in a folder, with all links followed; None if it lies outside."""
    if ".." in PurePosixPath(name).parts:
        return None
    try:
        root, path = folder.resolve(), (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):  # a name that is too long, or links in a circle
        return None
    return path if path.is_relative_to(root) else None
