from pathlib import Path

import pytest

from idol_deploy.data import categories
from idol_deploy.data.categories import OVIS, YTVIS_2019, class_labels, require_distinct
from idol_deploy.synth.identities import read_library
from idol_runtime.config import Category
from idol_runtime.errors import ConfigError, DataError

PATH = Path("a.json")


def test_categories_are_found_by_name_whatever_their_ids() -> None:
    categories = [
        Category("Giant  panda", 7),
        Category("person", 2),
        Category("tennis-RACKET ", 9),
        Category("ufo", 1),
    ]
    assert class_labels(categories, YTVIS_2019, PATH) == {7: 1, 2: 0, 9: 39}
    own = [Category(name, number) for number, name in enumerate(OVIS, start=1)]
    assert class_labels(own, OVIS, PATH) == {i + 1: i for i in range(25)}


def test_a_data_set_of_other_things_is_refused() -> None:
    categories = [Category(f"thing {i}", i) for i in range(9)]
    with pytest.raises(
        DataError, match=r"\(thing 0, thing 1, thing 2, thing 3, …\) is a class of the network"
    ):
        class_labels(categories, YTVIS_2019, PATH)


def test_two_of_one_name_are_refused() -> None:
    pandas = ("giant_panda", "Giant panda")
    with pytest.raises(
        DataError, match=r"a.json: categories 'giant_panda' and 'Giant panda' differ only in case"
    ):
        class_labels([Category(name, i) for i, name in enumerate(pandas)], YTVIS_2019, PATH)
    for refuse in (require_distinct, lambda names: class_labels([Category("cat", 1)], names, PATH)):
        with pytest.raises(ConfigError, match="classes 'giant_panda' and 'Giant panda' differ only in case"):
            refuse(("cat", *pandas))
    require_distinct(YTVIS_2019)


@pytest.mark.parametrize(
    ("name", "count"), [("YTVIS_2019", 40), ("YTVIS_2021", 40), ("OVIS", 25), ("COCO", 80), ("SYNTH", 8)]
)
def test_every_data_set_has_its_classes_once(name: str, count: int) -> None:
    names = getattr(categories, name)
    assert len(names) == len(set(names)) == count


def test_the_order_is_that_of_the_data_sets_ids() -> None:
    assert categories.YTVIS_2019[:3] == ("person", "giant_panda", "lizard")
    assert categories.YTVIS_2019[-1] == "tennis_racket"
    assert list(categories.YTVIS_2021) == sorted(categories.YTVIS_2021)
    assert categories.OVIS[0] == "Person"
    assert categories.OVIS[-1] == "Vehical"
    assert categories.COCO[0] == "person"
    assert categories.COCO[-1] == "toothbrush"


def test_the_generator_draws_these() -> None:
    assert read_library().classes == categories.SYNTH
