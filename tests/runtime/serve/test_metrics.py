"""Metrics, read by Prometheus' own parser and checked by promtool."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import parser

from idol_runtime.serve.hub import Hub
from idol_runtime.serve.messages import StreamsMessage


@pytest.fixture
def hub(kit) -> Hub:
    hub = Hub(kit.hello(pid=os.getpid()), lambda message: None)
    for index in range(3):
        hub.receive(kit.frame(index=index))
    hub.receive(kit.frame("a/b ü", 4, age_s=None, stages={"network": 20.0}))
    return hub


def _samples(hub: Hub) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = parser.text_string_to_metric_families(hub.metrics.text().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_figures_of_streams(hub: Hub) -> None:
    samples = _samples(hub)

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    assert value("idol_frames_total", stream="door") == 3
    assert value("idol_frames_dropped_total", stream="door") == 2
    assert value("idol_tracks", stream="door") == 2
    assert value("idol_tracks_started_total", stream="door") == 13
    assert value("idol_stream_up", stream="door") == 1
    assert value("idol_stage_seconds_bucket", stream="door", stage="network", le="0.01") == 0
    assert value("idol_stage_seconds_bucket", stream="door", stage="network", le="0.02") == 3
    assert value("idol_stage_seconds_bucket", stream="a/b ü", stage="network", le="10.0") == 0
    assert value("idol_stage_seconds_sum", stream="a/b ü", stage="network") == 20
    assert value("idol_frame_age_seconds_count", stream="door") == 3
    assert value("idol_process_resident_memory_bytes") > 1e6
    assert value("idol_process_cpu_seconds_total") > 0
    assert value("idol_start_time_seconds") == 1e9
    build = next(dict(labels) for name, labels in samples if name == "idol_build_info")
    assert build["backend"] == "openvino (cpu)"
    # A file has no age; removed streams have no series.
    assert ("idol_frame_age_seconds_count", frozenset({("stream", "a/b ü")})) not in samples
    hub.receive(StreamsMessage(hub.hello.streams[1:]))
    assert not [labels for _, labels in _samples(hub) if ("stream", "door") in labels]


def test_promtool_finds_no_fault(hub: Hub) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed; run scripts/install-test-packages")
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=hub.metrics.text(), capture_output=True, check=False
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


def test_every_metric_of_the_alerts_is_exposed(hub: Hub) -> None:
    alerts = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yml"
    used = set(re.findall(r"idol_\w+", alerts.read_text()))
    assert len(used) >= 9
    assert used - {name for name, _ in _samples(hub)} == set()
