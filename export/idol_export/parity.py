"""PyTorch against the exported graph, stage by stage, down to track ids. What fails here never ships.

The PyTorch side prepares its input with the runtime's numpy code and builds masks, position codes and
reference points anew for every frame, so that nothing the export baked into the graph is taken for granted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from idol_deploy.model.geometry import build_geometry, padding_mask
from idol_deploy.model.idol import Idol
from idol_export.agreement import Decisions, Judge
from idol_export.graph import STAGES
from idol_runtime.association import Tracker
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bundle import OUTPUT_NAMES, Certificate, StageError
from idol_runtime.config import StreamConfig
from idol_runtime.detection import NetworkOutput, decode_queries, detect
from idol_runtime.errors import ParityError
from idol_runtime.preprocess import normalise, resize

__all__ = ["FP32_TOLERANCES", "relative_error", "torch_stages", "verify"]

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


def verify(
    model: Idol,
    probe: bytes,
    graph: bytes,
    frames: Iterable[NDArray[np.uint8]],  # [H, W, 3] each
    network_size: tuple[int, int],
    config: StreamConfig,
    *,
    source: str,
    libraries: Sequence[Path] = (),
    progress: Callable[[], object] = lambda: None,
) -> Certificate:
    """Compare on real frames, and certify or refuse.

    Args:
        model: the PyTorch network.
        probe: ONNX file that returns the stages as well.
        graph: ONNX file that ships; the identities come from this one.
        frames: consecutive source frames.
        network_size: (h, w) that they are resized to.
        config: thresholds and association.
        source: what the frames are, for the certificate.
        libraries: of the operators that the graphs need besides ONNX's.
        progress: called after each frame.

    Raises:
        ParityError: a stage is out of tolerance; names it, and how far.
        BackendError: ONNX Runtime refuses a graph.
    """
    probing, shipping = (open_session(data, libraries=libraries) for data in (probe, graph))
    judge, tracker = Judge(config.association), Tracker(config.association)
    errors = dict.fromkeys(FP32_TOLERANCES, 0.0)
    identities: set[int] = set()
    count = 0
    for frame in frames:
        image = resize(frame, network_size)
        expected = torch_stages(model, image)
        theirs = NetworkOutput(**{name: expected[name] for name in OUTPUT_NAMES})
        found = dict(run_session(probing, STAGES, image[None]))
        found |= run_session(shipping, OUTPUT_NAMES, image[None])
        ours = NetworkOutput(**{name: found[name][0] for name in OUTPUT_NAMES})
        for stage, array in expected.items():
            errors[stage] = max(errors[stage], relative_error(found[stage][0], array))
        _check(errors)
        detected = detect(theirs, config.association)
        masks = _torch_masks(model, theirs, detected.candidates)
        errors["masks"] = max(
            errors["masks"], relative_error(decode_queries(ours, detected.candidates), masks)
        )
        _check(errors)
        ids = tracker.update(detected.scores, detected.labels, detected.boxes, detected.embeddings)
        judge.frame(ours, Decisions(detected.candidates, detected.query, ids, detected.labels))
        identities |= set(ids[ids >= 0].tolist())
        count += 1
        progress()
    return _certificate(errors, judge, len(identities), count, source)


def _check(errors: Mapping[str, float]) -> None:
    """Raises for the first stage out of tolerance, in the order in which an error spreads."""
    for stage, error in errors.items():
        if not error <= FP32_TOLERANCES[stage]:
            raise ParityError(
                stage,
                f"the exported graph differs from PyTorch at stage '{stage}': relative error {error:.1e}, "
                f"allowed {FP32_TOLERANCES[stage]:.0e}; nothing was written. Try another version of "
                "torch or onnxruntime, and report it",
            )


def _certificate(
    errors: Mapping[str, float], judge: Judge, identities: int, count: int, source: str
) -> Certificate:
    stages = [StageError(stage, error, FP32_TOLERANCES[stage]) for stage, error in errors.items()]
    for name, part in judge.parts.items():
        stages.append(StageError(name, float(len(part.errors)), 0.0))
        if part.errors:
            raise ParityError(
                name,
                f"the exported graph decides differently from PyTorch at stage '{name}': {part.errors[0]}; "
                "nothing was written. Try another version of torch or onnxruntime, and report it",
            )
    certificate = Certificate(
        stages=tuple(stages),
        frames=count,
        detections=judge.labels.compared,
        identities=identities,
        near_ties=sum(part.near_ties for part in judge.parts.values()),
        source=source,
        backend="onnxruntime (cpu)",
    )
    if not count:
        raise ParityError("frames", f"{source} has no frame to compare on; give another with --verify")
    return certificate
