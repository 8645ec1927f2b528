"""Delivery of events to other machines: a bounded queue, and one file per kind of receiver."""

__all__: list[str] = []
