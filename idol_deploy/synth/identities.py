"""Identities: the persons, animals and objects that instances show, their split, and their pictures.

    library = read_library(cutouts=["walks"])
    library.identities("val")["bird"][0].pictures()

A *family* holds all identities that may show the same individual: variants of one emoji, and all tracks cut from one
recording. A family belongs to one split, whatever the seed of a data set. No identity of a validation set is therefore
in a training set.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.synth.shapes import KINDS, draw_shape
from idol_runtime.errors import ConfigError, SourceError

__all__ = ["SPLITS", "Identity", "Library", "Split", "read_library", "recolour"]

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

_SHAPES = 60  # identities of each procedural kind
_HELD_OUT = 0.25  # share of the families of a kind that are in the split val
_SALT = 1363  # holds out about a quarter of every shipped kind
_SUFFIXES = (".webp", ".png")
_SPRITES = Path(__file__).parent / "sprites"
# Too few for a class of their own: a network cannot learn from 13 birds what makes a bird.
_ANIMALS = ("bird", "bug", "sea_animal")


@dataclass(frozen=True)
class Identity:
    """A person, animal or object.

    Attributes:
        kind: its class, or a part of its class.
        name: unique name within the kind.
        family: name of its family within the kind.
        files: one picture or a walk cycle; empty for a procedural shape.
    """

    kind: str
    name: str
    family: str
    files: tuple[Path, ...] = ()

    def pictures(self) -> tuple[NDArray[np.uint8], ...]:  # [H, W, 4] each
        """Return the pictures as RGBA, not premultiplied, cropped to what is not transparent.

        Raises:
            SourceError: a file is no picture or an empty one.
        """
        return _pictures(self)


@dataclass(frozen=True)
class Library:
    """The available identities.

    Attributes:
        all: identities, ordered by kind and name.
        parts: class of each kind that is no class itself.
    """

    all: tuple[Identity, ...]
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their category ids."""
        return tuple(sorted({self.class_of(identity) for identity in self.all}))

    def class_of(self, identity: Identity) -> str:
        """Return the class of an identity."""
        return self.parts.get(identity.kind, identity.kind)

    def identities(self, split: Split) -> dict[str, tuple[Identity, ...]]:
        """Return the identities of a split by kind, without empty kinds."""
        by_kind: dict[str, tuple[Identity, ...]] = {}
        for kind in sorted({identity.kind for identity in self.all}):
            members = [identity for identity in self.all if identity.kind == kind]
            held_out = _held_out(kind, frozenset(identity.family for identity in members))
            chosen = tuple(one for one in members if (one.family in held_out) == (split == "val"))
            if chosen:
                by_kind[kind] = chosen
        return by_kind

    def digest(self) -> str:
        """Return the SHA-256 of all classes, names and files, which identifies the library."""
        state = hashlib.sha256()
        for identity in self.all:
            state.update(f"{self.class_of(identity)}/{identity.kind}/{identity.name}\n".encode())
            for file in identity.files:
                state.update(hashlib.sha256(file.read_bytes()).digest())
        return state.hexdigest()


def read_library(
    cutouts: Sequence[str | Path] = (), *, shipped: bool = True, classes: Sequence[str] = ()
) -> Library:
    """Find the available identities.

    Args:
        cutouts: folders of RGBA pictures, WebP or PNG. `CLASS/TRACK/*.webp` are walk cycles, ordered by name.
            `CLASS/*.webp` are single pictures. A picture in the folder itself has the class of the shipped sprite with
            its name, else the name of the folder as its class.
        shipped: include the sprites of the package and procedural shapes.
        classes: classes to include; empty: all, with the shipped birds, bugs and sea animals in the class `animal`.

    Raises:
        SourceError: a folder has no pictures.
        ConfigError: a class is unknown.
    """
    known = _shipped()
    identities = {(identity.kind, identity.name): identity for identity in known} if shipped else {}
    kinds = {identity.name: identity.kind for identity in known}
    for folder in cutouts:
        added = _in_folder(Path(folder), kinds)
        if not added:
            raise SourceError(
                f"no CLASS/TRACK/*.webp, CLASS/*.webp or *.webp in {folder}; give another folder"
            )
        identities |= {(identity.kind, identity.name): identity for identity in added}
    available = sorted({kind for kind, _ in identities})
    unknown = sorted(set(classes) - set(available))
    if unknown or not identities:
        raise ConfigError(f"unknown class {', '.join(unknown)}; choose from {', '.join(available)}")
    chosen = tuple(identities[key] for key in sorted(identities) if not classes or key[0] in classes)
    return Library(chosen, dict.fromkeys(_ANIMALS, "animal") if shipped and not classes else {})


def recolour(
    picture: NDArray[np.uint8],  # [H, W, 4]
    turn: float,
    tint: NDArray[np.floating],  # [3]
    spots: NDArray[np.floating] | None = None,  # [h, w]
) -> NDArray[np.uint8]:  # [H, W, 4]
    """Change the colours of a picture.

    Args:
        picture: RGBA.
        turn: rotation of the hue about the grey axis, in radians.
        tint: factors of red, green and blue.
        spots: factors of brightness on a coarse grid, enlarged to the picture; None: no change.
    """
    along, across = np.cos(turn), np.sin(turn) / np.sqrt(3)
    matrix = np.full((3, 3), (1 - along) / 3) + along * np.eye(3)
    matrix += across * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    rgb = picture[..., :3].astype(np.float32) @ (matrix.T * tint).astype(np.float32)
    if spots is not None:
        size = (picture.shape[1], picture.shape[0])
        fine = Image.fromarray(spots.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        rgb *= np.asarray(fine)[..., None]
    return np.dstack([np.clip(rgb + 0.5, 0, 255).astype(np.uint8), picture[..., 3]])


@functools.cache
def _shipped() -> tuple[Identity, ...]:
    names = ((kind, f"{kind}-{i:02d}") for kind in KINDS for i in range(_SHAPES))
    return (*_in_folder(_SPRITES, {}), *(Identity(kind, name, name) for kind, name in names))


def _in_folder(root: Path, kinds: Mapping[str, str]) -> list[Identity]:
    identities = [_single(kinds.get(file.stem, root.name), file) for file in _files(root)]
    for folder in _folders(root):
        identities += [_single(folder.name, file) for file in _files(folder)]
        for track in _folders(folder):
            if files := _files(track):
                family = track.name.rpartition("_")[0] or track.name
                identities.append(Identity(folder.name, track.name, family, files))
    return identities


def _single(kind: str, file: Path) -> Identity:
    # Emoji are named by code points: the first is the subject, the others are the variant.
    return Identity(kind, file.stem, file.stem.partition("-")[0], (file,))


def _files(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}; check the path")
    return tuple(sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _SUFFIXES))


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


@functools.cache
def _held_out(kind: str, families: frozenset[str]) -> frozenset[str]:
    """Choose the families of the split val.

    A family keeps its split when families are added, except the single one that fills a split which would be empty.
    """
    ranks = {family: hashlib.sha256(f"{_SALT} {kind} {family}".encode()).digest() for family in families}
    ordered = sorted(families, key=ranks.__getitem__)
    held_out = [family for family in ordered if ranks[family][0] < _HELD_OUT * 256]
    # Each split of a kind needs a family; a kind with one family is for training.
    count = min(max(len(held_out), 1), len(ordered) - 1)
    return frozenset(ordered[:count])


@functools.lru_cache(maxsize=256)
def _pictures(identity: Identity) -> tuple[NDArray[np.uint8], ...]:
    if not identity.files:
        return (draw_shape(identity.kind, identity.name),)
    return tuple(map(_picture, identity.files))


def _picture(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SourceError(f"cannot read picture {file}: {error}; remove or replace it") from error
    inside = image.getchannel("A").point(lambda alpha: 255 * (alpha >= 8)).getbbox()
    if inside is None:
        raise SourceError(f"picture {file} is completely transparent; remove it")
    return np.asarray(image.crop(inside))
