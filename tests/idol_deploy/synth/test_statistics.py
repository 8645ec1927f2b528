from idol_deploy.synth.statistics import summarise, vanishing_of


def _annotation(video: int, kind: int, hidden: list[float | None], group: int | None, name: str) -> dict:
    areas = [None if share is None or share > 0.9 else 10 for share in hidden]
    own = {"hidden": hidden, "group": group, "identity": name}
    return {"video_id": video, "category_id": kind, "areas": areas, "synth": own}


def test_a_summary_counts() -> None:
    vanishings = [{"frames": frames} for frames in (1, 2, 9, 10, 10)]
    meetings = [
        {"crossed": True, "look_alikes": True},
        {"crossed": True, "look_alikes": False},
        {"crossed": False, "look_alikes": True},
    ]
    videos = [
        {"length": 3, "synth": {"vanishings": vanishings, "meetings": meetings}},
        {"length": 4, "synth": {"vanishings": [{"frames": 2}], "meetings": []}},
    ]
    annotations = [
        _annotation(1, 1, [0.0, 0.5, 0.51], 0, "a"),
        _annotation(1, 1, [0.6, 1.0, None], 0, "a"),
        _annotation(1, 1, [0.0, 0.0, 0.0], 0, "a"),
        _annotation(2, 2, [0.0, 0.0], 0, "b"),
        _annotation(2, 2, [0.0, 0.2], None, "b"),
        _annotation(2, 2, [0.0, 0.0], None, "c"),
    ]
    summary = summarise(videos, annotations, {1: "bird", 2: "face", 3: "ring"})
    assert summary == {
        "videos": 2,
        "frames": 7,
        "instances": 6,
        "masks": 13,
        "hidden_more_than_half": round(2 / 13, 4),
        "hidden_at_all": round(4 / 13, 4),
        "vanishings": {"1": 1, "2": 2, "9": 1, "10": 2},
        "vanishings_before_expiry": 3,
        "vanishings_past_expiry": 2,
        "videos_with_3_to_9": 1,
        "crossings": 2,
        "crossings_of_look_alikes": 1,
        "meetings": 3,
        "look_alike_pairs": 3,
        "classes": {"bird": 3, "face": 3, "ring": 0},
        "identities": 3,
    }
    assert vanishing_of(videos[0], 2) == [{"frames": 2}, {"frames": 9}]
