"""Metrics of a run for Prometheus. Importing this module imports prometheus_client."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from idol_runtime.run.observer import STAGES
from idol_runtime.serve.messages import FrameMessage

if TYPE_CHECKING:
    from idol_runtime.serve.hub import Hub
    from idol_runtime.serve.stream_view import StreamView

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds in seconds, from a frame on a GPU to a camera that hangs.
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics(Collector):
    """The metrics of a run: histograms, which grow with each frame, and the present figures of the hub.

    Args:
        hub: state of the streams.
    """

    def __init__(self, hub: "Hub") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series per histogram, for OpenMetrics alone
        self._hub = hub
        self._registry = registry = CollectorRegistry()
        self._stages = Histogram(
            "idol_stage_seconds",
            "Time of a frame in a stage.",
            ["stream", "stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._ages = Histogram(
            "idol_frame_age_seconds",
            "Time from the arrival of a frame to its result.",
            ["stream"],
            buckets=_BUCKETS,
            registry=registry,
        )
        registry.register(self)
        ProcessCollector(namespace="idol", pid=lambda: hub.hello.pid, registry=registry)

    def observe(self, message: FrameMessage) -> None:
        """Add a frame."""
        for stage in STAGES:
            if (seconds := message.stages.get(stage)) is not None:
                self._stages.labels(message.stream, stage).observe(seconds)
        if message.age_s is not None:
            self._ages.labels(message.stream).observe(message.age_s)

    def remove(self, stream: str) -> None:
        """Delete the series of a stream."""
        for family, rest in [(self._ages, ()), *((self._stages, (stage,)) for stage in STAGES)]:
            family.labels(stream, *rest)  # releases before 0.22 remove only what exists
            family.remove(stream, *rest)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of the hub."""
        hub = self._hub
        hello = hub.hello
        build = GaugeMetricFamily(
            "idol_build_info",
            "Version, network and machine of the run.",
            labels=["version", "backend", "graph", "device", "bundle"],
        )
        build.add_metric([hello.version, hello.backend, hello.graph, hello.device, hello.bundle], 1)
        yield build
        yield GaugeMetricFamily(
            "idol_start_time_seconds", "Start of the run, in seconds since 1970.", value=hello.started
        )
        yield GaugeMetricFamily("idol_clients", "Clients that watch or listen.", value=len(hub.clients))
        yield CounterMetricFamily(
            "idol_messages_unsent", "Messages dropped between the run and its server.", value=hub.unsent
        )
        rows = [([name], _figures(view)) for name, view in hub.streams.items()]
        for name, help_text in _FIGURES.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, help_text, labels=["stream"])
            for labels, figures in rows:
                if (value := figures[name]) is not None:
                    family.add_metric(labels, value)
            yield family


_FIGURES = {
    "idol_frames_total": "Processed frames.",
    "idol_frames_dropped_total": "Frames dropped, because the network or an output is slower than the source.",
    "idol_reconnects_total": "Times that a lost source came back.",
    "idol_tracks_started_total": "Identities started.",
    "idol_tracks": "Instances in the latest frame.",
    "idol_frames_per_second": "Frames per second over the last three seconds.",
    "idol_stream_up": "1 if the source sends frames, 0 if a camera does not; none for a file at its end.",
    "idol_last_frame_timestamp_seconds": "Time of the latest result, in seconds since 1970.",
    "idol_output_stopped": "1 while an output of the stream cannot be written.",
}


def _figures(view: "StreamView") -> dict[str, float | None]:
    """Return the figures of a stream; None for one that it does not have yet."""
    frame = view.frame
    return {
        "idol_frames_total": frame.frames if frame else 0,
        "idol_frames_dropped_total": frame.dropped if frame else 0,
        "idol_reconnects_total": view.info.reconnects,
        "idol_tracks_started_total": frame.tracks if frame else 0,
        "idol_tracks": len(frame.ids) if frame else 0,
        "idol_frames_per_second": view.fps,
        "idol_stream_up": 1 if view.up else 0 if view.info.live else None,
        "idol_last_frame_timestamp_seconds": frame.wall if frame else None,
        "idol_output_stopped": float(bool(view.info.stopped_outputs)),
    }
