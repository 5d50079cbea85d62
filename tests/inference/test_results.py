"""Detections as files: pictures, videos and detections.json, which are whole or not there."""

from __future__ import annotations

import json
import os
import resource
import signal
from functools import partial

import numpy as np
import pytest
from PIL import Image
from streaming import stream_of

from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.draw import draw_detections
from ovdet.inference.media import Video
from ovdet.inference.photo import to_rgb
from ovdet.inference.results import write_results, write_video
from ovdet.inference.video_writer import writing_video

FRAME = np.full((48, 64, 3), 60, dtype=np.uint8)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def video(tmp_path):
    """Ten frames in half a second, 121 x 90 (which MPEG-4 rounds up): gray, ever lighter."""
    path = tmp_path / "clip.mp4"
    with writing_video(path, 20) as write:
        for level in range(20, 220, 20):
            write(np.full((90, 121, 3), level, dtype=np.uint8))
    return path


def nothing(size) -> Detections:
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (), size)


def test_masks_are_drawn_and_not_kept(photo, tmp_path):
    mask = np.zeros((1, 90, 120), dtype=bool)
    mask[:, 20:70, 30:90] = True
    found = Detections(np.float32([[30, 20, 90, 70]]), np.float32([0.9]), np.int64([0]), ("wheel",), (90, 120), mask)
    results = list(write_results(partial(stream_of, lambda photo: found), [photo, photo], tmp_path / "out"))
    assert [path.name for _, path, _ in results] == ["photo.png", "photo.png.png"]
    assert all(kept.masks is None and list(kept) == list(found) for _, _, kept in results)
    expected = draw_detections(to_rgb(photo), found.boxes, found.labels, found.scores, mask)
    assert all(np.array_equal(np.asarray(Image.open(path)), expected) for _, path, _ in results)


def test_the_detector_gets_red_as_red(tmp_path):
    given = []

    def detect(photo):
        given.append(photo[5, 5].tolist())
        return nothing(photo.shape[:2])

    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 250
    Image.fromarray(red).save(tmp_path / "red.png")
    list(write_results(partial(stream_of, detect), [tmp_path / "red.png"], tmp_path / "out"))
    with writing_video(tmp_path / "red.mp4", 10) as write:
        write(red)
    video = Video.open(tmp_path / "red.mp4")
    write_video(stream_of(detect, video), video, tmp_path / "out")
    assert len(given) == 2 and all(pixel[0] > 230 and max(pixel[1:]) < 20 for pixel in given)


def test_an_interruption_keeps_what_is_done(photo, tmp_path):
    done = []

    def detect(image):
        if done:
            raise KeyboardInterrupt
        done.append(image)
        return nothing(image.shape[:2])

    with pytest.raises(KeyboardInterrupt):
        list(write_results(partial(stream_of, detect), [photo, photo], tmp_path / "out"))
    assert len(json.loads((tmp_path / "out/detections.json").read_text())) == 1


def test_each_photo_that_is_left_out_is_named(photo, tmp_path, capsys):
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(b"")
    photos = [tmp_path / "a.png", photo, tmp_path / "c.png"]
    results = write_results(partial(stream_of, lambda image: nothing(image.shape[:2])), photos, tmp_path / "out")
    with pytest.raises(InputError, match=r"a.png is empty .*\(1 more like it\) \(done: 1\)"):
        list(results)
    err = capsys.readouterr().err
    assert "left out: " in err and "a.png is empty" in err and "c.png is empty" in err


def test_a_name_that_is_not_utf8(photo, tmp_path):
    """Of an old archive: json has an escape for it, and gives it back."""
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        odd.write_bytes(photo.read_bytes())
    except OSError:
        pytest.skip("this file system knows UTF-8 alone")
    list(write_results(partial(stream_of, lambda image: nothing(image.shape[:2])), [odd], tmp_path / "out"))
    (row,) = json.loads((tmp_path / "out/detections.json").read_bytes())
    assert row["image"] == str(odd)


def test_a_video_beside_itself_is_kept(video, tmp_path):
    before = video.read_bytes()
    found = Detections(np.float32([[30, 20, 90, 70]]), np.float32([0.9]), np.int64([0]), ("wheel",), (90, 122))
    photos = stream_of(lambda frame: found, Video.open(video))
    path, frames, frames_with = write_video(photos, Video.open(video), tmp_path, names=("cat", "wheel"))
    assert path.name == "clip.mp4.mp4" and (frames, frames_with) == (10, {"wheel": 10})
    assert video.read_bytes() == before


@pytest.mark.parametrize(("error", "left"), [(KeyboardInterrupt, 4), (SystemExit, 4), (RuntimeError, 0)])
def test_a_video_that_is_interrupted_leaves_what_is_done(video, tmp_path, error, left):
    frames = []

    def detect(frame):
        frames.append(frame)
        if len(frames) >= 5:
            raise error
        return nothing(frame.shape[:2])

    with pytest.raises(error):
        write_video(stream_of(detect, Video.open(video)), Video.open(video), tmp_path / "out")
    assert len(list(tmp_path.glob("out/*"))) == (2 if left else 0)
    if left:
        assert len(list(Video.open(tmp_path / "out/clip.mp4"))) == left
        assert len(json.loads((tmp_path / "out/detections.json").read_text())) == left


def test_odd_sizes_are_padded_by_their_edge(tmp_path):
    with writing_video(tmp_path / "clip.mp4", 25) as write:
        write(np.full((47, 63, 3), 200, dtype=np.uint8))
    (frame,) = Video.open(tmp_path / "clip.mp4")
    assert frame.shape == (48, 64, 3) and np.abs(frame.astype(int) - 200).max() < 8


def test_what_fails_leaves_the_older_file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError), writing_video(path, 25) as write:
        write(FRAME)
        raise RuntimeError
    assert path.read_bytes() == b"older" and [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_full_disk(tmp_path):
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"expected a place .*clip\.mp4"):
            with writing_video(tmp_path / "clip.mp4", 25) as write:
                for _ in range(8):
                    write(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="expected a place"),
        writing_video(tmp_path / "file" / "clip.mp4", 25) as write,
    ):
        write(FRAME)


def test_a_video_without_frames(tmp_path):
    with pytest.raises(InputError, match="expected a place"), writing_video(tmp_path / "clip.mp4", 25):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [119.883, 239.834, 66.667, 29.97, 500.555, 655.36])
def test_rates_of_slow_motion_and_of_averages(tmp_path, rate):
    with writing_video(tmp_path / "clip.mp4", rate) as write:
        for _ in range(60):
            write(np.zeros((48, 64, 3), np.uint8))
    assert Video.open(tmp_path / "clip.mp4").rate == pytest.approx(rate, abs=0.05)
