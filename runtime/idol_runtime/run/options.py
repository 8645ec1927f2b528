"""What a run reads and writes, and what came of it; for several sources, made of one pattern for all."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path
from urllib.parse import urlsplit

from idol_runtime.errors import ConfigError, IdolError
from idol_runtime.files import refuse_replacing
from idol_runtime.sources.captures import redact
from idol_runtime.sources.opening import local_path, source_places

__all__ = ["RunOptions", "RunSummary", "check_outputs", "for_each_source", "source_name"]

_BY_SOURCE = ("{source}", "{number}")


@dataclass(frozen=True)
class RunOptions:
    """What to read, and what to write.

    Attributes:
        source: video file, image folder or glob, camera index or URL.
        save: annotated video.
        jsonl: one JSON object per frame.
        results: results of the whole video, in the YouTube-VIS / OVIS submission format.
        masks: folder of id masks.
        display: show a window.
        boxes: draw boxes as well.
        score: instances below this are neither drawn nor listed; `results` holds all, as published.
        latest: of a camera or stream, take the newest frame and lose those that came while the network was busy.
        stride: take every n-th frame.
        max_frames: stop after this many.
        video_id: of the entries in `results`.
    """

    source: str | int | Path
    save: Path | None = None
    jsonl: Path | None = None
    results: Path | None = None
    masks: Path | None = None
    display: bool = False
    boxes: bool = False
    score: float = 0.0
    latest: bool = False
    stride: int = 1
    max_frames: int | None = None
    video_id: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ConfigError(f"score must lie between 0 and 1, got {self.score}")

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Files and folders to write."""
        return tuple(p for p in (self.save, self.jsonl, self.results, self.masks) if p is not None)


@dataclass
class RunSummary:
    """What came of one source.

    Attributes:
        source: what it is called.
        frames: frames processed.
        tracks: identities seen.
        interrupted: stopped by Ctrl-C, or in a window.
        outputs: what was written.
        error: why it ended early, where it did and others went on.
    """

    source: str = ""
    frames: int = 0
    tracks: int = 0
    interrupted: bool = False
    outputs: tuple[Path, ...] = ()
    error: IdolError | None = None


def for_each_source(pattern: RunOptions, sources: Sequence[str | int | Path]) -> list[RunOptions]:
    """Options for every source: in names of outputs `{source}` becomes its name, and `{number}` counts from 1.

    Args:
        pattern: all but the source. Video ids count on from its own.
        sources: of frames.

    Raises:
        ConfigError: an output would be that of two sources.
    """
    names = [source_name(source) for source in sources]
    for path in pattern.outputs if len(sources) > 1 else ():
        if not any(part in str(path) for part in _BY_SOURCE):
            raise ConfigError(
                f"{path} would be the output of {len(sources)} sources; write {{source}} or {{number}} in its name, as "
                "in tracked_{source}.mp4"
            )
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None and "{number}" not in str(path):
            raise ConfigError(
                f"two sources are called {twice}; write {{number}} instead of {{source}} in {path}"
            )

    def of_source(path: Path | None, number: int) -> Path | None:
        if path is None:
            return None
        return Path(str(path).replace("{source}", names[number]).replace("{number}", str(number + 1)))

    return [
        replace(
            pattern,
            source=source,
            save=of_source(pattern.save, i),
            jsonl=of_source(pattern.jsonl, i),
            results=of_source(pattern.results, i),
            masks=of_source(pattern.masks, i),
            video_id=pattern.video_id + i,
        )
        for i, source in enumerate(sources)
    ]


def source_name(source: str | int | Path) -> str:
    """What a source is called in names of files: a video's stem, a folder's name, `camera0`, a URL's host and path.

    Example:
        >>> [source_name(s) for s in ("a/street.mp4", "yard/*.png", 0, "rtsp://me:secret@10.0.0.5:554/live?key=1")]
        ['street', 'yard', 'camera0', '10.0.0.5_554_live']
    """
    text, path = str(source), local_path(source)
    if path is not None:
        text = _path_name(path)
    elif "://" in text:
        text = _url_name(text)
    else:
        text = f"camera{text}"
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "source"


def _url_name(url: str) -> str:
    """Neither user nor query: they may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no address
        return redact(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


def _path_name(path: Path) -> str:
    try:
        if not path.exists():
            while has_magic(str(path)):
                path = path.parent
        path = path.resolve()
        return path.name if path.is_dir() else path.stem
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        return path.stem


def check_outputs(options: Sequence[RunOptions]) -> None:
    """See that every output has a place of its own: that of no other, of no source and of no folder of images.

    Raises:
        ConfigError: one has not.
    """
    outputs = [path for entry in options for path in entry.outputs]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ConfigError("two outputs have the same name; give each its own")
    refuse_replacing(outputs, [place for entry in options for place in source_places(entry.source)])
