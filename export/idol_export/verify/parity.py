"""Parity check of exported graphs against PyTorch, stage by stage, down to track ids.

The PyTorch side prepares its input with the runtime's numpy code. It computes padding masks, position codes and
reference points anew for every frame, so that the constants in the exported graph are checked as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from idol_deploy.model.geometry import build_geometry, padding_mask
from idol_deploy.model.idol import Idol
from idol_export.graph.adapter import STAGES
from idol_export.verify.candidate import Candidate, relative_error
from idol_export.verify.decisions import DecisionComparison, Decisions
from idol_runtime.backends.onnxruntime import run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Certificate, StageError
from idol_runtime.config import StreamConfig
from idol_runtime.errors import ParityError
from idol_runtime.preprocess import normalise, resize
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import NetworkOutput, decode_queries, detect

__all__ = ["FP32_TOLERANCES", "Candidate", "graph_stages", "relative_error", "torch_stages", "verify"]

# Largest relative errors: 1e-5 for a single float32 module, 1e-4 after the transformer. Measured: 3e-6 at most.
FP32_TOLERANCES: Mapping[str, float] = {
    "preprocess": 1e-6,
    "backbone": 1e-5,
    "neck": 1e-5,
    **dict.fromkeys(("encoder", "decoder", *OUTPUT_NAMES, "masks"), 1e-4),
}


_FIX = "try another version of torch or onnxruntime and report the error"


@torch.inference_mode()
def torch_stages(
    model: Idol,
    image: NDArray[np.uint8],  # [h, w, 3], resized
) -> dict[str, NDArray[np.float32]]:
    """Return every stage and output of the PyTorch network for one frame, without the batch dimension."""
    height, width = image.shape[:2]
    x = torch.from_numpy(normalise(image, model.config.preprocessing))[None]
    mask = padding_mask((height, width), (x.shape[2], x.shape[3]))
    geometry = build_geometry(mask, model.config.model.hidden_dim)
    features = model.backbone(x)
    sources = model.neck(features)
    memory = model.transformer.encode(sources, geometry)
    decoder = model.transformer.decode(memory, geometry)
    output = model.predict(memory, decoder, geometry)
    tensors = {
        "preprocess": x,
        "backbone": features[-1],
        "neck": torch.cat([source.flatten(2) for source in sources], 2),
        "encoder": memory,
        "decoder": decoder.states[-1],
        **{name: getattr(output, name) for name in OUTPUT_NAMES},
    }
    tensors["mask_reference"] = output.mask_reference * torch.tensor([float(width), float(height)])
    return {name: tensor[0].numpy() for name, tensor in tensors.items()}


def graph_stages(
    probe: Any,
    graph: Any,
    image: NDArray[np.uint8],  # [h, w, 3], resized
) -> dict[str, NDArray[np.float32]]:
    """Return every stage of an open probe and every output of its open graph, without the batch dimension."""
    tensors = {**run_session(probe, STAGES, image[None]), **run_session(graph, OUTPUT_NAMES, image[None])}
    return {name: tensor[0] for name, tensor in tensors.items()}


@torch.inference_mode()
def _torch_masks(model: Idol, output: NetworkOutput, query: NDArray[np.int64]) -> NDArray[np.float32]:
    parts = (output.mask_features, output.mask_params[query], output.mask_reference[query])
    masks = model.mask_head.decode(*(torch.from_numpy(part)[None] for part in parts))
    return np.asarray(masks[0])


def verify(
    model: Idol,
    candidates: Sequence[Candidate],
    frames: Iterable[NDArray[np.uint8]],  # [H, W, 3] each
    network_size: tuple[int, int],
    config: StreamConfig,
    *,
    source: str,
) -> list[Certificate]:
    """Compare graphs with PyTorch on the same frames and certify them.

    Args:
        model: PyTorch network.
        candidates: graphs to certify.
        frames: consecutive source frames.
        network_size: (h, w) of the network input before padding.
        config: thresholds and association.
        source: name of the frames for the certificates.

    Returns:
        One certificate per candidate.

    Raises:
        ParityError: a stage is out of tolerance; the message names the graph, the stage and the error.
        BackendError: ONNX Runtime cannot open or run a graph.
    """
    comparisons = [_Comparison(candidate, config) for candidate in candidates]
    tracker, identities, count = Tracker(config.association), set[int](), 0
    for frame in frames:
        image = resize(frame, network_size)
        expected = torch_stages(model, image)
        theirs = NetworkOutput(**{name: expected[name] for name in OUTPUT_NAMES})
        outputs = [comparison.add_outputs(image, expected) for comparison in comparisons]
        detected = detect(theirs, config.association)
        masks = _torch_masks(model, theirs, detected.candidates)
        ids = tracker.update(detected.scores, detected.labels, detected.boxes, detected.embeddings)
        decisions = Decisions(detected.candidates, detected.query, ids, detected.labels)
        for comparison, ours in zip(comparisons, outputs, strict=True):
            comparison.add_decisions(ours, masks, decisions)
        identities |= set(ids[ids >= 0].tolist())
        count += 1
    if not count:
        raise ParityError("frames", f"no frame to compare on in {source}; pass another source with --verify")
    return [comparison.certificate(len(identities), count, source) for comparison in comparisons]


class _Comparison:
    """Comparison of one graph with PyTorch, frame by frame."""

    def __init__(self, candidate: Candidate, config: StreamConfig) -> None:
        self._name = candidate.name
        self._probe, self._graph = candidate.open_probe(), candidate.open_graph()
        self._decisions = DecisionComparison(config.association)
        self._errors = dict.fromkeys(FP32_TOLERANCES, 0.0)

    def add_outputs(
        self,
        image: NDArray[np.uint8],  # [h, w, 3], resized
        expected: Mapping[str, NDArray[np.float32]],
    ) -> NetworkOutput:
        """Compare the stages and outputs of one frame; return the graph's outputs."""
        tensors = graph_stages(self._probe, self._graph, image)
        for stage, array in expected.items():
            self._add_error(stage, relative_error(tensors[stage], array))
        self._check()
        return NetworkOutput(**{name: tensors[name] for name in OUTPUT_NAMES})

    def add_decisions(self, ours: NetworkOutput, masks: NDArray[np.float32], theirs: Decisions) -> None:
        """Compare the masks and decisions of one frame, down to the identities."""
        self._add_error("masks", relative_error(decode_queries(ours, theirs.candidates), masks))
        self._check()
        self._decisions.add_frame(ours, theirs)

    def _add_error(self, stage: str, error: float) -> None:
        self._errors[stage] = max(self._errors[stage], error)

    def _check(self) -> None:
        """Raise ParityError for the first stage out of tolerance, in the order of computation."""
        for stage, error in self._errors.items():
            if not error <= FP32_TOLERANCES[stage]:
                raise ParityError(
                    stage,
                    f"the {self._name} graph differs from PyTorch at stage '{stage}': relative error {error:.1e}, "
                    f"allowed {FP32_TOLERANCES[stage]:.0e}; nothing was written; {_FIX}",
                )

    def certificate(self, identities: int, count: int, source: str) -> Certificate:
        """Return the certificate.

        Raises:
            ParityError: a decision differs by more than a near tie.
        """
        stages = [StageError(stage, error, FP32_TOLERANCES[stage]) for stage, error in self._errors.items()]
        for name, part in self._decisions.parts.items():
            stages.append(StageError(name, float(len(part.errors)), 0.0))
            if part.errors:
                raise ParityError(
                    name,
                    f"the {self._name} graph decides differently from PyTorch at stage '{name}': {part.errors[0]}; "
                    f"nothing was written; {_FIX}",
                )
        return Certificate(
            stages=tuple(stages),
            frames=count,
            detections=self._decisions.parts["labels"].compared,
            identities=identities,
            near_ties=sum(part.near_ties for part in self._decisions.parts.values()),
            source=source,
            backend="onnxruntime (cpu)",
        )
