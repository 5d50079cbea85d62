"""`ovdet track` as a user runs it: several videos, folders, addresses, and bad input."""

import functools
import http.server
import json
import threading

import cv2
import numpy as np
import pytest
import torch
from streaming import Streaming

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.cli.track import parse_points
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.media import Video
from ovdet.inference.photo import to_rgb
from ovdet.inference.video_writer import writing_video


class Spy(Streaming):
    """Finds a dog at the same place, and says what it was asked."""

    names, training_classes = ("dog", "red kite"), ("dog",)
    classes = ClassEmbeddings(torch.eye(2), torch.arange(2), names)
    asked: list = []

    def set_vocabulary(self, vocabulary, negatives):
        assert vocabulary.names == self.names

    def __call__(self, image, **shown):
        self.asked.append(shown)
        boxes = np.float32([[10, 10, 50, 50]])
        return Detections(boxes, np.float32([0.9]), np.array([0]), ("dog",), to_rgb(image).shape[:2])


@pytest.fixture
def track(ovdet, tmp_path, monkeypatch):
    monkeypatch.setattr("ovdet.inference.load.load_predictor", lambda **chosen: Spy())
    monkeypatch.setattr(Spy, "asked", [])

    def track(*words):
        return ovdet("track", *words, "--names", "dog, red kite", "--output", tmp_path / "out")

    return track


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        with writing_video(folder / name, 10) as write:
            for level in range(8):
                write(np.full((60, 80, 3), 20 * level, np.uint8))
    (folder / "notes.txt").write_text("no video")
    return folder


def test_a_folder_and_a_file(track, videos, tmp_path):
    code, out, err = track(videos, videos / "a.mp4", "--json", "--line", "0,0,5,5", "--zone", "0,0 60,0 60,60 0,60")
    assert code == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["frames"] for each in told] == [8, 8, 8] and told[0]["objects"] == {"dog": 1}
    assert told[0]["crossed"] == {"in": 0, "out": 0} and told[0]["in_zone"] == 1
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {f"{name}{suffix}" for name in ("a", "b", "a.mp4") for suffix in (".mp4", ".jsonl")}
    rows = [json.loads(line) for line in (tmp_path / "out/b.jsonl").read_text().splitlines()]
    assert [row["detections"][0]["id"] for row in rows] == [None, *[0] * 7] and rows[3]["in_zone"] == 1
    assert len(list(Video.open(tmp_path / "out/b.mp4"))) == 8
    assert Spy.asked[0]["threshold"] == {"dog": pytest.approx(0.15), "red kite": pytest.approx(0.15)}


def test_an_address(track, videos, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(videos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.mp4"
        code, out, err = track(address)
        server.shutdown()
    assert code == 0 and "out/a.mp4: 8 frames; 1 dog" in out, err


def test_a_camera_until_it_is_unplugged(track, videos, tmp_path, monkeypatch):
    """A file stands in for it. What came before is there, whole."""
    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: opened(str(videos / "a.mp4")))
    code, out, err = track(0)
    assert code == 2 and "camera 0, got none after 8 frames: unplugged?" in err.splitlines()[-1]
    rows = [json.loads(line) for line in (tmp_path / "out/camera_0.jsonl").read_text().splitlines()]
    assert 1 <= len(rows) == len(list(Video.open(tmp_path / "out/camera_0.mp4"))) <= 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("none.mp4",), "none.mp4, which is not a file"),
        (("configs",), "expected videos in configs"),
        (("0",), "expected camera 0 to answer"),
        (("x.mp4", "rtsp://127.0.0.1:9/door"), "x.mp4"),
        (("rtsp://127.0.0.1:9/door",), "which FFmpeg cannot read"),
        (("http://127.0.0.1:9/x.mp4",), "which FFmpeg cannot read"),
        (("README.md",), "expected a video, got README.md"),
        (("x.mp4", "--line", "1,2,3"), "--line"),
        (("x.mp4", "--zone", "1,2 3,4"), "--zone"),
        (("x.mp4", "--lost-seconds", "-1"), "--lost-seconds"),
        (("x.mp4", "--threshold", "2"), "--threshold"),
        (("",), "empty name"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(track, tmp_path, words, told):
    code, _, err = track(*words)
    assert code == 2 and told in err.splitlines()[-1] and "Traceback" not in err and not (tmp_path / "out").exists()


def test_points():
    assert parse_points("1,2,3.5,4", "--line", 2, 2) == ((1, 2), (3.5, 4)) == parse_points("1,2 3.5,4", "--line", 2, 2)
    assert parse_points(None, "--line", 2, 2) is None
    for wrong in ("", "a,b,c,d", "1,2,3,4,5,6", "nan,1,2,3", "inf,1,2,3"):
        with pytest.raises(InputError):
            parse_points(wrong, "--line", 2, 2)
