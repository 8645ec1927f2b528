"""The last ten minutes of a stream, per second, in memory of a fixed size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_runtime.run.observer import STAGES
from idol_runtime.serve.messages import FrameMessage

__all__ = ["SECONDS", "History"]

SECONDS = 600
_FRAMES, _DROPPED, _AGED, _AGE, _WORST = range(5)
_STAGE = 5  # first column of the stages


class History:
    """Sums per second: frames, dropped frames, frame ages, and the time of each stage."""

    def __init__(self) -> None:
        self._second = np.zeros(SECONDS, np.int64)
        self._sums = np.zeros((SECONDS, _STAGE + len(STAGES)))
        self._timed = np.zeros((SECONDS, len(STAGES)), np.int64)

    def add(self, message: FrameMessage, dropped: int) -> None:
        """Add a frame.

        Args:
            message: processed frame.
            dropped: number of frames dropped since the frame before.
        """
        second = int(message.wall)
        place = second % SECONDS
        if self._second[place] != second:
            self._second[place], self._sums[place], self._timed[place] = second, 0, 0
        sums = self._sums[place]
        sums[_FRAMES] += 1
        sums[_DROPPED] += dropped
        if message.age_s is not None:
            sums[_AGED] += 1
            sums[_AGE] += message.age_s
            sums[_WORST] = max(sums[_WORST], message.age_s)
        for i, stage in enumerate(STAGES):
            if (seconds := message.stages.get(stage)) is not None:
                sums[_STAGE + i] += seconds
                self._timed[place, i] += 1

    def fps(self, now: float, seconds: int = 3) -> float:
        """Return the frames per second over the last whole seconds before `now`."""
        last = np.arange(int(now) - seconds, int(now))
        places = last % SECONDS
        return float(self._sums[places, _FRAMES][self._second[places] == last].sum()) / seconds

    def columns(self, now: float, seconds: int = SECONDS) -> dict[str, Any]:
        """Return the last whole seconds before `now`, oldest first, as lists; means are None where nothing was seen.

        Returns:
            `time` (seconds since 1970), `frames` and `dropped` (counts), `age_s` (mean), `age_worst_s`,
            `stages` (means by stage).
        """
        time = np.arange(int(now) - seconds, int(now))
        places = time % SECONDS
        valid = self._second[places] == time
        sums, timed = self._sums[places] * valid[:, None], self._timed[places] * valid[:, None]
        return {
            "time": time.tolist(),
            "frames": sums[:, _FRAMES].astype(int).tolist(),
            "dropped": sums[:, _DROPPED].astype(int).tolist(),
            "age_s": _means(sums[:, _AGE], sums[:, _AGED]),
            "age_worst_s": _means(sums[:, _WORST], np.minimum(sums[:, _AGED], 1)),
            "stages": {stage: _means(sums[:, _STAGE + i], timed[:, i]) for i, stage in enumerate(STAGES)},
        }


def _means(sums: NDArray[Any], counts: NDArray[Any]) -> list[float | None]:
    return [round(s / c, 6) if c else None for s, c in zip(sums.tolist(), counts.tolist(), strict=True)]
