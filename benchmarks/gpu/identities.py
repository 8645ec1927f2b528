"""Identities of the bundled demo model in fp16 and bf16 against fp32, on the held-out synthetic clips.

Runs the PyTorch network with the compiled operator (plain PyTorch where it is not built) and the runtime's tracker. Id
agreement is the IDF1 of a run's tracks against those of fp32 on the same device; that fp32 run is compared with the
CPU's. The network's outputs on the first frame are compared with those of the CPU in fp32.

Fails if fp16 or fp32 agrees with its reference by less than 99 %.
"""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu.common import Options, Report, Save, missing, say
from benchmarks.gpu.network import KINDS, NAMES, Kind, keep_backbone

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol
    from idol_export.verify.id_agreement import PackedFrame

__all__ = ["run"]

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "edge_synth"
SIZE, NETWORK = (160, 256), (240, 384)
CLIPS = 8
GOAL = 0.99


class Runner:
    """The demo model on one device, run with its tracker in any precision."""

    def __init__(self, model: "Idol", device: str) -> None:
        from idol_deploy.backend import TorchBackend
        from idol_deploy.model.deform_op import use_operator
        from idol_runtime.pipeline import Pipeline

        self.device = device
        self._model = model.to(device)
        keep_backbone(self._model)
        use_operator(self._model)
        self.backend = TorchBackend(self._model, NETWORK)
        self._pipeline = Pipeline(self.backend, model.config.stream)

    def tracks(self, videos: list[list[object]], kind: Kind) -> list[list["PackedFrame"]]:
        """Return the result of every frame."""
        from idol_export.verify.id_agreement import PackedFrame

        results = []
        with kind.active(), torch.autocast(self.device, kind.dtype, enabled=kind.half):
            for frames in videos:
                self._pipeline.reset()
                results.append([PackedFrame.of(self._pipeline.step(frame)) for frame in frames])
        return results

    def outputs(self, frame: object, kind: Kind) -> dict[str, torch.Tensor]:
        """Return the network's outputs for a frame."""
        with kind.active(), torch.autocast(self.device, kind.dtype, enabled=kind.half):
            (output,) = self.backend.infer(self._pipeline.prepare(frame).image[None])
        self._pipeline.reset()
        return {name: torch.from_numpy(getattr(output, name)).double() for name in NAMES}


def agreement(reference: list[list["PackedFrame"]], other: list[list["PackedFrame"]]) -> Report:
    """Return the id agreement of two runs and the number of masks of the reference."""
    from idol_export.verify.id_agreement import TrackComparison

    comparison = TrackComparison()
    for expected, results in zip(reference, other, strict=True):
        comparison.next_clip()
        for a, b in zip(expected, results, strict=True):
            comparison.add_frame(a, b)
    return {"id_agreement": round(comparison.idf1, 5), "masks": comparison.reference_masks}


def run(options: Options, report: Report, save: Save) -> None:
    """Compare the identities of every precision."""
    reason = missing("msgspec", "safetensors", "PIL", "cv2", "pycocotools", "tqdm")
    if reason is not None:
        report.update(passed=True, skipped=reason)
        return
    from idol_deploy.settings import network_config
    from idol_deploy.weights.checkpoint import load_checkpoint
    from idol_export.verify.clips import synthetic_clips

    config = network_config(str(MODEL / "settings.json"))
    runners = {
        device: Runner(load_checkpoint(MODEL / "edge_synth.safetensors", config), device)
        for device in dict.fromkeys(("cpu", options.device))
    }
    count, length = (1, 3) if options.quick else (CLIPS, None)
    videos = [list(islice(clip, length)) for clip in islice(synthetic_clips(SIZE), count)]
    first = videos[0][0]
    report["clips"], report["frames"] = len(videos), sum(map(len, videos))
    expected = runners["cpu"].outputs(first, KINDS["fp32"])
    reference = runners["cpu"].tracks(videos, KINDS["fp32"])
    report["against"] = {"fp32": "fp32 on the CPU", "others": f"fp32 on {options.device}"}
    report["precisions"] = {}
    runner = runners[options.device]
    for name, kind in KINDS.items():
        outputs = runner.outputs(first, kind)
        tracks = runner.tracks(videos, kind)
        result = agreement(reference, tracks)
        result["relative_error"] = {
            key: float((outputs[key] - value).norm() / value.norm()) for key, value in expected.items()
        }
        report["precisions"][name] = result
        say(f"identities in {name}: {result['id_agreement']:.2%} of {result['masks']} masks")
        if name == "fp32":
            reference = tracks
        save()
    report["passed"] = all(report["precisions"][name]["id_agreement"] >= GOAL for name in ("fp32", "fp16"))
