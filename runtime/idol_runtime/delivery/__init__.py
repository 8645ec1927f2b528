"""Delivery of events: a file, and a bounded queue with one module per kind of receiver on other machines."""

__all__: list[str] = []
