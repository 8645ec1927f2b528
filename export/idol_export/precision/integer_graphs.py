"""int8 graphs of one network with different nodes in fp32, calibrated once for all of them."""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path

from idol_deploy.progress import Announce, counted, silent
from idol_export.precision.calibration import observe
from idol_export.precision.editor import Editor
from idol_export.precision.node_groups import groups_of, is_kept, parts_of
from idol_export.precision.quantizer import (
    Observed,
    Target,
    candidates,
    observed_patches,
    observed_values,
    quantize,
)
from idol_export.verify.clips import spread_frames
from idol_runtime.preprocess import resize

__all__ = ["IntegerGraphs"]


class IntegerGraphs:
    """Maker of the int8 graphs of a probe.

    Args:
        probe: ONNX file of the fp32 graph with its stages, after `folded`.
        network_size: (h, w) of its input.
        libraries: libraries of operators that are not part of ONNX Runtime.
        target: quantization target.
        calibrate: video or images for the ranges.
        frames: number of calibration frames.
        announce: called with each step and its finished frames; the first graph begins the calibration.
    """

    def __init__(
        self,
        probe: bytes,
        network_size: tuple[int, int],
        libraries: tuple[Path, ...],
        target: Target,
        calibrate: str,
        frames: int,
        announce: Announce = silent,
    ) -> None:
        editor = Editor(probe)
        self._probe = probe
        self._network_size, self._libraries, self._target = network_size, libraries, target
        self._calibrate, self._frames, self._announce = calibrate, frames, announce
        self._groups, self._parts = groups_of(editor), parts_of(editor)
        self._work = candidates(editor)

    @property
    def shares(self) -> Mapping[str, float]:
        """Share of all multiplications, 0 to 1, of each group that can compute in int8."""
        shares: dict[str, float] = {}
        for node, share in self._work.items():
            shares[self._groups[node]] = shares.get(self._groups[node], 0.0) + share
        return shares

    def share(self, keep: Collection[str]) -> float:
        """Return the share of multiplications in int8, 0 to 1, if these groups or parts stay fp32."""
        return sum(self._work[node] for node in self._chosen(keep))

    def probe(self, keep: Collection[str]) -> bytes:
        """Return the int8 graph with its stages, where these groups or parts stay fp32.

        Raises:
            ConfigError: there is no calibration frame.
            SourceError: a video or image cannot be read.
        """
        return self._quantized(self._chosen(keep))

    def alone(self, group: str) -> bytes:
        """Return the graph with its stages, where this group alone computes in int8.

        Raises:
            ConfigError: there is no calibration frame.
            SourceError: a video or image cannot be read.
        """
        return self._quantized([node for node in self._work if self._groups[node] == group])

    def _quantized(self, chosen: list[str]) -> bytes:
        editor = Editor(self._probe)
        if chosen:
            quantize(editor, chosen, self._observed, self._target)
        return editor.to_bytes()

    @cached_property
    def _observed(self) -> Mapping[str, Observed]:
        name, count = Path(self._calibrate).name, self._frames
        images = counted(
            spread_frames(self._calibrate, count), self._announce, f"reading frames of {name}", count
        )
        frames = [resize(image, self._network_size) for image in images]
        editor = Editor(self._probe)
        observed = observe(
            self._probe,
            observed_values(editor, self._work, self._target),
            frames,
            self._libraries,
            symmetric=self._target == "qdq",
            patches=observed_patches(editor, self._work),
            announce=self._announce,
        )
        self._announce("quantizing the graph")
        return observed

    def _chosen(self, keep: Collection[str]) -> list[str]:
        return [node for node in self._work if not is_kept(self._groups[node], self._parts[node], keep)]
