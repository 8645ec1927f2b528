"""Delivery of events: a bounded queue, and one module per kind of receiver."""

__all__: list[str] = []
