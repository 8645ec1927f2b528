"""Tests of the choice of a candidate, with engines that take a given time and may be missing, broken or wrong."""

import json
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from idol_plugins.errors import PluginError
from idol_plugins.libraries import user_cache
from idol_runtime.backends import OpenOptions, opening
from idol_runtime.backends.base import BatchLimit
from idol_runtime.bundle.bundle import CERTIFICATES, GRAPHS, OUTPUT_NAMES, Bundle, Certificates, GoldenFrame
from idol_runtime.bundle.certificates import GraphInfo, IdAgreement, PrecisionCertificate, StageError
from idol_runtime.errors import BackendError, IdolError, MissingDependencyError
from idol_runtime.pipeline import Pipeline, explain_choice
from idol_runtime.processor import decisive_features, processor_features
from idol_runtime.tracking.detection import NetworkOutput


class Engine:
    """A stand-in for the class of a backend.

    Attributes:
        ms: milliseconds of a frame by graph; several: those of the frames, repeated.
        missing: error of `available_devices`; None: the engine is installed.
        errors: errors of loading, by graph.
        wrong: graphs whose outputs differ from PyTorch's.
        loaded: graphs that were loaded, in order.
        open: number of graphs that are loaded at the moment.
    """

    devices, fp32_graphs = ("cpu",), ("plugin", "portable")

    def __init__(self, name: str, title: str, reduced: str, machine: "Machine") -> None:
        self.engine, self.title, self.machine = name, title, machine
        self.timed = {"cpu": (reduced,)}
        self.ms: dict[str, float | Sequence[float]] = {reduced: 10, "plugin": 20, "portable": 50}
        self.missing: IdolError | None = None
        self.errors: dict[str, IdolError] = {}
        self.wrong: set[str] = set()

    def available_devices(self) -> Sequence[str]:
        if self.missing is not None:
            raise self.missing
        return self.devices

    def from_bundle(self, bundle: Bundle, graph: str, options: OpenOptions) -> "Loaded":
        if graph in self.errors:
            raise self.errors[graph]
        self.machine.loaded.append(f"{self.title} {graph}")
        return Loaded(self, graph)


class Loaded:
    """A graph in a stand-in engine."""

    network_size, batch, reason = None, BatchLimit(), ""

    def __init__(self, kind: Engine, graph: str) -> None:
        self.kind, self.graph, self.engine = kind, graph, kind.engine
        self.name = f"{kind.engine} (cpu, {graph} graph)"
        ms = kind.ms[graph]
        self.ms = cycle(ms if isinstance(ms, Sequence) else [ms])
        kind.machine.open.add(self)
        assert len(kind.machine.open) <= 2, "memory of at most two networks"

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        assert self in self.kind.machine.open
        self.kind.machine.seconds += next(self.ms) / 1e3
        outputs = dict(self.kind.machine.golden.outputs)
        if self.graph in self.kind.wrong:
            outputs["boxes"] = outputs["boxes"] * 2
        return [NetworkOutput(**outputs)] * len(images)

    def close(self) -> None:
        self.kind.machine.open.discard(self)


class Machine:
    """A bundle with all graphs of two stand-in engines, and a clock that their frames advance."""

    def __init__(self, bundle: Path, golden: GoldenFrame) -> None:
        self.bundle, self.golden, self.seconds = bundle, golden, 0.0
        self.openvino = Engine("openvino", "OpenVINO", "int8-qdq", self)
        self.onnxruntime = Engine("onnxruntime", "ONNX Runtime", "int8-ort", self)
        self.loaded: list[str] = []
        self.open: set[Loaded] = set()

    def run(self, **options: Any) -> list[str]:
        """Open the bundle as `run` does, and return the lines of the reason."""
        self.loaded.clear()
        try:
            with Pipeline.open(self.bundle, **options) as pipeline:
                (backend,) = self.open
                assert backend is pipeline.backend
                return pipeline.backend.reason.split("\n")
        finally:
            assert not self.open, "all are closed"


def write_bundle(kit: Any, path: Path, features: Callable[[str], tuple[str, ...]]) -> Path:
    """Write a bundle whose int8 graphs are certified for the engines, on processors with these decisive features."""
    agreement = IdAgreement(1.0, 600, 60, 0.99, 500, "made up")
    infos, certificates = {}, {}
    for name, engine in (("int8-ort", "onnxruntime"), ("int8-qdq", "openvino")):
        infos[name] = GraphInfo("int8", (engine,), False)
        tolerances = dict.fromkeys(OUTPUT_NAMES, 0.5)
        certificates[name] = (
            PrecisionCertificate(
                (StageError("logits", 0.0, 1.0),), 2, engine, features("int8"), agreement, tolerances
            ),
        )
    members = kit.members(plugin=b"graph") | dict.fromkeys((GRAPHS[name] for name in infos), b"graph")
    parity = msgspec.json.decode(members[CERTIFICATES], type=Certificates)
    members[CERTIFICATES] = msgspec.json.encode(msgspec.structs.replace(parity, precisions=certificates))
    return kit.write(path, kit.manifest(precisions=infos), members)


def here(precision: str) -> tuple[str, ...]:
    return decisive_features(precision, processor_features())


@pytest.fixture
def machine(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(write_bundle(kit, tmp_path / "m.idol", here), kit.golden_frame())
    engines = {"onnxruntime": machine.onnxruntime, "openvino": machine.openvino}
    monkeypatch.setattr(opening, "BACKENDS", dict.fromkeys(engines, ""))
    monkeypatch.setattr(opening, "backend_class", engines.__getitem__)
    monkeypatch.setattr(time, "perf_counter", lambda: machine.seconds)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return machine


def test_the_fastest_right_candidate_of_all_engines_runs(machine: Machine) -> None:
    machine.onnxruntime.ms = {"int8-ort": 8.0, "plugin": 12.5, "portable": 1.0}
    assert machine.run() == [
        "running int8-ort on ONNX Runtime (cpu): 1.2 times as fast as int8-qdq on OpenVINO, the next best"
    ]
    assert machine.loaded == [
        "OpenVINO int8-qdq",
        "OpenVINO plugin",
        "ONNX Runtime int8-ort",
        "ONNX Runtime plugin",
    ]


def test_a_wrong_candidate_is_passed_over_and_named(machine: Machine) -> None:
    machine.openvino.wrong = {"int8-qdq", "plugin"}
    text, hint = machine.run()
    assert text.startswith(
        "running int8-ort on ONNX Runtime (cpu): 2.0 times as fast as plugin on ONNX Runtime"
    )
    assert "OpenVINO portable" in machine.loaded, "the fallback, because the plugin graph is wrong"
    assert hint.startswith(
        "not running int8-qdq on OpenVINO, which may be faster: openvino (cpu, int8-qdq graph)"
    )
    assert "fails the golden check: boxes differs from PyTorch by 1.0e+00" in hint
    with pytest.raises(BackendError, match="int8-qdq graph\\) fails the golden check"):
        machine.run(graph="int8-qdq")
    assert machine.run(golden_check=False, threads=1)[0].startswith("running int8-qdq on OpenVINO")
    machine.openvino.wrong = machine.onnxruntime.wrong = {"int8-ort", "int8-qdq", "plugin", "portable"}
    with pytest.raises(BackendError, match=r"onnxruntime \(cpu, portable graph\) fails the golden check"):
        machine.run()


@pytest.mark.parametrize(
    ("plugin", "int8", "graph"),
    [
        (20, 20, "plugin"),  # a tie
        (20, 19, "int8-qdq"),  # always faster
        ([20, 24, 17, 21, 22, 18, 19], 20, "plugin"),  # sometimes faster
        ([20, 21, 20, 29, 20, 22, 30], [21, 17, 17, 17, 17, 21, 17], "int8-qdq"),  # nearly always faster
    ],
)
def test_a_gain_within_the_noise_chooses_fp32(machine: Machine, plugin: Any, int8: Any, graph: str) -> None:
    machine.openvino.ms.update({"plugin": plugin, "int8-qdq": int8})
    (text,) = machine.run(backend="openvino")
    assert text.startswith(f"running {graph} on OpenVINO (cpu): ")
    assert ("as fast as" in text) == (graph == "plugin") or "times as fast as" in text


def test_a_clear_loser_is_timed_for_three_frames(machine: Machine) -> None:
    machine.openvino.ms.update({"plugin": 21})
    machine.run(backend="openvino")
    check, plugin, int8 = 1, 3 * 21, 4 * 10  # one frame of each is the golden check
    assert machine.seconds == pytest.approx((check * 21 + plugin + int8) / 1e3)
    before = machine.seconds
    machine.openvino.ms.update({"plugin": 19})
    machine.run(backend="openvino", threads=1)
    assert machine.seconds - before > 10 * 29 / 1e3


def test_a_choice_is_remembered_until_something_changes(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed_anew() -> bool:
        reason = machine.run()[0]
        assert reason.startswith(
            "running int8-qdq on OpenVINO (cpu): 1.0 times as fast as" if False else "running"
        )
        assert ("; remembered from 20" in reason) == (machine.loaded == ["OpenVINO int8-qdq"])
        return len(machine.loaded) > 1

    assert [timed_anew(), timed_anew()] == [True, False]
    (file,) = (user_cache() / "choices").iterdir()
    for content in (b"", b"{}", b"\xff", file.read_bytes().replace(b'"int8-qdq"', b'"int8-qdx"')):
        file.write_bytes(content)
        assert [timed_anew(), timed_anew()] == [True, False], content
    stored = json.loads(file.read_text())
    assert set(stored["depends"]) == {
        *(
            "bundle",
            "cores",
            "engines",
            "environment",
            "gpus",
            "libraries",
            "options",
            "packages",
            "processor",
        )
    }
    for name in stored["depends"]:
        file.write_text(json.dumps(stored | {"depends": stored["depends"] | {name: "another"}}))
        assert [timed_anew(), timed_anew()] == [True, False], name
    library = user_cache() / "plugins" / "libidol_deform_attn_ort.so"
    library.parent.mkdir()
    library.write_bytes(b"a library")
    assert [timed_anew(), timed_anew()] == [True, False], "a new library"
    library.write_bytes(b"another library")
    assert [timed_anew(), timed_anew()] == [True, False], "another library"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert [timed_anew(), timed_anew()] == [True, False], "another number of threads"
    machine.openvino.errors["int8-qdq"] = BackendError("no memory")
    assert machine.run()[0].startswith("running int8-ort on ONNX Runtime")
    assert machine.run()[0].startswith("running int8-ort on ONNX Runtime")
    assert machine.loaded == ["ONNX Runtime int8-ort"]


def test_a_remembered_candidate_is_checked_again(machine: Machine) -> None:
    machine.run()
    machine.openvino.wrong = {"int8-qdq"}
    assert machine.run()[0].startswith("running int8-ort on ONNX Runtime")


def test_a_cache_that_cannot_be_written_is_no_error(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert [machine.run(), machine.run()] == 2 * [
        [
            "running int8-qdq on OpenVINO (cpu): within the noise as fast as int8-ort on ONNX Runtime, the next best"
        ]
    ]


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_nothing_is_remembered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert "remembered" not in machine.run()[0] + machine.run()[0]


OTHER_RELEASE = PluginError(
    "made for OpenVINO 2026.3, 2026.4 is installed; build it: idol-deploy plugins build"
)
NOT_BUILT = PluginError("the library is not built; build it with: idol-deploy plugins build")
BROKEN = PluginError("openvino cannot be imported; pip install --force-reinstall openvino")
NOT_INSTALLED = MissingDependencyError("openvino", "openvino", "the OpenVINO backend")


def test_a_command_is_named_before_a_wrong_candidate(machine: Machine) -> None:
    machine.openvino.wrong = {"int8-qdq", "portable"}
    machine.openvino.errors = {"plugin": NOT_BUILT}
    assert machine.run()[1] == f"not running plugin on OpenVINO, which may be faster: {NOT_BUILT}"


@pytest.mark.parametrize(
    ("missing", "errors", "machines", "hint"),
    [
        (
            None,
            {"plugin": OTHER_RELEASE},
            "x86_64",
            f"plugin on OpenVINO, which may be faster: {OTHER_RELEASE}",
        ),
        (None, {"plugin": NOT_BUILT}, "x86_64", f"plugin on OpenVINO, which may be faster: {NOT_BUILT}"),
        (BROKEN, {}, "aarch64", f"OpenVINO, which may be faster: {BROKEN}"),
        (NOT_INSTALLED, {}, "x86_64", f"OpenVINO, which may be faster: {NOT_INSTALLED}"),
        (NOT_INSTALLED, {}, "aarch64", None),
        (None, {"int8-qdq": BackendError("no kernel for it")}, "x86_64", None),
    ],
)
def test_what_does_not_run_is_named_with_its_command(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    missing: IdolError | None,
    errors: dict[str, IdolError],
    machines: str,
    hint: str | None,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machines)
    machine.openvino.missing, machine.openvino.errors = missing, errors
    text, *hints = machine.run()
    assert text.startswith("running ")
    assert hints == ([] if hint is None else [f"not running {hint}"])


def test_a_graph_certified_on_another_processor_is_not_taken(
    machine: Machine, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(kit, machine.bundle, lambda _: ("amx_of_2040",))
    text, hint = machine.run()
    assert (
        text
        == "running plugin on OpenVINO (cpu): within the noise as fast as plugin on ONNX Runtime, the next best"
    )
    assert hint.startswith(
        "not running int8-qdq on OpenVINO, which may be faster: the int8-qdq graph is not verified"
    )
    assert hint.endswith(f"verify it here: idol-deploy certify {machine.bundle}")
    with pytest.raises(BackendError, match=f"idol-deploy certify {machine.bundle}"):
        machine.run(graph="int8-qdq")


def test_one_engine_is_enough_and_none_names_the_extras(machine: Machine) -> None:
    machine.onnxruntime.missing = MissingDependencyError("onnxruntime", "cpu", "running the network")
    assert machine.run() == [
        "running int8-qdq on OpenVINO (cpu): 2.0 times as fast as plugin on OpenVINO, the next best"
    ]
    machine.openvino.missing = NOT_INSTALLED
    with pytest.raises(MissingDependencyError, match=r"needs onnxruntime or openvino.*'idol-deploy\[cpu\]'"):
        machine.run()
    with pytest.raises(MissingDependencyError, match=r"'idol-deploy\[openvino\]'"):
        machine.run(backend="openvino")


def test_explain_times_every_candidate_and_remembers_the_fastest(machine: Machine) -> None:
    machine.run()
    machine.onnxruntime.ms["int8-ort"] = 5
    machine.openvino.wrong = {"plugin"}
    machine.openvino.errors = {"portable": BackendError("no memory")}
    candidates, found = explain_choice(machine.bundle, OpenOptions())
    assert not machine.open
    assert found is not None
    assert (found.backend, found.graph) == ("onnxruntime", "int8-ort")
    results = {f"{c}": (c.ms and round(c.ms, 6), c.speed, c.why_not) for c in candidates}
    golden = results.pop("plugin on OpenVINO")
    assert golden[:2] == (None, 0)
    assert "fails the golden check" in golden[2]
    assert results == {
        "int8-qdq on OpenVINO": (10, 0.5, ""),
        "portable on OpenVINO": (None, 0, "no memory"),
        "int8-ort on ONNX Runtime": (5, 1, ""),
        "plugin on ONNX Runtime": (20, 0.25, ""),
        "portable on ONNX Runtime": (None, 0, "slower than the plugin graph, which runs here"),
    }
    assert machine.run()[0].startswith(
        "running int8-ort on ONNX Runtime (cpu): 2.0 times as fast as int8-qdq"
    )
    assert machine.loaded == ["ONNX Runtime int8-ort"]
    candidates, _ = explain_choice(machine.bundle, OpenOptions("openvino", graph="int8-qdq"))
    assert [candidate.ms for candidate in candidates] == [pytest.approx(10)], "timed although it has no rival"
    candidates, found = explain_choice(machine.bundle, OpenOptions("openvino", graph="plugin"))
    assert found is None
    assert "fails the golden check" in candidates[0].why_not


def test_options_limit_the_candidates(machine: Machine) -> None:
    assert machine.run(graph="fp32")[0].startswith(
        "running plugin on OpenVINO (cpu): within the noise as fast as plugin on ONNX"
    )
    machine.run(backend="onnxruntime", graph="portable")
    assert machine.loaded == ["ONNX Runtime portable"]
    machine.onnxruntime.errors["plugin"] = NOT_BUILT
    with pytest.raises(PluginError, match="idol-deploy plugins build"):
        machine.run(backend="onnxruntime", graph="plugin")
    with pytest.raises(BackendError, match="ONNX Runtime does not run the int8-qdq graph"):
        machine.run(backend="onnxruntime", graph="int8-qdq")


def test_an_interrupt_closes_both(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        assert len(machine.open) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(Loaded, "infer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.run(golden_check=False)
