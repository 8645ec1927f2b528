"""The ablation of the paper's Table 1 on annotated videos: the contribution of each part of the method."""

__all__: list[str] = []
