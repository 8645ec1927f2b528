"""The generators that a training step draws from, as values that can be kept: torch's, numpy's and Python's."""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["chance_state", "restore_chance", "seed_chance"]


def seed_chance(seed: int, rank: int) -> None:
    """Seeds all generators, differently in each process: they must not drop the same units."""
    words = np.random.SeedSequence([seed, rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - the global one is the one that others may use
    random.seed(int(words[2]))


def chance_state(device: torch.device) -> dict[str, Any]:
    """The states of all generators, made of tensors, numbers and strings alone."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_chance(state: dict[str, Any], device: torch.device) -> None:
    """Goes on where `chance_state` was asked."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
