"""Tests of the content of an intact zip: an invalid manifest, certificate or golden frame is refused by name."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from idol_runtime.bundle import bundle as module
from idol_runtime.bundle.bundle import GOLDEN_FRAME, GoldenFrame, StageError

MANIFEST = "manifest.json"


@pytest.fixture
def good(kit: Any, tmp_path: Path) -> Path:
    return kit.write(tmp_path / "good.idol")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema_version": 6}, "upgrade idol-deploy"),
        ({"schema_version": 6, "unheard": 1}, "upgrade idol-deploy"),
        ({"schema_version": 2}, "export it again"),
        ({"schema_version": "4"}, "schema_version"),
        ({"schema_version": None}, "schema_version"),
        ({"unheard": 1}, "unheard"),
        ({"frame_size": [1, 2, 3]}, "frame_size"),
        ({"frame_size": "16x24"}, "frame_size"),
        ({"network_size": [0, 24]}, "size"),
        ({"padded_size": [-32, 32]}, "size"),
        ({"dynamic_batch": 1}, "dynamic_batch"),
        ({"precision": "fp8"}, "precision"),
        ({"members": {}}, "the manifest lists"),
        ({"note": None}, "note"),
        ({"stream": {"categories": []}}, "at least one category"),
        ({"stream": {"categories": [{"name": "a", "dataset_id": 1}] * 2}}, "share a data set id"),
        ({"stream": {}}, "categories"),
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be(
    kit: Any, good: Path, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    manifest = {**msgspec.json.decode(kit.members_of(good)[MANIFEST]), **changes}
    path = kit.write_raw(tmp_path / "odd.idol", msgspec.json.encode(manifest))
    assert expected in kit.refusal(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"association": {"select_score": 2}},
        {"association": {"temporal": "sometimes"}},
        {"association": {"memory_length": 0}},
        {"video": {"class_score": -0.1}},
        {"preprocessing": {"std": [1, 0, 1]}},
        {"preprocessing": {"size_divisor": 0}},
        {"preprocessing": {"mean": [1, 2]}},
        {"unheard": 3},
    ],
    ids=str,
)
def test_settings_out_of_range(kit: Any, good: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    manifest = msgspec.json.decode(kit.members_of(good)[MANIFEST])
    manifest["stream"].update(changes)
    path = kit.write_raw(tmp_path / "odd.idol", msgspec.json.encode(manifest))
    assert "manifest is not valid" in kit.refusal(path)


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"schema_version":3}', b"[" * 100_000, b'{"a":' * 100_000],
    ids=["empty", "null", "list", "open", "not UTF-8", "bare", "deep list", "deep object"],
)
def test_a_manifest_that_is_no_manifest(kit: Any, tmp_path: Path, text: bytes) -> None:
    kit.refusal(kit.write_raw(tmp_path / "odd.idol", text))


@pytest.mark.parametrize(
    "stages",
    [
        (StageError("neck", 2e-3, 1e-3),),
        (StageError("backbone", 1e-6, 1e-3), StageError("neck", 1.0, 1e-3)),
    ],
    ids=["one", "second"],
)
def test_a_failed_certificate(kit: Any, tmp_path: Path, stages: tuple[StageError, ...]) -> None:
    path = kit.write(tmp_path / "f.idol", members=kit.members(certificates=kit.certificates(*stages)))
    assert "the portable graph did not pass its parity check (failed: neck)" in kit.refusal(path)


@pytest.mark.parametrize("error", ["NaN", "null", "Infinity", "1e999", '"0"'])
def test_a_certificate_without_a_number(kit: Any, tmp_path: Path, error: str) -> None:
    parity = kit.certificates().replace(b"1e-6", error.encode())
    assert error.encode() in parity
    assert "certificates is not valid" in kit.refusal(
        kit.write(tmp_path / "n.idol", members=kit.members(certificates=parity))
    )


def test_an_empty_certificate(kit: Any, tmp_path: Path) -> None:
    parity = msgspec.json.decode(kit.certificates())
    parity["portable"]["stages"] = []
    path = kit.write(tmp_path / "e.idol", members=kit.members(certificates=msgspec.json.encode(parity)))
    assert "nothing tested" in kit.refusal(path)


def test_nan_passes_no_stage() -> None:
    assert not StageError("logits", float("nan"), 1e-3).passed
    assert not StageError("logits", 1e-3, float("nan")).passed


class Trap:
    """An object that records its unpickling."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def spoiled_canaries(kit: Any) -> dict[str, bytes]:
    golden_frame: GoldenFrame = kit.golden_frame()
    arrays = {"frame": golden_frame.frame, **golden_frame.outputs}
    whole = golden_frame.to_bytes()
    trap = np.array([Trap()], dtype=object)
    header = np.lib.format.magic(1, 0) + (10).to_bytes(2, "little") + b"{'descr': \n"
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("frame.npy", header)
        broken_header = buffer.getvalue()
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                archive.writestr(f"{name}.npy", np.lib.format.magic(1, 0) + array.tobytes())
        broken_arrays = buffer.getvalue()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {
        "empty": b"",
        "text": b"text",
        "an npy": npy(golden_frame.frame),
        "a pickle": pickle.dumps(Trap()),
        "an object frame": npz(**{**arrays, "frame": trap}),
        "an object output": npz(**{**arrays, "boxes": trap}),
        "a missing output": npz(**{k: v for k, v in arrays.items() if k != "boxes"}),
        "another frame size": npz(**{**arrays, "frame": golden_frame.frame[:-1]}),
        "text as output": npz(**{**arrays, "boxes": np.array(["a"])}),
        "truncated": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "a broken header": broken_header,
        "broken arrays": broken_arrays,
    }


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_a_golden_frame_that_cannot_be_read(kit: Any, tmp_path: Path) -> None:
    for kind, data in spoiled_canaries(kit).items():
        members = {**kit.members(), GOLDEN_FRAME: data}
        path = kit.write(tmp_path / f"{kind}.idol", members=members)
        assert GOLDEN_FRAME in kit.refusal(path) or "golden frame" in kit.refusal(path), kind
        assert not Trap.sprung, kind
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung, "the trap itself must work"


def test_a_golden_frame_that_inflates_without_end(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden_frame = GoldenFrame(np.zeros((2048, 2048, 3), np.uint8), kit.golden_frame().outputs)
    data = golden_frame.to_bytes()
    monkeypatch.setitem(module._MAX_BYTES, GOLDEN_FRAME, 4 << 20)
    assert len(data) < 4 << 20 < golden_frame.frame.nbytes
    manifest = kit.manifest(frame_size=(2048, 2048))
    path = kit.write(tmp_path / "big.idol", manifest, kit.members(golden_frame=data))
    assert GOLDEN_FRAME in kit.refusal(path)
