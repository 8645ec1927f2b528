import io
import random

import numpy as np
import torch

from idol_deploy.train.rng_state import restore_rng, rng_state, seed_rng

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float, float]:
    normal = np.random.normal()  # noqa: NPY002 - it keeps a second number for the next call
    return torch.rand(1).item(), np.random.rand(), normal, random.random()  # noqa: NPY002


def test_generators_go_on_after_a_file() -> None:
    seed_rng(5, 0)
    draw()
    file = io.BytesIO()
    torch.save(rng_state(CPU), file)
    wanted = [draw() for _ in range(3)]
    seed_rng(6, 0)
    file.seek(0)
    restore_rng(torch.load(file, weights_only=True), CPU)
    assert [draw() for _ in range(3)] == wanted


def test_processes_draw_differently() -> None:
    seed_rng(5, 0)
    first = draw()
    seed_rng(5, 1)
    assert not set(first) & set(draw())
