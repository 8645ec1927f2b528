"""Options and summaries of a run: one of each per source."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from idol_runtime.errors import ConfigError
from idol_runtime.files import refuse_replacing, writable_target
from idol_runtime.run.ages import FrameAges
from idol_runtime.sinks.opening import Output
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.sources.base import Source
from idol_runtime.sources.live import LiveOptions
from idol_runtime.sources.opening import source_label, source_paths

__all__ = [
    "QueuePolicy",
    "RunOptions",
    "RunSummary",
    "check_outputs",
    "for_each_source",
]

# "block": the source waits; "latest": only the newest frame waits; a number: frames older than so many milliseconds
# are dropped.
QueuePolicy: TypeAlias = Literal["block", "latest"] | float


@dataclass(frozen=True)
class RunOptions:
    """A source and what to do with its frames.

    Attributes:
        source: video file, image folder or glob pattern, camera index, or URL.
        outputs: outputs to write.
        boxes: draw boxes as well as masks.
        score: minimum score of the instances that are drawn or written, in 0..1. A results file contains all instances,
            as in the published procedure.
        queue: handling of frames that arrive while the network is busy: `block` processes all of them, `latest` the
            newest one, and a number drops frames older than so many milliseconds; None: `latest` for a camera or
            stream, else `block`.
        stride: process every stride-th frame; a higher value skips more frames.
        max_frames: maximum number of frames to process, not counting dropped ones; None for all.
        video_id: video id of the entries in a results file.
        files: limits of the output files.
        live: rules for a camera or stream that stops.
        name: name of the source in messages and for `Run.remove`; empty for its path or URL.
        state: file of the state, which a later run continues; None: no state is saved.
        after_gap_s: seconds without frames of a camera or stream after which its tracks are forgotten.
    """

    source: Source
    outputs: tuple[Output, ...] = ()
    boxes: bool = False
    score: float = 0.0
    queue: QueuePolicy | None = None
    stride: int = 1
    max_frames: int | None = None
    video_id: int = 1
    files: FilePolicy = field(default_factory=FilePolicy)
    live: LiveOptions = field(default_factory=LiveOptions)
    name: str = ""
    state: Path | None = None
    after_gap_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ConfigError(f"--score must lie between 0 and 1, got {self.score}")
        if not self.after_gap_s >= 0:
            raise ConfigError(f"--after-gap must not be negative, got {self.after_gap_s}")
        if isinstance(self.queue, str) and self.queue not in ("block", "latest"):
            raise ConfigError(
                f"unknown queue policy: {self.queue}; use block, latest or a number of milliseconds"
            )
        if isinstance(self.queue, int | float) and not 0 < self.queue < float("inf"):
            raise ConfigError(f"--queue must be more than 0 milliseconds, got {self.queue}; use latest for 0")
        if self.queue not in (None, "block") and source_paths(self.source):
            raise ConfigError(
                f"--queue {self.queue} applies to cameras and streams only, but {self.source} is a file; leave "
                "--queue or --latest out"
            )

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files and folders to write."""
        outputs = (output.path for output in self.outputs if output.path is not None)
        return (*outputs, *([self.state] if self.state else []))

    def for_source(self, source: Source, label: str, number: int) -> "RunOptions":
        """Return the options for a source, with `{source}` replaced by its label and `{number}` by its number."""
        state = self.state and Path(
            str(self.state).replace("{source}", label).replace("{number}", str(number))
        )
        outputs = tuple(output.for_source(label, number) for output in self.outputs)
        return replace(self, source=source, outputs=outputs, state=state)


@dataclass
class RunSummary:
    """The outcome of one source.

    Attributes:
        source: name of the source.
        frames: number of frames processed.
        tracks: number of identities that this run has started.
        dropped: number of frames dropped because the network or an output was slower than the source.
        ages: times from the arrival of a frame of a camera or stream to its result.
        interrupted: True if the run was stopped by a signal or in a window.
        paths: files and folders that were written completely.
        notes: facts about the outputs that the user must know.
        error: error that ended this source; None if it was read to its end.
    """

    source: str = ""
    frames: int = 0
    tracks: int = 0
    dropped: int = 0
    ages: FrameAges = field(default_factory=FrameAges)
    interrupted: bool = False
    paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    error: Exception | None = None


def for_each_source(template: RunOptions, sources: Sequence[Source]) -> list[RunOptions]:
    """Return options for every source, with `{source}` and `{number}` replaced in output names.

    `{source}` becomes the label of the source, `{number}` its number from 1.

    Args:
        template: options of all sources; video ids count up from its `video_id`.
        sources: sources of frames.

    Raises:
        ConfigError: two sources would write the same output.
    """
    labels = [source_label(source) for source in sources]
    for path in template.paths if len(sources) > 1 else ():
        if not any(placeholder in str(path) for placeholder in ("{source}", "{number}")):
            raise ConfigError(
                f"{path} would be the output of {len(sources)} sources; write {{source}} or {{number}} in its name, as "
                "in tracked_{source}.mp4"
            )
        duplicate = next((label for label in labels if labels.count(label) > 1), None)
        if duplicate is not None and "{number}" not in str(path):
            raise ConfigError(
                f"two sources are called {duplicate}; write {{number}} instead of {{source}} in {path}"
            )
    return [
        replace(template.for_source(source, label, i + 1), video_id=template.video_id + i)
        for i, (source, label) in enumerate(zip(sources, labels, strict=True))
    ]


def check_outputs(
    options: Sequence[RunOptions],
    *inputs: Path | None,
    events: Path | None = None,
    running: Sequence[RunOptions] = (),
) -> None:
    """Check that every output can be used and that its path is no other output, no source and no folder of images.

    Args:
        options: options of every source.
        inputs: further files that must not be replaced; None is ignored.
        events: file of the events; None for none.
        running: options of sources that run; only the paths of their outputs are compared, because an output that
            cannot be written at the moment must not hinder another source.

    Raises:
        ConfigError: a path is used twice.
        OutputError: an output cannot be written.
    """
    for output in (output for entry in options for output in entry.outputs):
        output.sink.check(output.target)
    for entry in options:
        if entry.state is not None:
            writable_target(entry.state)
            if any(output.kind.name == "results" for output in entry.outputs):
                raise ConfigError(
                    f"--results cannot be continued from a state: {entry.state}; leave out --state or --results"
                )
    everything = [*running, *options]
    paths = [*(path for entry in everything for path in entry.paths), *([events] if events else [])]
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise ConfigError(f"two outputs have the same name: {path}; give each its own")
    sources = [path for entry in everything for path in source_paths(entry.source)]
    refuse_replacing(paths, [*inputs, *sources])
