from pathlib import Path

import pytest

from idol_deploy.data.categories import OVIS, YTVIS_2019
from idol_deploy.data.samples import NO_IDENTITY, class_labels
from idol_deploy.id_head import UNKNOWN
from idol_runtime.config import Category
from idol_runtime.errors import DataError


def test_categories_are_found_by_name_whatever_their_ids() -> None:
    categories = [
        Category("Giant panda", 7),
        Category("person", 2),
        Category("giant_PANDA", 9),
        Category("ufo", 1),
    ]
    assert class_labels(categories, YTVIS_2019, Path("a.json")) == {7: 1, 2: 0, 9: 1}
    own = [Category(name, number) for number, name in enumerate(OVIS, start=1)]
    assert class_labels(own, OVIS, Path("a.json")) == {i + 1: i for i in range(25)}


def test_a_data_set_of_other_things_is_refused() -> None:
    categories = [Category(f"thing {i}", i) for i in range(9)]
    with pytest.raises(
        DataError, match=r"\(thing 0, thing 1, thing 2, thing 3, ...\) is a class of the network"
    ):
        class_labels(categories, YTVIS_2019, Path("a.json"))


def test_the_criterion_knows_what_has_no_identity() -> None:
    assert NO_IDENTITY == UNKNOWN
