"""The fp32 graph as the reference of reduced-precision graphs."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.data.ytvis import read_dataset
from idol_deploy.progress import Announce, silent
from idol_export.verify.annotation_scores import score_graph
from idol_export.verify.candidate import Candidate, Runnable
from idol_export.verify.clips import SYNTHETIC_FRAMES, Clip, clips_of_dataset, synthetic_clips, video_clip
from idol_export.verify.id_agreement import PackedFrame, TrackComparison
from idol_runtime.bundle.bundle import GoldenFrame
from idol_runtime.bundle.certificates import AnnotationScores, IdAgreement
from idol_runtime.config import StreamConfig
from idol_runtime.errors import SourceError
from idol_runtime.pipeline import Pipeline
from idol_runtime.sources.opening import open_source

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol

__all__ = ["ReferenceGraph", "ReferenceTracks"]

_INSTANCE_FRAMES = 500  # least number of masks to compare
_CHECK_FRAMES = 8  # frames between two checks whether the limit can still be met
_SCORE_LOSS = 0.01  # largest loss of AP and of IDF1, both 0 to 1


@dataclass(frozen=True)
class ReferenceTracks:
    """An fp32 graph with its tracks and annotation scores, which are computed once for all reduced-precision graphs.

    Tracks are compared on the annotated videos if there are annotations, else on the video, else on synthetic videos.

    Attributes:
        stream: thresholds and association.
        candidate: fp32 graph.
        frame_size: (H, W) of the source.
        network_size: (h, w) of the network input before padding.
        golden_frame: golden frame with PyTorch's outputs.
        video: video or folder of images to compare tracks on; None for no video.
        annotations: annotation file of a data set to score on; None for no annotations.
        annotation_frames: folder of the data set's frames, given with `annotations`.
        announce: called with each step and its finished frames.
    """

    stream: StreamConfig
    candidate: Runnable
    frame_size: tuple[int, int]
    network_size: tuple[int, int]
    golden_frame: GoldenFrame
    video: str | None = None
    annotations: Path | None = None
    annotation_frames: Path | None = None
    announce: Announce = silent

    def pipeline(self, candidate: Runnable) -> Pipeline:
        """Open a tracking pipeline of a graph."""
        return Pipeline(candidate.open_backend(self.network_size), self.stream)

    def agreement(self, candidate: Runnable, limit: float, *, to_end: bool = False) -> IdAgreement:
        """Compare a graph's tracks with those of the fp32 graph (IDF1).

        The comparison stops where the limit can no longer be met, even if the tracks agreed in all remaining frames.

        Args:
            candidate: graph to compare.
            limit: lowest IDF1 that passes.
            to_end: compare all frames nevertheless.
        """
        frames = [frame for clip in self._tracks for frame in clip]
        masks, count, comparison = sum(map(len, frames)), len(frames), TrackComparison()

        def result(*, stopped: bool = False) -> IdAgreement:
            idf1 = comparison.highest_idf1(masks)
            return IdAgreement(
                idf1, masks, comparison.frames, limit, _INSTANCE_FRAMES, self._source, stopped=stopped
            )

        if masks < _INSTANCE_FRAMES and not to_end:
            return result(stopped=True)
        step = f"comparing the {candidate.name} graph's tracks with those of fp32"
        with self.pipeline(candidate) as pipeline:
            for clip, packed_frames in zip(self._clips(), self._tracks, strict=True):
                pipeline.reset()
                self.announce(step, comparison.frames, count)
                for frame, packed in zip(clip, packed_frames, strict=True):
                    comparison.add_frame(packed, pipeline.step(frame))
                    self.announce(step, comparison.frames, count)
                    check = not to_end and comparison.frames % _CHECK_FRAMES == 0
                    if check and comparison.highest_idf1(masks) < limit:
                        return result(stopped=comparison.frames < count)
                comparison.next_clip()
        return result()

    def annotation_scores(self, candidate: Runnable) -> AnnotationScores | None:
        """Score a graph on the annotations; return None without annotations."""
        if self.annotations is None:
            return None
        (ap, idf1), (fp32_ap, fp32_idf1) = self._scores(candidate), self._fp32_scores
        return AnnotationScores(ap, fp32_ap, idf1, fp32_idf1, _SCORE_LOSS, self.annotations.name)

    def require_enough(self) -> None:
        """Check that the frames have enough instances to compare tracks on.

        Raises:
            SourceError: there are fewer.
        """
        masks = sum(len(frame) for clip in self._tracks for frame in clip)
        if masks < _INSTANCE_FRAMES:
            raise SourceError(
                f"{self._source} has {masks} instance-frames, at least {_INSTANCE_FRAMES} are needed; pass a longer "
                "video with --verify, or a data set with --annotations and --frames"
            )

    @cached_property
    def _tracks(self) -> list[list[PackedFrame]]:
        step, clips, done = "tracking with the fp32 graph", list[list[PackedFrame]](), 0
        with self.pipeline(self.candidate) as pipeline:
            for clip in self._clips():
                pipeline.reset()
                self.announce(step, done, self._frame_count)
                clips.append([])
                for frame in clip:
                    clips[-1].append(PackedFrame.of(pipeline.step(frame)))
                    done += 1
                    self.announce(step, done, self._frame_count)
        return clips

    @cached_property
    def _fp32_scores(self) -> tuple[float, float]:
        return self._scores(self.candidate)

    def _scores(self, candidate: Runnable) -> tuple[float, float]:
        assert self.annotations is not None
        assert self.annotation_frames is not None
        with closing(candidate.open_backend(self.network_size)) as backend:
            return score_graph(self.annotations, self.annotation_frames, backend, self.stream, self.announce)

    @property
    def _source(self) -> str:
        if self.annotations is not None:
            return self.annotations.name
        return "synthetic videos" if self.video is None else Path(self.video).name

    @cached_property
    def _frame_count(self) -> int:
        """Number of frames to compare; 0 for a video of unknown length."""
        if self.annotations is not None:
            return sum(map(len, read_dataset(self.annotations).videos))
        if self.video is None:
            return SYNTHETIC_FRAMES
        with open_source(self.video) as source:
            return source.frame_count or 0

    def _clips(self) -> Iterator[Clip]:
        if self.annotations is not None and self.annotation_frames is not None:
            return clips_of_dataset(self.annotations, self.annotation_frames)
        if self.video is not None:
            return iter([video_clip(self.video)])
        return synthetic_clips(self.frame_size, self.announce)


@dataclass(frozen=True)
class ReferenceGraph(ReferenceTracks):
    """The fp32 graph that is rewritten, in ONNX Runtime, with its PyTorch network; see `ReferenceTracks`."""

    candidate: Candidate
    model: "Idol" = field(kw_only=True)
