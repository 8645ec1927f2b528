"""Evaluation: scores of results files, and results of a model over a data set."""

__all__: list[str] = []
