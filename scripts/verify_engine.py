"""Checks of `scripts/verify_tensorrt.py` that use the Python API; the last line of each check's output is JSON.

verify_engine.py environment         TensorRT and the device
verify_engine.py graphs BUNDLE       verified graphs that TensorRT can read
verify_engine.py tracks BUNDLE       compare TensorRT with ONNX Runtime, from frames to identities
verify_engine.py refusals BUNDLE     check that damaged engines are refused
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from idol_deploy.weights.reference import make_video
from idol_runtime.backends import OpenOptions, open_backend
from idol_runtime.backends.cuda_device import CudaDevice
from idol_runtime.backends.opening import verified_graphs
from idol_runtime.backends.tensorrt_api import import_tensorrt
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.bundle.engine_file import FOLDER_VARIABLE, engine_folder, read_info
from idol_runtime.errors import IdolError
from idol_runtime.pipeline import Pipeline

_FRAMES = 12


def environment() -> dict[str, Any]:
    """Return the versions of TensorRT and the driver, and the device."""
    version = import_tensorrt().__version__
    device = CudaDevice()
    versions = {
        "tensorrt": version,
        "gpu": device.name,
        "capability": device.capability,
        "driver": device.driver,
    }
    device.close()
    release = Path("/etc/nv_tegra_release")
    return {**versions, "jetpack": release.read_text().split("\n")[0] if release.is_file() else ""}


def graphs(path: Path) -> list[str]:
    """Return the graph with our operator and the reduced-precision graphs, if verified and readable for TensorRT."""
    with Bundle.open(path) as bundle:
        exact = [name for name in bundle.certificates.by_graph() if name == "plugin"]
        return [*exact, *verified_graphs(bundle, "tensorrt")]


def tracks(path: Path) -> dict[str, Any]:
    """Compare the tracks of both on a generated video; exit with an error if they differ by more than near ties."""
    with Bundle.open(path) as bundle:
        height, width = bundle.manifest.frame_size
    video = make_video(_FRAMES, height, width, seed=3).transpose(0, 2, 3, 1)
    outputs: dict[str, list[Any]] = {}
    for backend in ("tensorrt", "onnxruntime"):
        try:
            with Pipeline.open(path, backend=backend) as pipeline:
                outputs[backend] = [pipeline.step(np.ascontiguousarray(frame)) for frame in video]
                name, reason = pipeline.backend.name, pipeline.backend.reason
        except IdolError as error:
            if backend == "tensorrt":
                raise
            return {"tensorrt": name, "remark": reason, "compared": False, "why": str(error)}
        if backend == "tensorrt":
            result = {"tensorrt": name, "remark": reason, "compared": True}
    pairs = list(zip(*outputs.values(), strict=True))
    same = [len(a.ids) == len(b.ids) and a.ids.tolist() == b.ids.tolist() for a, b in pairs]
    distances = [
        np.abs(a.boxes_xyxy - b.boxes_xyxy).max(initial=0)
        for (a, b), like in zip(pairs, same, strict=True)
        if like
    ]
    instances = int(sum(len(b.ids) for _, b in pairs))
    result |= {"instances": instances, "frames": len(same), "frames with equal ids": int(sum(same))}
    result["largest box difference in pixels"] = float(max(distances, default=0.0))
    if sum(same) < 0.9 * len(same) or result["largest box difference in pixels"] > 1:
        sys.exit(f"TensorRT and ONNX Runtime differ: {json.dumps(result)}")
    return result


def refusals(path: Path) -> dict[str, Any]:
    """Check that a corrupted and a truncated engine are refused in one sentence with a fix."""
    messages = {}
    for fault in ("corrupted", "cut short"):
        with tempfile.TemporaryDirectory() as folder, Bundle.open(path) as bundle:
            for engine in engine_folder().glob("*.engine"):
                graph = read_info(engine).key.graph
                data = bytearray(engine.read_bytes())
                data[len(data) // 2] ^= 1
                (Path(folder) / engine.name).write_bytes(
                    data if fault == "corrupted" else data[: len(data) // 2]
                )
            before = os.environ.get(FOLDER_VARIABLE)
            os.environ[FOLDER_VARIABLE] = folder
            try:
                open_backend(bundle, OpenOptions("tensorrt", graph=graph)).close()
            except IdolError as error:
                messages[fault] = str(error)
            finally:
                os.environ.pop(FOLDER_VARIABLE)
                if before is not None:
                    os.environ[FOLDER_VARIABLE] = before
        if "idol-deploy build" not in messages.get(fault, "") or "\n" in messages[fault]:
            sys.exit(
                f"an engine that is {fault} was not refused as it should be: {messages.get(fault, 'it ran')}"
            )
    return messages


if __name__ == "__main__":
    check, *rest = sys.argv[1:]
    checks = {"environment": environment, "graphs": graphs, "tracks": tracks, "refusals": refusals}
    try:
        print(json.dumps(checks[check](*map(Path, rest))))
    except IdolError as error:
        sys.exit(f"{check}: {error}")
