"""Ids that things keep from frame to frame of a video: ByteTrack (arXiv:2110.06864) by roboflow's trackers.

Shape letters: R detections of one frame.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ovdet.errors import InputError
from ovdet.files import make_folder
from ovdet.inference.detections import Detections
from ovdet.inference.draw import draw_detections
from ovdet.inference.stream import StreamedPhoto
from ovdet.inference.video_writer import growing_video

_LOW_SHARE = 0.5  # of a name's threshold: so weak detections go on with a track, but begin none
_MIDDLE = 0.5  # where a name's threshold lies on the scale that the tracker sees


@dataclass(frozen=True)
class Tracks:
    """One frame's detections with ids.

    Attributes:
        detections: best first.
        ids: (R,) int, from 0 on, the same for the same thing; -1 before it was seen twice in a row.
    """

    detections: Detections
    ids: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """Plain values: as of Detections, and "id", None where there is none yet."""
        ids = self.ids.tolist()
        return [{**row, "id": None if number < 0 else number} for row, number in zip(self.detections, ids, strict=True)]


class ObjectTracker:
    """Gives ids to one video's detections, frame by frame. Things of a name are followed among themselves.

    So an id has one name, and what is called something else for a frame keeps its id.
    """

    def __init__(self, thresholds: Mapping[str, float], *, rate: float, lost_seconds: float = 1.0) -> None:
        """
        Args:
            thresholds: lowest score of each name that begins a track; scores of names differ too much for one.
            rate: frames per second, in the mean.
            lost_seconds: how long something may be out of sight and keep its id; at least until the next frame.

        Raises:
            InputError: the package is not installed.
        """
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise InputError("expected trackers to be installed: pip install 'ovdet[track]'") from error
        self.thresholds = dict(thresholds)
        self.counts: Counter[str] = Counter()  # of things of each name that got an id
        self._new_tracker = partial(
            ByteTrackTracker,
            lost_track_buffer=math.ceil(30 * max(lost_seconds, 1.5 / rate)),  # it counts in thirtieths of a second
            frame_rate=rate,
            track_activation_threshold=_MIDDLE,
            high_conf_det_threshold=_MIDDLE,
            minimum_consecutive_frames=2,
        )
        self._trackers: dict[str, Any] = {}  # of the names that something is followed of
        self._ids: dict[tuple[str, int], int] = {}  # of a name and its tracker's own id, of what is followed

    def wanted(self) -> dict[str, float]:
        """Thresholds to detect with: lower than those that begin a track."""
        return {name: _LOW_SHARE * threshold for name, threshold in self.thresholds.items()}

    def update(self, found: Detections, seconds: float) -> Tracks:
        """The next frame's detections, all that `wanted` lets through.

        Args:
            found: of the frame.
            seconds: when it is shown; later than the frame before.
        """
        given = found.to_supervision()
        given.mask = None
        given.confidence = np.array([self._scaled(*each) for each in zip(found.scores, found.labels, strict=True)])
        given.data["place"] = np.arange(len(found))
        ids, labels = np.full(len(found), -1), np.array(found.labels, dtype=object)
        for name in dict.fromkeys([*self._trackers, *found.labels]):
            tracker = self._trackers.setdefault(name, None) or self._new_tracker()
            tracked = tracker.update(given[labels == name], timestamp=seconds)
            for place, local in zip(tracked.data.get("place", ()), tracked.tracker_id, strict=True):
                ids[place] = self._id_of(name, int(local))
            self._trackers[name] = tracker
        self._forget()
        return _taken(found, ids, np.flatnonzero((ids >= 0) | (given.confidence >= _MIDDLE)))

    def _id_of(self, name: str, local: int) -> int:
        if local < 0:
            return -1
        if (name, local) not in self._ids:
            self._ids[name, local] = self.counts.total()
            self.counts[name] += 1
        return self._ids[name, local]

    def _forget(self) -> None:
        """Drop trackers and ids whose tracks have ended."""
        self._trackers = {name: tracker for name, tracker in self._trackers.items() if tracker.tracks}
        alive = {(name, track.tracker_id) for name, tracker in self._trackers.items() for track in tracker.tracks}
        self._ids = {key: number for key, number in self._ids.items() if key in alive}

    def _scaled(self, score: float, label: str) -> float:
        """A score on one scale for all names: its name's threshold lies in the middle, 0 and 1 stay."""
        threshold = min(max(self.thresholds[label], 1e-6), 1 - 1e-6)
        if score < threshold:
            return float(_MIDDLE * score / threshold)
        return float(_MIDDLE + (1 - _MIDDLE) * (score - threshold) / (1 - threshold))


def _taken(found: Detections, ids: np.ndarray, places: np.ndarray) -> Tracks:
    kept = replace(
        found,
        boxes=found.boxes[places],
        scores=found.scores[places],
        class_ids=found.class_ids[places],
        labels=tuple(found.labels[place] for place in places),
        masks=None,
    )
    return Tracks(kept, ids[places])


@dataclass
class Counters:
    """Crossings of a line, and what is in a zone; both by supervision.

    Attributes:
        line: ((x1, y1), (x2, y2)) in pixels, or None.
        zone: corners (x, y) of a polygon in pixels, or None.
    """

    line: tuple[tuple[float, float], tuple[float, float]] | None = None
    zone: Sequence[tuple[float, float]] | None = None
    _parts: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        import supervision

        if self.line is not None:
            start, end = (supervision.Point(*point) for point in self.line)
            anchors = [supervision.Position.CENTER]
            self._parts["line"] = supervision.LineZone(start=start, end=end, triggering_anchors=anchors)
        if self.zone is not None:
            anchors = [supervision.Position.CENTER]
            polygon = np.array(self.zone, dtype=np.int64)
            self._parts["zone"] = supervision.PolygonZone(polygon=polygon, triggering_anchors=anchors)

    def update(self, tracks: Tracks) -> dict[str, Any]:
        """The counts after a frame: {"crossed": {"in", "out"}, "in_zone"}, of what there is."""
        given = tracks.detections.to_supervision()
        given.tracker_id = tracks.ids
        told: dict[str, Any] = {}
        if "line" in self._parts:
            line = self._parts["line"]
            line.trigger(given)
            told["crossed"] = {"in": int(line.in_count), "out": int(line.out_count)}
        if "zone" in self._parts:
            told["in_zone"] = int(self._parts["zone"].trigger(given).sum())
        return told


@dataclass(frozen=True)
class TrackedVideo:
    """The result of `track_video`: its files and counts.

    Attributes:
        video: the file with boxes and ids.
        lines: the file with a JSON line a frame.
        frames: how many.
        objects: how many things of each name got an id.
        counted: of line and zone, after the last frame.
    """

    video: Path
    lines: Path
    frames: int
    objects: dict[str, int]
    counted: dict[str, Any]


def track_video(
    photos: Iterable[StreamedPhoto],
    tracker: ObjectTracker,
    video: Path,
    *,
    rate: float,
    counters: Counters | None = None,
) -> TrackedVideo:
    """Follow things through a video; write it with boxes and ids, and a JSON line a frame beside it.

    Both files grow frame by frame: of a process that is killed, they hold what was done and can be read. Memory does
    not grow with the length.

    Args:
        photos: frames and what is on them with the thresholds that `tracker.wanted()` says, see
            `OpenVocabPredictor.stream`.
        tracker: of this video alone.
        video: the .mp4 to write; lines go to the same name with .jsonl.
        rate: frames per second, in the mean.
        counters: of a line or a zone.

    Raises:
        InputError: no frame can be read, or the place cannot be written to.
    """
    lines, done, counted = video.with_suffix(".jsonl"), 0, {}
    make_folder(video.parent)
    with open(lines, "wb", buffering=0) as stream, growing_video(video, rate) as write:
        for photo in photos:
            found, seconds = photo.detections, photo.source.seconds
            tracks = tracker.update(found, seconds)
            counted = {} if counters is None else counters.update(tracks)
            height, width = found.size
            row = {"frame": done, "seconds": round(seconds, 4), "width": width, "height": height}
            text = json.dumps({**row, **counted, "detections": tracks.rows()}, ensure_ascii=False)
            stream.write(text.encode(errors="backslashreplace") + b"\n")  # in one piece
            write(_draw(photo.rgb(), tracks, tuple(tracker.thresholds)), seconds)
            done += 1
    return TrackedVideo(video, lines, done, dict(tracker.counts), counted)


def _draw(frame: np.ndarray, tracks: Tracks, names: Sequence[str]) -> np.ndarray:
    """Draw the detections that have an id."""
    there = np.flatnonzero(tracks.ids >= 0)
    found, labels = tracks.detections, [tracks.detections.labels[place] for place in there]
    shown = (found.boxes[there], labels, found.scores[there])
    return draw_detections(frame, *shown, names=names, ids=tracks.ids[there].tolist())
