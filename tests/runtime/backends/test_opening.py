"""Tests of the registry of backends."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from idol_runtime.backends import OpenOptions
from idol_runtime.backends.opening import BACKENDS, backend_class, require_graph
from idol_runtime.bundle.bundle import GRAPHS, Bundle
from idol_runtime.errors import BackendError, ConfigError


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_described_without_its_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in BACKENDS:
        monkeypatch.setitem(sys.modules, engine, None)
    kind = backend_class(name)
    assert kind.title
    assert set(kind.devices) <= {"cpu", "cuda", "gpu", "npu"}
    assert set(kind.fp32_graphs) <= {"plugin", "tensorrt", "portable"}
    assert kind.engine == name
    assert kind.timed is None or set(kind.timed) == set(kind.devices)
    assert callable(kind.from_bundle)


@pytest.fixture
def bundle(kit: Any, tmp_path: Path) -> Iterator[Bundle]:
    with Bundle.open(kit.write(tmp_path / "b.idol")) as opened:
        yield opened


def test_a_graph_that_the_bundle_lacks_is_refused(bundle: Bundle) -> None:
    kind = backend_class("onnxruntime")
    for graph in GRAPHS:
        if graph == "portable":
            require_graph(bundle, graph, kind)
        else:
            with pytest.raises(
                BackendError,
                match=f"has no {graph} graph; (add it with: idol-deploy export --into .* --precision|export it again)",
            ):
                require_graph(bundle, graph, kind)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"threads": 0}, "threads must lie between 1 and 1024, got 0"),
        ({"device": "tpu"}, "unknown device 'tpu'; use cpu, cuda, cuda:N, gpu, gpu:N or npu"),
        ({"graph": "fast"}, "unknown graph 'fast'; choose one of: auto, fp32, portable"),
    ],
)
def test_invalid_options_are_refused_before_a_bundle_is_opened(
    options: dict[str, object], fault: str
) -> None:
    with pytest.raises((BackendError, ConfigError), match=fault):
        OpenOptions(**options)
