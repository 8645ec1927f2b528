"""The contrastive embedding that tells instances apart across frames (docs/idol.md §3.4)."""

from idol_deploy.model.mlp import Mlp

__all__ = ["EmbedHead"]


class EmbedHead(Mlp):
    """Maps a query's state [..., C] to its embedding [..., C].

    The embedding is not normalised: association compares plain dot products, whose size carries confidence.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)
