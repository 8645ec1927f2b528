"""A bundle that is written graph by graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_export import export as module
from idol_export.contents import BundleContents
from idol_export.export import Exported, ExportOptions, export
from idol_export.precision.base import ReduceOptions
from idol_export.precision.registry import PRECISIONS
from idol_export.verify import reference_graph
from idol_runtime.bundle.bundle import GRAPHS, SCHEMA_VERSION, Bundle
from idol_runtime.errors import BackendError, BundleError

if TYPE_CHECKING:
    from tests.conftest import Toy

DEMO = Path(__file__).parents[2] / "models" / "edge_synth" / "edge_synth.idol"


@pytest.mark.parametrize("graph", ["plugin", "int8-ort"])
def test_a_bundle_is_rewritten_with_the_same_content(tmp_path: Path, graph: str) -> None:
    out = tmp_path / "a.idol"
    BundleContents.read(DEMO).write(out, ())
    with Bundle.open(DEMO) as before, Bundle.open(out) as after:
        assert after.manifest.schema_version == SCHEMA_VERSION
        assert after.certificates == before.certificates
        assert after.manifest.precisions == before.manifest.precisions
        assert after.graph(graph) == before.graph(graph)


def test_a_graph_that_the_golden_frame_refuses_leaves_the_file(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "a.idol"
    out.write_bytes(toy.path.read_bytes())
    contents = BundleContents.read(out)
    wrong = contents.members[GRAPHS["portable"]][:-100]
    with pytest.raises(BackendError):
        replace(contents, members={**contents.members, GRAPHS["portable"]: wrong}).write(out, ["portable"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.idol"]
    assert out.read_bytes() == toy.path.read_bytes()


@pytest.mark.parametrize("other", ["graph", "bundle"])
def test_what_another_process_writes_meanwhile(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """A graph that another process has added stays; another bundle is not overwritten."""
    monkeypatch.setattr(module, "probe_to_onnx", lambda *_, **__: toy.probe)
    monkeypatch.setattr(reference_graph, "_INSTANCE_FRAMES", 0)
    monkeypatch.setattr(reference_graph, "synthetic_clips", lambda *_: iter([iter(toy.video(2))]))
    out = tmp_path / "a.idol"

    def options(name: str) -> ExportOptions:
        reduce = ReduceOptions((PRECISIONS[name],), unverified=True)  # type: ignore[index]
        return ExportOptions(toy.size, portable=True, verify_frames=1, reduce=reduce)

    def written(exported: Exported) -> None:
        if exported.certificates.precisions:
            return
        if other == "graph":
            module.add_graphs(toy.model, toy.config, out, options("bf16"))
        else:
            out.write_bytes(DEMO.read_bytes())

    if other == "graph":
        exported = export(toy.model, toy.config, out, options("fp16"), written=written)
        assert list(exported.certificates.precisions) == ["bf16", "fp16"]
        with Bundle.open(out) as bundle:
            assert bundle.certificates == exported.certificates
    else:
        with pytest.raises(BundleError, match=r"a\.idol was replaced during the export; export the fp16"):
            export(toy.model, toy.config, out, options("fp16"), written=written)
        assert out.read_bytes() == DEMO.read_bytes()
