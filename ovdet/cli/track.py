"""Follow things through videos: boxes with ids that last, an MP4 and a JSON line a frame, both whole when interrupted.

ovdet track clip.mp4 --names "person, red car"
ovdet track a.mp4 videos --names names.txt --line 0,300,640,300 --output output/track
ovdet track 0 --names person
ovdet track rtsp://10.0.0.7/stream --names "person, parcel" --output output/door
ovdet track https://example.org/street.mp4 --names "bus; coach" --zone "10,10 300,10 300,200"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovdet.cli.arguments import add_json_argument, say
from ovdet.cli.detect import (
    add_limit_arguments,
    add_name_arguments,
    add_predictor_arguments,
    checked_limits,
    predictor_for,
)
from ovdet.errors import InputError
from ovdet.files import check_place

if TYPE_CHECKING:
    from ovdet.inference.live import Camera
    from ovdet.inference.media import Video
    from ovdet.inference.predictor import OpenVocabPredictor
    from ovdet.inference.stream import StreamedPhoto
    from ovdet.inference.tiles import TiledPredictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "files, folders of them, addresses (rtsp://, http://), a camera's number; Ctrl-C ends what is live"
    add("videos", nargs="+", metavar="VIDEO|FOLDER|URL|0", help=what)
    add("--output", default="output/track", metavar="DIR", help="for NAME.mp4 and NAME.jsonl (default: %(default)s)")
    add_name_arguments(parser)
    add_predictor_arguments(parser)
    add_limit_arguments(parser)
    lost = "how long something may be out of sight and keep its id (default: %(default)s)"
    add("--lost-seconds", type=float, default=1.0, metavar="S", help=lost)
    add("--line", metavar="x1,y1,x2,y2", help="count what crosses a line, in pixels")
    add("--zone", metavar='"x,y x,y x,y"', help="count what is in a polygon, in pixels")
    add("--set", dest="overrides", nargs="+", default=[], metavar="key=value", help="overrides of the config")
    add_json_argument(parser, "a line for each video")


def run(arguments: argparse.Namespace) -> None:
    from ovdet.inference.media import find_videos
    from ovdet.inference.results import free_path
    from ovdet.inference.shown import thresholds_of
    from ovdet.inference.tracking import Counters, ObjectTracker, track_video
    from ovdet.progress import track

    limits, output = checked_limits(arguments), Path(check_place(arguments.output, is_folder=True))
    if not 0 <= arguments.lost_seconds <= 3600:
        raise InputError(f"expected --lost-seconds between 0 and 3600, got {arguments.lost_seconds}")
    line, zone = parse_points(arguments.line, "--line", 2, 2), parse_points(arguments.zone, "--zone", 3, 1000)
    videos = find_videos(arguments.videos)
    predictor = predictor_for(arguments, arguments.overrides)
    lowest = thresholds_of(predictor.classes, limits["threshold"]).tolist()
    thresholds = dict(zip(predictor.names, lowest, strict=True))
    taken = {video.path.resolve() for video in videos}
    for video in videos:
        tracker = ObjectTracker(thresholds, rate=video.rate, lost_seconds=arguments.lost_seconds)
        path = free_path(output, video.path, ".mp4", taken)
        taken.add(path.resolve())
        counters = Counters(line, zone) if line or zone else None
        wanted = {**limits, "threshold": tracker.wanted()}
        with closing(_detect(predictor, video, wanted, arguments.batch_size)) as photos:
            shown = track(photos, "tracking", total=video.num_frames)
            done = track_video(shown, tracker, path, rate=video.rate, counters=counters)
        most = ", ".join(f"{number} {name}" for name, number in done.objects.items()) or "nothing"
        crossed = done.counted.get("crossed")
        told = f"; crossed the line: {crossed['in']} in, {crossed['out']} out" if crossed else ""
        text = f"{done.video}: {done.frames} frame{'' if done.frames == 1 else 's'}; {most}{told}"
        values = {"video": video.name, "output": str(done.video), "lines": str(done.lines), "frames": done.frames}
        say(arguments, text, {**values, "objects": done.objects, **done.counted})


def _detect(
    predictor: OpenVocabPredictor | TiledPredictor, video: Video | Camera, limits: dict[str, Any], batch_size: int
) -> Iterator[StreamedPhoto]:
    """A video's frames and what is on them; of a live one none is read ahead, as it would be old by then."""
    from ovdet.inference.stream import StreamedPhoto

    if not video.is_live:
        return predictor.stream(video, batch_size=batch_size, **limits)
    return (StreamedPhoto(frame, predictor(frame, **limits), frame.rgb) for frame in video.timed_frames())


def parse_points(text: str | None, option: str, least: int, most: int) -> tuple[tuple[float, float], ...] | None:
    """ "1,2,3,4" or "1,2 3,4" -> ((1, 2), (3, 4)).

    Raises:
        InputError: something else, or too few or too many.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    points = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    if len(numbers) % 2 or not least <= len(points) <= most or not all(abs(number) < 1e6 for number in numbers):
        more = "" if most == least else " or more"
        raise InputError(f"expected {option} as {least} points{more}, x,y x,y ..., got {text!r}")
    return points
