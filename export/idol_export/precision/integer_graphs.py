"""Graphs of one network that compute in integers, but for what is kept; calibrated once for all of them."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path

from idol_export.precision.calibration import observe
from idol_export.precision.editor import Editor
from idol_export.precision.int8 import (
    Observed,
    Target,
    candidates,
    observed_patches,
    observed_values,
    quantise,
)
from idol_export.precision.node_groups import groups_of, is_kept, parts_of
from idol_export.verify.clips import spread_frames
from idol_runtime.preprocess import resize

__all__ = ["IntegerGraphs"]


class IntegerGraphs:
    """Makes them out of a probe."""

    def __init__(
        self,
        probe: bytes,
        network_size: tuple[int, int],
        libraries: tuple[Path, ...],
        target: Target,
        calibrate: str,
        frames: int,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Of a `folded` probe, its input's (h, w), and what int8 takes its ranges from; nothing runs yet."""
        editor = Editor(probe)
        self._probe = probe
        self._network_size, self._libraries, self._target = network_size, libraries, target
        self._calibrate, self._frames, self._announce = calibrate, frames, announce
        self._groups, self._parts = groups_of(editor), parts_of(editor)
        self._work = candidates(editor)

    @property
    def shares(self) -> Mapping[str, float]:
        """Of each group that can compute in integers, its share of all multiplications."""
        found: dict[str, float] = {}
        for node, share in self._work.items():
            found[self._groups[node]] = found.get(self._groups[node], 0.0) + share
        return found

    def share(self, keep: Collection[str]) -> float:
        """Of multiplications, how many are in integers where these groups or parts are kept."""
        return sum(self._work[node] for node in self._chosen(keep))

    def probe(self, keep: Collection[str]) -> bytes:
        """The graph, with its stages, in integers but for these groups or parts.

        Raises:
            ConfigError: nothing to calibrate on.
            SourceError: a video or image that cannot be read.
        """
        return self._quantised(self._chosen(keep))

    def alone(self, group: str) -> bytes:
        """The graph with one group in integers, wherever its nodes are.

        Raises:
            ConfigError: nothing to calibrate on.
            SourceError: a video or image that cannot be read.
        """
        return self._quantised([node for node in self._work if self._groups[node] == group])

    def _quantised(self, chosen: list[str]) -> bytes:
        editor = Editor(self._probe)
        if chosen:
            quantise(editor, chosen, self._observed, self._target)
        return editor.to_bytes()

    @cached_property
    def _observed(self) -> Mapping[str, Observed]:
        self._announce(f"calibrating on {self._frames} frames of {Path(self._calibrate).name}")
        frames = [resize(frame, self._network_size) for frame in spread_frames(self._calibrate, self._frames)]
        editor = Editor(self._probe)
        return observe(
            self._probe,
            observed_values(editor, self._work, self._target),
            frames,
            self._libraries,
            symmetric=self._target == "trt",
            patches=observed_patches(editor, self._work),
        )

    def _chosen(self, keep: Collection[str]) -> list[str]:
        return [node for node in self._work if not is_kept(self._groups[node], self._parts[node], keep)]
