import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from idol_deploy.synth.events import Vanishing, find_meetings, find_vanishings


@given(
    st.lists(
        st.text("#-. ", min_size=1, max_size=20).map(lambda row: row.ljust(20, "-")), min_size=1, max_size=3
    )
)
def test_vanishings_are_gaps_between_what_is_seen(rows: list[str]) -> None:
    """`#` visible, `-` hidden, `.` and blank outside; a gap is a word between two #."""
    seen = np.array([[letter == "#" for letter in row] for row in rows])
    inside = np.array([[letter in "#-" for letter in row] for row in rows])
    expected = []
    for i, row in enumerate(rows):
        words, at = row.split("#"), 0
        for j, word in enumerate(words):
            if word and 0 < j < len(words) - 1:
                how = "hidden" if word.count("-") >= len(word) / 2 else "outside"
                expected.append(Vanishing(i, at, len(word), how))
            at += len(word) + 1
    assert find_vanishings(seen, inside) == expected


def _squares(*ways: list[int]) -> np.ndarray:
    """Return the outlines, [n, T, 8, 40], of squares of 6 pixels with these left edges; -9: outside."""
    full = np.zeros((len(ways), len(ways[0]), 8, 40), np.bool_)
    for i, way in enumerate(ways):
        for t, left in enumerate(way):
            full[i, t, 1:7, max(left, 0) : max(left + 6, 0)] = True
    return full


def test_who_passes_crosses_and_who_turns_back_does_not() -> None:
    still = [16] * 7
    (passing,) = find_meetings(_squares([0, 6, 12, 16, 20, 26, 30], still))
    assert (passing.instances, passing.start, passing.frames, passing.crossed) == ((0, 1), 2, 3, True)
    (back,) = find_meetings(_squares(still, [0, 6, 12, 14, 12, 6, 0]))
    assert (back.start, back.frames, back.crossed) == (2, 3, False)


def test_who_only_touches_or_is_away_meets_nobody() -> None:
    assert find_meetings(_squares([11, 11, -9], [16, 16, 16])) == []
    (meeting,) = find_meetings(_squares([14, 14, -9], [16, 16, 16], [30, 30, 30]))
    assert (meeting.instances, meeting.start, meeting.frames) == ((0, 1), 0, 2)
