"""The fp32 graph as judge of those of fewer bits: its tracks and its scores, found once for all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from idol_deploy.model.idol import Idol
from idol_export.verify.annotation_scores import Scores, score_graph
from idol_export.verify.clips import Clip, clips_of_dataset, drawn_clips, video_clip
from idol_export.verify.id_agreement import IdJudge, SeenFrame
from idol_export.verify.parity import Candidate
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, open_session
from idol_runtime.bundle.bundle import GoldenFrame
from idol_runtime.bundle.certificates import AnnotationScores, IdAgreement
from idol_runtime.config import StreamConfig
from idol_runtime.pipeline import Pipeline

__all__ = ["Exact", "Judge"]


@dataclass(frozen=True)
class Exact:
    """What a graph of fewer bits is made of, and judged by.

    Attributes:
        model: in PyTorch.
        stream: thresholds and association.
        candidate: the fp32 graph.
        frame_size: (H, W) of the source.
        network_size: (h, w) of the network's input.
        canary: golden frame and PyTorch's answer.
    """

    model: Idol
    stream: StreamConfig
    candidate: Candidate
    frame_size: tuple[int, int]
    network_size: tuple[int, int]
    golden_frame: GoldenFrame

    def session(self, graph: bytes, name: str) -> Any:
        """Computes as the graph's own runtime does: TensorRT's integers never overflow, which here some would."""
        return open_session(graph, libraries=self.candidate.libraries, integers=name != "int8-trt")

    def backend(self, graph: bytes, name: str) -> OnnxRuntimeBackend:
        """Runs a graph."""
        return OnnxRuntimeBackend(self.session(graph, name), name, self.network_size)

    def pipeline(self, graph: bytes, name: str) -> Pipeline:
        """A graph, tracking."""
        return Pipeline(self.backend(graph, name), self.stream)


class Judge:
    """Compares tracks with those of fp32, and scores with its scores."""

    def __init__(
        self,
        exact: Exact,
        verify_source: str | None = None,
        annotations: Path | None = None,
        frames: Path | None = None,
    ) -> None:
        """On the videos of a data set, which are many, else on one video, else on drawn ones.

        Args:
            exact: has the fp32 graph.
            verify_source: the video.
            annotations: of the data set, to score against as well.
            frames: the folder of its frames.
        """
        self._exact, self._video = exact, verify_source
        self._annotations, self._frames = annotations, frames

    def agreement(self, graph: bytes, name: str, limit: float, least: int) -> IdAgreement:
        """Of a graph's tracks with those of fp32.

        Args:
            graph: as shipped.
            name: of the graph.
            limit: the least IDF1.
            least: instance-frames; fewer prove too little.
        """
        ids = IdJudge()
        with self._exact.pipeline(graph, name) as pipeline:
            for clip, seen in zip(self._clips(), self._seen, strict=True):
                pipeline.reset()
                for frame, expected in zip(clip, seen, strict=True):
                    ids.frame(expected, pipeline.step(frame))
                ids.next_clip()
        return ids.agreement(limit, least, self._source)

    def annotation_scores(self, graph: bytes, name: str, limit: float) -> AnnotationScores | None:
        """Of a graph's scores, which may be less than fp32's by `limit`; None without annotations."""
        if self._annotations is None:
            return None
        ours, fp32 = self._scores(graph, name), self._fp32_scores
        return AnnotationScores(ours.ap, fp32.ap, ours.idf1, fp32.idf1, limit, self._annotations.name)

    @cached_property
    def _seen(self) -> list[list[SeenFrame]]:
        with self._exact.pipeline(self._exact.candidate.graph, "fp32") as pipeline:
            found = []
            for clip in self._clips():
                pipeline.reset()
                found.append([SeenFrame.of(pipeline.step(frame)) for frame in clip])
        return found

    @cached_property
    def _fp32_scores(self) -> Scores:
        return self._scores(self._exact.candidate.graph, "fp32")

    def _scores(self, graph: bytes, name: str) -> Scores:
        assert self._annotations is not None
        assert self._frames is not None
        backend = self._exact.backend(graph, name)
        return score_graph(self._annotations, self._frames, backend, self._exact.stream)

    @property
    def _source(self) -> str:
        if self._annotations is not None:
            return self._annotations.name
        return "drawn videos" if self._video is None else Path(self._video).name

    def _clips(self) -> Iterator[Clip]:
        if self._annotations is not None and self._frames is not None:
            return clips_of_dataset(self._annotations, self._frames)
        if self._video is not None:
            return iter([video_clip(self._video)])
        return drawn_clips(self._exact.frame_size)
