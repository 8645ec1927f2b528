from idol_deploy.data.samples import NO_IDENTITY
from idol_deploy.objective.id_head import UNKNOWN


def test_the_criterion_knows_what_has_no_identity() -> None:
    assert NO_IDENTITY == UNKNOWN
