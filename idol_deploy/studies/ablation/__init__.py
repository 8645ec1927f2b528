"""The paper's Table 1 again: what each part of the method is worth, on any annotated videos."""

__all__: list[str] = []
