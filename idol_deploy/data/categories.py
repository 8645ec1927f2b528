"""Class names of the data sets, and the match by name between categories and network classes.

The tables have the order of the data sets' category ids, which is the order of the network's classes, and the spelling
of their annotation files ("Vehical" included).

Training and evaluation match names by one rule: case, blanks, `-` and `_` are ignored. Two names that differ in nothing
else are refused as ambiguous.
"""

from collections.abc import Sequence
from pathlib import Path

from idol_runtime.config import Category
from idol_runtime.errors import ConfigError, DataError

__all__ = [
    "COCO",
    "COCO_IDS",
    "OVIS",
    "SYNTH",
    "YTVIS_2019",
    "YTVIS_2021",
    "class_labels",
    "list_some",
    "require_distinct",
]

# fmt: off
YTVIS_2019: tuple[str, ...] = (
    "person", "giant_panda", "lizard", "parrot", "skateboard", "sedan", "ape", "dog", "snake", "monkey",
    "hand", "rabbit", "duck", "cat", "cow", "fish", "train", "horse", "turtle", "bear", "motorbike",
    "giraffe", "leopard", "fox", "deer", "owl", "surfboard", "airplane", "truck", "zebra", "tiger",
    "elephant", "snowboard", "boat", "shark", "mouse", "frog", "eagle", "earless_seal", "tennis_racket",
)

YTVIS_2021: tuple[str, ...] = (
    "airplane", "bear", "bird", "boat", "car", "cat", "cow", "deer", "dog", "duck", "earless_seal",
    "elephant", "fish", "flying_disc", "fox", "frog", "giant_panda", "giraffe", "horse", "leopard",
    "lizard", "monkey", "motorbike", "mouse", "parrot", "person", "rabbit", "shark", "skateboard", "snake",
    "snowboard", "squirrel", "surfboard", "tennis_racket", "tiger", "train", "truck", "turtle", "whale",
    "zebra",
)

OVIS: tuple[str, ...] = (
    "Person", "Bird", "Cat", "Dog", "Horse", "Sheep", "Cow", "Elephant", "Bear", "Zebra", "Giraffe",
    "Poultry", "Giant_panda", "Lizard", "Parrot", "Monkey", "Rabbit", "Tiger", "Fish", "Turtle", "Bicycle",
    "Motorcycle", "Airplane", "Boat", "Vehical",
)

COCO: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)

# Classes of `idol-deploy synth`.
SYNTH: tuple[str, ...] = ("animal", "blob", "face", "fruit", "person", "ring", "star", "vehicle")

# COCO numbers 91 categories and annotates 80 of them.
COCO_IDS: tuple[int, ...] = tuple(
    i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
)
# fmt: on


def class_labels(categories: Sequence[Category], classes: Sequence[str], path: Path) -> dict[int, int]:
    """Map category ids of a data set to class labels of the network, without categories that are no class.

    Args:
        categories: categories of the data set.
        classes: class names of the network.
        path: annotation file, for messages.

    Raises:
        ConfigError: two classes have the same name.
        DataError: two categories have the same name, or none of them is a class.
    """
    require_distinct(classes)
    names = [category.name for category in categories]
    same = _same_names(names)
    if same:
        raise DataError(f"{path}: categories {same}; rename one, or give its annotations to the other")
    labels_by_name = {_normalise(name): label for label, name in enumerate(classes)}
    labels = {
        category.dataset_id: labels_by_name[_normalise(category.name)]
        for category in categories
        if _normalise(category.name) in labels_by_name
    }
    if not labels:
        raise DataError(
            f"{path}: none of its categories ({list_some(names)}) is a class of the network "
            f"({list_some(classes)}); choose a preset with these classes, or set them"
        )
    return labels


def require_distinct(classes: Sequence[str]) -> None:
    """Check that no two classes have the same name.

    Raises:
        ConfigError: two classes have the same name.
    """
    same = _same_names(classes)
    if same:
        raise ConfigError(f"classes {same}; rename one, or leave it out")


def list_some(values: Sequence[object], most: int = 4) -> str:
    """Return the first `most` values of a list for a message, with an ellipsis for the rest."""
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")


def _normalise(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _same_names(names: Sequence[str]) -> str:
    """Return a description of the first two equal names; empty if all differ."""
    first: dict[str, str] = {}
    for name in names:
        if _normalise(name) in first:
            return f"{first[_normalise(name)]!r} and {name!r} differ only in case, blanks, - or _"
        first[_normalise(name)] = name
    return ""
