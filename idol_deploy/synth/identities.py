"""Who may appear: identities, the side of the split that each is on, and their pictures.

    library = read_library(cutouts=["walks"])
    library.identities("val")["bird"][0].pictures()

An identity is a person, animal or thing. Its *family* holds all that may show the same one: variants of one emoji, and
all tracks cut from one recording. A family is on one side of the split, whatever the seed of a data set, so nobody in
a validation set was ever trained on.
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

_SHAPES = 60  # identities of each kind
_HELD_OUT = 0.25  # of the families of a class
_SALT = 1363  # under which about a quarter of every shipped class is held out
_ENDINGS = (".webp", ".png")
_SPRITES = Path(__file__).parent / "sprites"
# What makes a bird cannot be learnt from the few kinds of birds there are: these are of one class unless asked for.
_ANIMALS = ("bird", "bug", "sea_animal")


@dataclass(frozen=True)
class Identity:
    """One that may appear.

    Attributes:
        kind: its class, or what of its class it is.
        name: its own within the kind.
        family: all of one family may show the same one.
        files: one picture, or a walk cycle; none where it is procedural.
    """

    kind: str
    name: str
    family: str
    files: tuple[Path, ...] = ()

    def pictures(self) -> tuple[NDArray[np.uint8], ...]:  # [H, W, 4] each
        """RGBA, not premultiplied, cut to what is not transparent.

        Raises:
            SourceError: a file that is no picture, or an empty one.
        """
        return _pictures(self)


@dataclass(frozen=True)
class Library:
    """All that may appear.

    Attributes:
        all: every identity, by kind and name.
        parts: the class of the kinds that are none themselves.
    """

    all: tuple[Identity, ...]
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of their category ids."""
        return tuple(sorted({self.class_of(identity) for identity in self.all}))

    def class_of(self, identity: Identity) -> str:
        """What a network is to call it."""
        return self.parts.get(identity.kind, identity.kind)

    def identities(self, split: Split) -> dict[str, tuple[Identity, ...]]:
        """Those on one side of the split, by kind; kinds without any are left out."""
        found: dict[str, tuple[Identity, ...]] = {}
        for kind in sorted({identity.kind for identity in self.all}):
            members = [identity for identity in self.all if identity.kind == kind]
            held = _held_out(kind, frozenset(identity.family for identity in members))
            here = tuple(one for one in members if (one.family in held) == (split == "val"))
            if here:
                found[kind] = here
        return found

    def digest(self) -> str:
        """Of every class, name and file, so that two data sets can be known to be of the same library."""
        state = hashlib.sha256()
        for identity in self.all:
            state.update(f"{self.class_of(identity)}/{identity.kind}/{identity.name}\n".encode())
            for file in identity.files:
                state.update(hashlib.sha256(file.read_bytes()).digest())
        return state.hexdigest()


def read_library(
    cutouts: Sequence[str | Path] = (), *, shipped: bool = True, classes: Sequence[str] = ()
) -> Library:
    """Find what may appear.

    Args:
        cutouts: folders of RGBA pictures: `CLASS/TRACK/*.webp` are walk cycles, in the order of their names, and
            `CLASS/*.webp` single pictures; pictures in the folder itself are of the class of the shipped sprite of
            that name, or of the class that the folder is named after. PNG does as well.
        shipped: also the sprites that come with the package, and procedural shapes.
        classes: only these; empty: all, and the shipped birds, bugs and sea animals are animals.

    Raises:
        SourceError: a folder without pictures.
        ConfigError: an unknown class.
    """
    known = _shipped()
    found = {(identity.kind, identity.name): identity for identity in known} if shipped else {}
    kinds = {identity.name: identity.kind for identity in known}
    for folder in cutouts:
        added = _in_folder(Path(folder), kinds)
        if not added:
            raise SourceError(
                f"{folder} holds no CLASS/TRACK/*.webp, CLASS/*.webp or *.webp; give another folder"
            )
        found |= {(identity.kind, identity.name): identity for identity in added}
    kinds_found = sorted({kind for kind, _ in found})
    unknown = sorted(set(classes) - set(kinds_found))
    if unknown or not found:
        raise ConfigError(f"there is no class {', '.join(unknown)}; take some of {', '.join(kinds_found)}")
    chosen = tuple(found[key] for key in sorted(found) if not classes or key[0] in classes)
    return Library(chosen, dict.fromkeys(_ANIMALS, "animal") if shipped and not classes else {})


def recolour(
    picture: NDArray[np.uint8],  # [H, W, 4]
    turn: float,
    tint: NDArray[np.floating],  # [3]
    spots: NDArray[np.floating] | None = None,  # [h, w]
) -> NDArray[np.uint8]:  # [H, W, 4]
    """The same in other colours.

    Args:
        picture: RGBA.
        turn: of the hue, in radians, about the axis of the greys.
        tint: factors of red, green and blue.
        spots: factors of brightness from coarse to fine over the picture; None: everywhere 1.
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
    shapes = (Identity(kind, f"{kind}-{i:02d}", f"{kind}-{i:02d}") for kind in KINDS for i in range(_SHAPES))
    return (*_in_folder(_SPRITES, {}), *shapes)


def _in_folder(root: Path, kinds: Mapping[str, str]) -> list[Identity]:
    found = [
        Identity(kinds.get(file.stem, root.name), file.stem, _family(file.stem), (file,))
        for file in _files(root)
    ]
    for folder in _folders(root):
        found += [Identity(folder.name, file.stem, _family(file.stem), (file,)) for file in _files(folder)]
        for track in _folders(folder):
            files = _files(track)
            if files:
                found.append(
                    Identity(folder.name, track.name, track.name.rpartition("_")[0] or track.name, files)
                )
    return found


def _family(stem: str) -> str:
    """Of a single picture: emoji's names are code points, the first of which says what, the others which variant."""
    return stem.partition("-")[0]


def _files(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}; check the path")
    return tuple(sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _ENDINGS))


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


@functools.cache
def _held_out(kind: str, families: frozenset[str]) -> frozenset[str]:
    """A family keeps its side when others are added, unless its class had none but it there."""
    ranks = {family: hashlib.sha256(f"{_SALT} {kind} {family}".encode()).digest() for family in families}
    ordered = sorted(families, key=ranks.__getitem__)
    held = {family for family in ordered if ranks[family][0] < _HELD_OUT * 256}
    if len(ordered) > 1 and not held:
        held = {ordered[0]}
    elif len(held) == len(ordered):
        held.remove(ordered[-1])
    return frozenset(held)


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
        raise SourceError(f"{file} is no picture that can be read ({error}); remove or replace it") from error
    inside = image.getchannel("A").point(lambda alpha: 255 * (alpha >= 8)).getbbox()
    if inside is None:
        raise SourceError(f"{file} is transparent everywhere; remove it")
    return np.asarray(image.crop(inside))
