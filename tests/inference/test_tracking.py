"""Ids that last, names that do not flicker, and files that can be read at any moment."""

import json
import shutil
import sys

import numpy as np
import pytest

from ovdet.data.images import Frame
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.media import Video
from ovdet.inference.stream import StreamedPhoto
from ovdet.inference.tracking import Counters, ObjectTracker, track_video
from ovdet.inference.video_writer import writing_video

SIZE = (120, 160)
NAMES = ("dog", "red kite")
THRESHOLDS = {"dog": 0.3, "red kite": 0.08}


def detections(*rows) -> Detections:
    """(x, y, score, label) each: boxes of 20 x 20 pixels."""
    boxes = np.float32([[x, y, x + 20, y + 20] for x, y, _, _ in rows]).reshape(-1, 4)
    labels = tuple(label for _, _, _, label in rows)
    return Detections(
        boxes,
        np.float32([row[2] for row in rows]),
        np.array([NAMES.index(label) for label in labels], int),
        labels,
        SIZE,
    )


@pytest.fixture
def tracker() -> ObjectTracker:
    return ObjectTracker(THRESHOLDS, rate=25, lost_seconds=0.4)


def follow(tracker, frames, rate=25.0):
    return [tracker.update(detections(*rows), number / rate) for number, rows in enumerate(frames)]


def test_two_things_keep_their_ids(tracker):
    frames = [[(10 + 2 * t, 10, 0.9, "dog"), (100 - 2 * t, 80, 0.2, "red kite")] for t in range(30)]
    tracks = follow(tracker, frames)
    assert tracks[0].ids.tolist() == [-1, -1]  # once is not enough
    for track in tracks[1:]:
        ids = dict(zip(track.detections.labels, track.ids.tolist(), strict=True))
        assert ids == dict(zip(tracks[1].detections.labels, tracks[1].ids.tolist(), strict=True))
        assert sorted(ids.values()) == [0, 1]
    assert tracker.counts == {"dog": 1, "red kite": 1}
    row = tracks[5].rows()[0]
    assert row == {"box": [20, 10, 40, 30], "score": 0.9, "label": "dog", "id": row["id"]}
    assert tracks[0].rows()[0]["id"] is None


@pytest.mark.parametrize(("away", "same"), [(5, True), (20, False)])
def test_out_of_sight(tracker, away, same):
    """For 0.2 s or 0.8 s, of 0.4 s that are allowed."""
    dog = [(50, 50, 0.9, "dog")]
    tracks = follow(tracker, [dog] * 10 + [[]] * away + [dog] * 10)
    assert len(tracks[12].ids) == 0
    assert (tracks[-1].ids[0] == tracks[9].ids[0]) == same
    assert tracker.counts == {"dog": 1 if same else 2}


def test_weak_detections_go_on_with_a_track_and_begin_none(tracker):
    assert tracker.wanted() == {"dog": 0.15, "red kite": 0.04}
    weak = [(50, 50, 0.2, "dog")]
    assert all(len(track.ids) == 0 for track in follow(tracker, [weak] * 5))
    fresh = ObjectTracker(THRESHOLDS, rate=25)
    strong = [(50, 50, 0.35, "dog")]
    tracks = follow(fresh, [strong] * 4 + [weak] * 4)
    assert [track.ids.tolist() for track in tracks[1:]] == [[0]] * 7


def test_a_score_of_an_untrained_name_is_as_good_as_its_threshold_says(tracker):
    tracks = follow(tracker, [[(50, 50, 0.1, "red kite")]] * 3)
    assert tracks[-1].ids.tolist() == [0]


def test_a_name_that_flickers_keeps_its_id(tracker):
    tracks = follow(tracker, [[(50, 50, 0.9, "dog" if t % 4 else "red kite")] for t in range(1, 20)])
    assert [track.ids.tolist() for track in tracks[1:]] == [[0 if t % 4 else -1] for t in range(2, 20)]
    assert tracker.counts == {"dog": 1}


def test_another_thing_in_the_same_place_is_another(tracker):
    """After a cut."""
    tracks = follow(tracker, [[(50, 50, 0.9, "dog")]] * 5 + [[(50, 50, 0.9, "red kite")]] * 5)
    assert (tracks[4].ids.tolist(), tracks[9].ids.tolist()) == ([0], [1])
    assert tracker.counts == {"dog": 1, "red kite": 1}


def test_things_of_long_ago_are_counted_and_forgotten():
    tracker = ObjectTracker(THRESHOLDS, rate=25, lost_seconds=0.0)
    for thing in range(10):
        for step in range(3):
            tracks = tracker.update(detections((10, 10, 0.9, NAMES[thing % 2])), thing + step / 25)
        assert tracks.ids.tolist() == [thing]
    assert tracker.counts == {"dog": 5, "red kite": 5} and len(tracker._ids) == len(tracker._trackers) == 1


def test_nothing_ever(tracker):
    assert all(len(track.ids) == 0 and track.rows() == [] for track in follow(tracker, [[]] * 4))
    assert tracker.counts == {}


def test_what_crosses_a_line_and_what_is_in_a_zone(tracker):
    counters = Counters(line=((0, 60), (160, 60)), zone=[(0, 0), (160, 0), (160, 60), (0, 60)])
    told = [
        counters.update(tracker.update(detections((50, y, 0.9, "dog")), number / 25))
        for number, y in enumerate(range(10, 90, 4))
    ]
    assert told[3]["in_zone"] == 1 and told[-1]["in_zone"] == 0
    assert told[3]["crossed"] == {"in": 0, "out": 0} and sum(told[-1]["crossed"].values()) == 1
    assert Counters().update(tracker.update(detections(), 10.0)) == {}


def frames_of(number: int, rate: float):
    for index in range(number):
        yield Frame(index / rate, np.full((*SIZE, 3), index % 250, np.uint8))


def moving(frames):
    for frame in frames:
        yield StreamedPhoto(frame, detections((10 + int(frame.rgb[0, 0, 0]), 40, 0.9, "dog")), frame.rgb)


@pytest.mark.parametrize("rate", [0.5, 24000 / 1001, 240])
def test_times_are_kept(tmp_path, rate):
    with writing_video(tmp_path / "clip.mp4", rate) as write:
        for seconds, frame in frames_of(12, rate):
            write(frame, seconds)
    video = Video.open(tmp_path / "clip.mp4")
    tracker = ObjectTracker(THRESHOLDS, rate=video.rate)
    done = track_video(moving(video.timed_frames()), tracker, tmp_path / "out/clip.mp4", rate=video.rate)
    assert done.frames == 12 and done.objects == {"dog": 1}
    rows = [json.loads(line) for line in done.lines.read_text().splitlines()]
    expected = np.arange(12) / rate
    assert np.allclose([row["seconds"] for row in rows], expected, atol=1e-3)
    assert [row["frame"] for row in rows] == list(range(12)) and rows[5]["detections"][0]["id"] == 0
    assert np.allclose([seconds for seconds, _ in Video.open(done.video).timed_frames()], expected, atol=1e-3)


@pytest.mark.slow
def test_what_is_on_disk_can_be_read_at_any_moment(tmp_path, tracker):
    """As a process leaves it that is killed at this moment."""
    kept = []

    def frames():
        for number, frame in enumerate(frames_of(80, 25)):
            if number in (40, 77):
                for suffix in ("mp4", "jsonl"):
                    shutil.copy(tmp_path / f"out.{suffix}", tmp_path / f"killed{number}.{suffix}")
                kept.append(number)
            yield frame

    track_video(moving(frames()), tracker, tmp_path / "out.mp4", rate=25)
    assert kept == [40, 77]
    for number in kept:
        rows = [json.loads(line) for line in (tmp_path / f"killed{number}.jsonl").read_text().splitlines()]
        assert [row["frame"] for row in rows] == list(range(number))
        shown = len(list(Video.open(tmp_path / f"killed{number}.mp4")))
        assert number - 27 <= shown <= number  # all but the last second
    assert len(list(Video.open(tmp_path / "out.mp4"))) == 80


def test_an_error_leaves_what_is_done(tmp_path, tracker):
    def frames():
        yield from frames_of(5, 25)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track_video(moving(frames()), tracker, tmp_path / "out.mp4", rate=25)
    assert len(list(Video.open(tmp_path / "out.mp4"))) == 5
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(InputError, match=r"expected trackers to be installed: pip install 'ovdet\[track\]'"):
        ObjectTracker(THRESHOLDS, rate=25, lost_seconds=0.4)
