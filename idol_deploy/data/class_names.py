"""Classes of a network and categories of a data set, matched by name: one rule for training and evaluation.

Upper and lower case, blanks, `-` and `_` make no difference. Two names that differ in nothing else are refused, since
either could be meant.
"""

from collections.abc import Sequence
from pathlib import Path

from idol_runtime.config import Category
from idol_runtime.errors import ConfigError, DataError

__all__ = ["class_labels", "require_distinct", "unknown_categories"]


def class_labels(categories: Sequence[Category], classes: Sequence[str], path: Path) -> dict[int, int]:
    """From the ids of a data set's categories to the network's classes; those not in the list are left out.

    Args:
        categories: of the data set.
        classes: of the network.
        path: of the data set, for messages.

    Raises:
        ConfigError: two classes have the same name.
        DataError: two categories have, or not one of them is in the list.
    """
    require_distinct(classes)
    theirs = [category.name for category in categories]
    twins = _twins(theirs)
    if twins:
        raise DataError(
            f"{path}: categories {_alike(twins)}; rename one, or give its annotations to the other"
        )
    known = {_plain(name): label for label, name in enumerate(classes)}
    labels = {
        category.dataset_id: known[_plain(category.name)]
        for category in categories
        if _plain(category.name) in known
    }
    if not labels:
        raise DataError(
            f"{path}: none of its categories ({_few(theirs)}) is a class of the network ({_few(classes)}); choose a "
            "preset with these classes, or set them"
        )
    return labels


def unknown_categories(categories: Sequence[Category], classes: Sequence[str]) -> list[str]:
    """The names of a data set's categories that no class of the network has."""
    known = set(map(_plain, classes))
    return [category.name for category in categories if _plain(category.name) not in known]


def require_distinct(classes: Sequence[str]) -> None:
    """Refuses classes of which two have the same name.

    Raises:
        ConfigError: it names both.
    """
    twins = _twins(classes)
    if twins:
        raise ConfigError(f"classes {_alike(twins)}; rename one, or leave it out")


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _twins(names: Sequence[str]) -> tuple[str, str] | None:
    first: dict[str, str] = {}
    for name in names:
        plain = _plain(name)
        if plain in first:
            return first[plain], name
        first[plain] = name
    return None


def _alike(twins: tuple[str, str]) -> str:
    return f"{twins[0]!r} and {twins[1]!r} are one name, whatever its case, blanks, - and _"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
