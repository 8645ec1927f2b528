"""TensorRT's account of an engine's layers, counted."""

import json
from collections import Counter
from typing import Any

__all__ = ["count_layers"]


def count_layers(layers: str) -> dict[str, int]:
    """How many layers of each type an engine has, most frequent first.

    Args:
        layers: JSON of `IEngineInspector`; of an engine built without details, layers are mere names.
    """
    try:
        found: Any = json.loads(layers)["Layers"]
    except (ValueError, KeyError, TypeError):  # TensorRT promises no format
        return {}
    kinds = (
        str(layer.get("LayerType", "unknown")) if isinstance(layer, dict) else "unknown" for layer in found
    )
    return dict(Counter(kinds).most_common())
