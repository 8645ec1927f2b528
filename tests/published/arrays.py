"""Layout of a folder of reference arrays, which the published code computed.

A folder holds `meta.json` ({tag: {"video": [T, H, W, seed], "preset", "keys"}}), key lists, and the files
`ref_<tag>_{backbone,transformer,heads,masks_full,tracker_final}.npz` of each tag. The published code ran on
`reference.make_video` with the weights of `reference.reference_state`. Tags that start with `small` hold complete
tensors, others hold slices. Letters: C channels, h x w cells, S tokens, Q queries, D decoder layers.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_runtime.errors import ConfigError

__all__ = ["FIRST_RUN", "Array", "Cut", "ReferenceFolder", "Stages", "Tag", "cuts", "read_arrays"]

Array = NDArray[Any]  # mostly float32; masks are bool, counts are integers
Stages = Mapping[str, Array]

FIRST_RUN = 10  # frames that the arrays before the heads cover

_PARTS = ("backbone", "transformer", "heads", "masks_full", "tracker_final")
# Our preset for each published configuration file with another name.
_PUBLISHED_PRESETS = {
    "ytvis19_swinL": "ytvis19_swin_l",
    "ytvis21_swinL": "ytvis21_swin_l",
    "ovis_swin": "ovis_swin_l",
}
# Arrays of the tracker that must all be there or all be missing.
_TOGETHER = (
    ("n_before_mask_nms", "query_before_mask_nms", "n", "query", "ids", "labels", "scores", "boxes_cxcywh"),
    ("result_row", "pred_labels", "pred_scores"),
    ("row_mask_sums", "row_masks_packed", "row_masks_shape"),
)


class _TagMeta(msgspec.Struct):
    video: tuple[int, int, int, int]
    preset: str
    keys: str = ""

    def __post_init__(self) -> None:
        if min(self.video[:3]) < 1 or self.video[3] < 0:
            raise ValueError(f"a video is (frames, height, width, seed), got {self.video}")


class _KeyList(msgspec.Struct):
    keys: list[list[Any]]  # name, shape, and ignored entries


@dataclass(frozen=True)
class Tag:
    """A reference video and its arrays.

    Attributes:
        name: name of the tag.
        video: number of frames, height, width, and seed.
        preset: preset of the network.
        keys: shape of each tensor in the published checkpoint, by key; empty if the folder has no key list.
        arrays: arrays by file part and name, for example `transformer/memory`.
    """

    name: str
    video: tuple[int, int, int, int]
    preset: str
    keys: Mapping[str, tuple[int, ...]]
    arrays: Mapping[str, Array]


class ReferenceFolder:
    """A folder of reference arrays.

    Raises:
        ConfigError: `meta.json` is missing or broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            text = (self.path / "meta.json").read_bytes()
            self._meta = msgspec.json.decode(text, type=dict[str, _TagMeta])
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{path} is no folder of reference arrays: meta.json: {error}") from error

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the tags with arrays of a video."""
        return tuple(tag for tag in self._meta if any(self._files(tag).values()))

    @property
    def empty_tags(self) -> tuple[str, ...]:
        """Names of the tags without arrays of a video."""
        return tuple(tag for tag in self._meta if tag not in self.tags)

    def read(self, tag: str) -> Tag:
        """Read all arrays of a tag.

        Raises:
            ConfigError: there is no such tag, or one of its files is missing or broken.
        """
        if tag not in self.tags:
            has = ", ".join(self.tags) or "none"
            raise ConfigError(
                f"{self.path} has no arrays of {tag!r}: ref_{tag}_{{{','.join(_PARTS)}}}.npz; it has {has}"
            )
        meta = self._meta[tag]
        arrays: dict[str, Array] = {}
        for part, file in self._files(tag).items():
            if file is not None:
                arrays |= {f"{part}/{name}": array for name, array in read_arrays(file).items()}
        for names in _TOGETHER:
            missing = [name for name in names if f"tracker_final/{name}" not in arrays]
            if 0 < len(missing) < len(names):
                raise ConfigError(
                    f"{self.path}: ref_{tag}_tracker_final.npz lacks {', '.join(missing)}; copy it again"
                )
        preset = _PUBLISHED_PRESETS.get(meta.preset, meta.preset)
        return Tag(tag, meta.video, preset, self._keys(meta.keys), arrays)

    def _files(self, tag: str) -> dict[str, Path | None]:
        paths = {part: self.path / f"ref_{tag}_{part}.npz" for part in _PARTS}
        return {part: path if path.is_file() else None for part, path in paths.items()}

    def _keys(self, name: str) -> Mapping[str, tuple[int, ...]]:
        file = self.path / name
        if name and file.parent != self.path:
            raise ConfigError(f"{self.path}: meta.json names {name!r}, which lies elsewhere; copy it here")
        if not name or not file.exists():
            return {}  # the arrays are compared without it, and the report mentions the missing list
        try:
            listed = msgspec.json.decode(file.read_bytes(), type=_KeyList).keys
            return {str(key): tuple(map(int, shape)) for key, shape, *_ in listed}
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self.path}: the key list {name} that meta.json names cannot be read ({error}); copy it again"
            ) from error


def read_arrays(file: Path) -> dict[str, Array]:
    """Read all arrays of an npz file.

    Raises:
        ConfigError: the file is missing, broken or of another kind.
    """
    try:
        # Opened here: numpy leaves the file of a broken archive open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{file} is no readable npz file ({error}); copy it again") from error


@dataclass(frozen=True)
class Cut:
    """The cut of a reference array from the network's tensors.

    Attributes:
        stage: stage of the tensor.
        needs: name of the tensor.
        frames: number of leading frames; the cuts of several frames are stacked.
        take: function from one frame's tensors to its part of the array.
        alternatives: other possible cuts; a cut that gives the array's shape is used.
    """

    stage: str
    needs: str
    frames: int
    take: Callable[[Stages], Array]
    alternatives: tuple[Callable[[Stages], Array], ...] = ()

    @property
    def readings(self) -> tuple[Callable[[Stages], Array], ...]:
        """All possible cuts, most likely first."""
        return (self.take, *self.alternatives)


def cuts(tag: Tag) -> dict[str, Cut]:
    """Return the cut of every array of a tag, by the array's name."""
    small = tag.name.startswith("small")
    run, all_frames = min(tag.video[0], FIRST_RUN), tag.video[0]
    stride = int(tag.arrays.get("transformer/token_stride", np.array(1)))
    layout = {
        "backbone/image_norm_slice": Cut(
            "preprocess",
            "preprocess",
            run,
            lambda s: s["preprocess"][:, ::8, ::8],
            (lambda s: s["preprocess"][:, : tag.video[1] : 8, : tag.video[2] : 8],),
        ),
        "transformer/memory": Cut("encoder", "memory", run, lambda s: s["memory"][::stride]),
        "transformer/enc_layers_frame0": Cut(
            "encoder",
            "encoder_layers",
            1,
            lambda s: s["encoder_layers"][..., ::4],
            (lambda s: s["encoder_layers"][:, ::stride, ::4],),
        ),
        "transformer/hs_last": Cut(
            "decoder",
            "states_last",
            run,
            lambda s: s["states_last"] if small else s["states_last"][:, ::4],
        ),
        "transformer/hs_layers_frame0": Cut("decoder", "states", 1, lambda s: s["states"][..., ::4]),
        "transformer/init_reference": Cut("decoder", "init_reference", 1, lambda s: s["init_reference"]),
        "transformer/inter_references": Cut("decoder", "references", run, lambda s: s["references"]),
        "transformer/pos3": Cut("geometry", "position3", 1, lambda s: s["position3"]),
        "heads/pred_logits": Cut("logits", "logits", all_frames, lambda s: s["logits"]),
        "heads/pred_boxes": Cut("boxes", "boxes", all_frames, lambda s: s["boxes"]),
        "heads/pred_inst_embed": Cut("embeddings", "embeddings", all_frames, lambda s: s["embeddings"]),
        "heads/mask_feat": Cut("mask_features", "mask_features", all_frames, lambda s: s["mask_features"]),
        "heads/dyn_params_frame0": Cut("mask_params", "mask_params", 1, lambda s: s["mask_params"]),
        "masks_full/pred_masks": Cut("masks", "masks", all_frames, lambda s: s["masks"][:, None]),
        "heads/pred_masks_every12_16": Cut(
            "masks",
            "masks",
            all_frames,
            lambda s: s["masks"][::12, None, ::16, ::16],
            (
                lambda s: s["masks"][::12, ::16, ::16],
                lambda s: s["masks"][::12, None, :, ::16],
                lambda s: s["masks"][::12, None, ::16],
                lambda s: s["masks"][::12].reshape(-1)[::16],
            ),
        ),
        "heads/pred_masks_frame0_query_every20": Cut(
            "masks", "masks", 1, lambda s: s["masks"][::20, None], (lambda s: s["masks"][::20],)
        ),
    }
    for k in (2, 3, 4, 5):
        layout |= _backbone_level(f"res{k}", small, run)
    for level in range(4):
        layout |= _neck_level(level, small, run)
    return {name: entry for name, entry in layout.items() if name in tag.arrays}


def _backbone_level(level: str, small: bool, run: int) -> dict[str, Cut]:
    def cut(s: Stages) -> Array:
        return s[level][::8] if small else s[level][::16, ::2, ::2]

    def stats(s: Stages) -> Array:
        x = s[level].astype(np.float64)
        return np.array([x.mean(), x.std(ddof=1), x.min(), x.max()])

    return {
        f"backbone/{level}_slice": Cut("backbone", level, run if small else min(run, 2), cut),
        f"backbone/{level}_stats": Cut("backbone", level, run, stats),
        f"backbone/{level}_channel_mean": Cut("backbone", level, run, lambda s: s[level].mean(axis=(1, 2))),
        f"backbone/{level}_mask": Cut("geometry", f"{level}_mask", run, lambda s: s[f"{level}_mask"]),
        f"backbone/{level}_pos_slice": Cut(
            "geometry",
            f"{level}_position",
            1,
            lambda s: s[f"{level}_position"][::8, ::2, ::2],
        ),
    }


def _neck_level(level: int, small: bool, run: int) -> dict[str, Cut]:
    step = 2 if small else 4
    name = f"src{level}"
    return {
        f"transformer/{name}_slice": Cut(
            "neck", name, run if small else min(run, 2), lambda s: s[name][::step]
        ),
        f"transformer/mask{level}": Cut("geometry", f"mask{level}", run, lambda s: s[f"mask{level}"]),
    }
