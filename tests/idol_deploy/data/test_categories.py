import pytest

from idol_deploy.data import categories
from idol_deploy.synth.identities import read_library


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
