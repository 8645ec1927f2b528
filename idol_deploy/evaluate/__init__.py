"""Scores of results files, and results of whole data sets."""

__all__: list[str] = []
