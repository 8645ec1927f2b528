"""PyTorch against exported graphs, stage by stage, down to track ids. What fails here never ships.

The PyTorch side prepares its input with the runtime's numpy code and builds masks, position codes and
reference points anew for every frame, so that nothing the export baked into the graph is taken for granted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from idol_deploy.model.geometry import build_geometry, padding_mask
from idol_deploy.model.idol import Idol
from idol_export.graph.adapter import STAGES
from idol_export.verify.decisions import Decisions, Judge
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Certificate, StageError
from idol_runtime.config import StreamConfig
from idol_runtime.errors import ParityError
from idol_runtime.preprocess import normalise, resize
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import NetworkOutput, decode_queries, detect

__all__ = ["FP32_TOLERANCES", "Candidate", "relative_error", "torch_stages", "verify"]

# Fair for float32: 1e-5 for a single module, 1e-4 behind the transformer. Observed: 3e-6 and less.
FP32_TOLERANCES: Mapping[str, float] = {
    "preprocess": 1e-6,
    "backbone": 1e-5,
    "neck": 1e-5,
    **dict.fromkeys(("encoder", "decoder", *OUTPUT_NAMES, "masks"), 1e-4),
}


def relative_error(ours: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """‖ours - expected‖ / ‖expected‖ in float64; infinite where shapes differ or a value is not finite."""
    if ours.shape != expected.shape:
        return float("inf")
    a, b = ours.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


@torch.inference_mode()
def torch_stages(
    model: Idol,
    image: NDArray[np.uint8],  # [h, w, 3] resized
) -> dict[str, NDArray[np.float32]]:
    """Every stage and every output of the PyTorch network for one frame, without the batch dimension."""
    height, width = image.shape[:2]
    x = torch.from_numpy(normalise(image, model.config.preprocessing))[None]
    mask = padding_mask((height, width), (x.shape[2], x.shape[3]))
    geometry = build_geometry(mask, model.config.model.hidden_dim)
    features = model.backbone(x)
    sources = model.neck(features)
    memory = model.transformer.encode(sources, geometry)
    decoder = model.transformer.decode(memory, geometry)
    output = model.predict(memory, decoder, geometry)
    found = {
        "preprocess": x,
        "backbone": features[-1],
        "neck": torch.cat([source.flatten(2) for source in sources], 2),
        "encoder": memory,
        "decoder": decoder.states[-1],
        **{name: getattr(output, name) for name in OUTPUT_NAMES},
    }
    found["mask_reference"] = output.mask_reference * torch.tensor([float(width), float(height)])
    stages: dict[str, NDArray[np.float32]] = {name: tensor[0].numpy() for name, tensor in found.items()}
    return stages


@torch.inference_mode()
def _torch_masks(model: Idol, output: NetworkOutput, query: NDArray[np.int64]) -> NDArray[np.float32]:
    parts = (output.mask_features, output.mask_params[query], output.mask_reference[query])
    masks: NDArray[np.float32] = model.mask_head.decode(*(torch.from_numpy(part)[None] for part in parts))[
        0
    ].numpy()
    return masks


@dataclass(frozen=True)
class Candidate:
    """A graph to be certified.

    Attributes:
        name: which it is.
        probe: ONNX file that returns the stages as well.
        graph: ONNX file that ships; the identities come from this one.
        libraries: of the operators that they need besides ONNX's.
    """

    name: str
    probe: bytes
    graph: bytes
    libraries: tuple[Path, ...] = ()


def verify(
    model: Idol,
    candidates: Sequence[Candidate],
    frames: Iterable[NDArray[np.uint8]],  # [H, W, 3] each
    network_size: tuple[int, int],
    config: StreamConfig,
    *,
    source: str,
) -> list[Certificate]:
    """Compare on real frames, and certify or refuse.

    Args:
        model: the PyTorch network.
        candidates: graphs to compare with it, all on the same frames.
        frames: consecutive source frames.
        network_size: (h, w) that they are resized to.
        config: thresholds and association.
        source: what the frames are, for the certificates.

    Returns:
        One certificate for each candidate.

    Raises:
        ParityError: a stage is out of tolerance; names the graph and the stage, and how far.
        BackendError: ONNX Runtime refuses a graph.
    """
    comparisons = [_Comparison(candidate, config) for candidate in candidates]
    tracker, identities, count = Tracker(config.association), set[int](), 0
    for frame in frames:
        image = resize(frame, network_size)
        expected = torch_stages(model, image)
        theirs = NetworkOutput(**{name: expected[name] for name in OUTPUT_NAMES})
        answers = [comparison.network(image, expected) for comparison in comparisons]
        detected = detect(theirs, config.association)
        masks = _torch_masks(model, theirs, detected.candidates)
        ids = tracker.update(detected.scores, detected.labels, detected.boxes, detected.embeddings)
        decisions = Decisions(detected.candidates, detected.query, ids, detected.labels)
        for comparison, ours in zip(comparisons, answers, strict=True):
            comparison.decisions(ours, masks, decisions)
        identities |= set(ids[ids >= 0].tolist())
        count += 1
    if not count:
        raise ParityError("frames", f"{source} has no frame to compare on; give another with --verify")
    return [comparison.certificate(len(identities), count, source) for comparison in comparisons]


class _Comparison:
    """One graph's answers against PyTorch's, frame after frame."""

    def __init__(self, candidate: Candidate, config: StreamConfig) -> None:
        self._name = candidate.name
        self._probing, self._shipping = (
            open_session(data, libraries=candidate.libraries) for data in (candidate.probe, candidate.graph)
        )
        self._judge = Judge(config.association)
        self._errors = dict.fromkeys(FP32_TOLERANCES, 0.0)

    def network(
        self,
        image: NDArray[np.uint8],  # [h, w, 3] resized
        expected: Mapping[str, NDArray[np.float32]],
    ) -> NetworkOutput:
        """Compares the stages and the outputs."""
        found = dict(run_session(self._probing, STAGES, image[None]))
        found |= run_session(self._shipping, OUTPUT_NAMES, image[None])
        for stage, array in expected.items():
            self._note(stage, relative_error(found[stage][0], array))
        self._check()
        return NetworkOutput(**{name: found[name][0] for name in OUTPUT_NAMES})

    def decisions(self, ours: NetworkOutput, masks: NDArray[np.float32], theirs: Decisions) -> None:
        """Compares the masks, and what follows from the outputs, down to the identities."""
        self._note("masks", relative_error(decode_queries(ours, theirs.candidates), masks))
        self._check()
        self._judge.frame(ours, theirs)

    def _note(self, stage: str, error: float) -> None:
        self._errors[stage] = max(self._errors[stage], error)

    def _check(self) -> None:
        """Raises for the first stage out of tolerance, in the order in which an error spreads."""
        for stage, error in self._errors.items():
            if not error <= FP32_TOLERANCES[stage]:
                raise ParityError(
                    stage,
                    f"the {self._name} graph differs from PyTorch at stage '{stage}': relative error {error:.1e}, "
                    f"allowed {FP32_TOLERANCES[stage]:.0e}; nothing was written. Try another version of "
                    "torch or onnxruntime, and report it",
                )

    def certificate(self, identities: int, count: int, source: str) -> Certificate:
        """What was found; raises where a decision differed."""
        stages = [StageError(stage, error, FP32_TOLERANCES[stage]) for stage, error in self._errors.items()]
        for name, part in self._judge.parts.items():
            stages.append(StageError(name, float(len(part.errors)), 0.0))
            if part.errors:
                raise ParityError(
                    name,
                    f"the {self._name} graph decides differently from PyTorch at stage '{name}': {part.errors[0]}; "
                    "nothing was written. Try another version of torch or onnxruntime, and report it",
                )
        return Certificate(
            stages=tuple(stages),
            frames=count,
            detections=self._judge.labels.compared,
            identities=identities,
            near_ties=sum(part.near_ties for part in self._judge.parts.values()),
            source=source,
            backend="onnxruntime (cpu)",
        )
