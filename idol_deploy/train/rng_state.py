"""The states of the random number generators of a training step: those of torch, numpy and Python."""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["restore_rng", "rng_state", "seed_rng"]


def seed_rng(seed: int, rank: int) -> None:
    """Seed all generators, differently in each process, so that their dropout differs."""
    words = np.random.SeedSequence([seed, rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - other code uses the global generator
    random.seed(int(words[2]))


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators as tensors, numbers and strings."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: dict[str, Any], device: torch.device) -> None:
    """Restore the states that `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
