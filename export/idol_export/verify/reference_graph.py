"""The fp32 graph as the reference of reduced-precision graphs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from idol_deploy.model.idol import Idol
from idol_export.verify.annotation_scores import score_graph
from idol_export.verify.clips import Clip, clips_of_dataset, synthetic_clips, video_clip
from idol_export.verify.id_agreement import PackedFrame, TrackComparison
from idol_export.verify.parity import Candidate
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend
from idol_runtime.bundle.bundle import GoldenFrame
from idol_runtime.bundle.certificates import AnnotationScores, IdAgreement
from idol_runtime.config import StreamConfig
from idol_runtime.pipeline import Pipeline

__all__ = ["ReferenceGraph"]

_INSTANCE_FRAMES = 500  # least number of masks to compare
_SCORE_LOSS = 0.01  # largest loss of AP and of IDF1, both 0 to 1


@dataclass(frozen=True)
class ReferenceGraph:
    """The fp32 graph with its tracks and annotation scores, which are computed once for all reduced-precision graphs.

    Tracks are compared on the annotated videos if there are annotations, else on the video, else on synthetic videos.

    Attributes:
        model: PyTorch network.
        stream: thresholds and association.
        candidate: fp32 graph.
        frame_size: (H, W) of the source.
        network_size: (h, w) of the network input before padding.
        golden_frame: golden frame with PyTorch's outputs.
        video: video or folder of images to compare tracks on; None for no video.
        annotations: annotation file of a data set to score on; None for no annotations.
        annotation_frames: folder of the data set's frames, given with `annotations`.
    """

    model: Idol
    stream: StreamConfig
    candidate: Candidate
    frame_size: tuple[int, int]
    network_size: tuple[int, int]
    golden_frame: GoldenFrame
    video: str | None = None
    annotations: Path | None = None
    annotation_frames: Path | None = None

    def pipeline(self, candidate: Candidate) -> Pipeline:
        """Open a tracking pipeline of a graph."""
        return Pipeline(self._backend(candidate), self.stream)

    def agreement(self, candidate: Candidate, limit: float) -> IdAgreement:
        """Compare a graph's tracks with those of the fp32 graph (IDF1).

        Args:
            candidate: graph to compare.
            limit: lowest IDF1 that passes.
        """
        comparison = TrackComparison()
        with self.pipeline(candidate) as pipeline:
            for clip, packed_frames in zip(self._clips(), self._tracks, strict=True):
                pipeline.reset()
                for frame, packed in zip(clip, packed_frames, strict=True):
                    comparison.add_frame(packed, pipeline.step(frame))
                comparison.next_clip()
        return comparison.agreement(limit, _INSTANCE_FRAMES, self._source)

    def annotation_scores(self, candidate: Candidate) -> AnnotationScores | None:
        """Score a graph on the annotations; return None without annotations."""
        if self.annotations is None:
            return None
        (ap, idf1), (fp32_ap, fp32_idf1) = self._scores(candidate), self._fp32_scores
        return AnnotationScores(ap, fp32_ap, idf1, fp32_idf1, _SCORE_LOSS, self.annotations.name)

    @cached_property
    def _tracks(self) -> list[list[PackedFrame]]:
        clips = []
        with self.pipeline(self.candidate) as pipeline:
            for clip in self._clips():
                pipeline.reset()
                clips.append([PackedFrame.of(pipeline.step(frame)) for frame in clip])
        return clips

    @cached_property
    def _fp32_scores(self) -> tuple[float, float]:
        return self._scores(self.candidate)

    def _scores(self, candidate: Candidate) -> tuple[float, float]:
        assert self.annotations is not None
        assert self.annotation_frames is not None
        return score_graph(self.annotations, self.annotation_frames, self._backend(candidate), self.stream)

    def _backend(self, candidate: Candidate) -> OnnxRuntimeBackend:
        return OnnxRuntimeBackend(candidate.open_graph(), candidate.name, self.network_size)

    @property
    def _source(self) -> str:
        if self.annotations is not None:
            return self.annotations.name
        return "synthetic videos" if self.video is None else Path(self.video).name

    def _clips(self) -> Iterator[Clip]:
        if self.annotations is not None and self.annotation_frames is not None:
            return clips_of_dataset(self.annotations, self.annotation_frames)
        if self.video is not None:
            return iter([video_clip(self.video)])
        return synthetic_clips(self.frame_size)
