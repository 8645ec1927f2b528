"""Backbones of the network; `config.py` lists them."""

__all__: list[str] = []
