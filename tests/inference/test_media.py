"""Videos are read as they were written: frames, colors, rates."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ovdet.inference import media
from ovdet.inference.media import USUAL_RATE, Video, is_video
from ovdet.inference.results import writing_video


def frames(number=8, size=(48, 64)):
    """Smooth pictures, each with a red square elsewhere: what compression leaves alone."""
    for step in range(number):
        frame = np.full((*size, 3), 60, dtype=np.uint8)
        frame[10:30, 4 + 4 * step : 24 + 4 * step] = (220, 40, 40)
        yield frame


def test_written_and_read_back(tmp_path):
    with writing_video(tmp_path / "new" / "clip.mp4", 12.5) as write:
        for frame in frames():
            write(frame)
    video = Video.open(tmp_path / "new" / "clip.mp4")
    assert (video.rate, video.num_frames) == (12.5, 8)
    read = list(video)
    assert len(read) == 8
    for got, expected in zip(read, frames(), strict=True):
        assert got.shape == expected.shape and got.dtype == np.uint8 and got.flags.c_contiguous
        assert np.abs(got.astype(int) - expected).mean() < 8  # red stays red: the order of channels is right
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["clip.mp4"]


@pytest.fixture
def avi(tmp_path):
    """Twenty noisy frames, each compressed by itself."""
    path, noise = tmp_path / "clip.AVI", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    for _ in range(20):
        writer.write(noise.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    writer.release()
    return path


def test_other_containers(avi):
    assert is_video(avi) and len(list(Video.open(avi))) == 20


def test_what_is_left_of_a_video_that_was_cut_off(avi):
    avi.write_bytes(avi.read_bytes()[: avi.stat().st_size * 2 // 3])
    video = Video.open(avi)
    assert video.num_frames == 20 and 10 <= len(list(video)) < 20


@pytest.mark.parametrize("rate", [0.0, 1e6, float("nan")])
def test_a_rate_that_is_none(tmp_path, monkeypatch, rate):
    (tmp_path / "clip.webm").write_bytes(b"whatever")
    values = {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: -1.0}
    odd = SimpleNamespace(isOpened=lambda: True, get=values.get, release=lambda: None)
    monkeypatch.setattr(media.cv2, "VideoCapture", lambda path: odd)
    video = Video.open(tmp_path / "clip.webm")
    assert (video.rate, video.num_frames) == (USUAL_RATE, None)
