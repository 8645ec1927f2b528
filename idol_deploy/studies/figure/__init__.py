"""Figures of training and tracking, one module each, behind `idol-deploy figure`."""

__all__: list[str] = []
