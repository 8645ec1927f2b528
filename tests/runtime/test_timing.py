import time

import numpy as np
import pytest

from idol_runtime.timing import interleaved


def test_every_way_has_its_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    calls: list[str] = []

    def takes(name: str, *seconds: float) -> object:
        left = iter(seconds)

        def run() -> None:
            calls.append(name)
            clock[0] += next(left)

        return run

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = interleaved([takes("a", 9, 1, 2, 3), takes("b", 9, 4, 5, 6)], rounds=3)  # type: ignore[list-item]
    assert calls == list("abababab")
    np.testing.assert_allclose(found, [[1000, 4000], [2000, 5000], [3000, 6000]])
