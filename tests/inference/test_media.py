"""Videos are read as they were written: frames, colors, rates."""

from __future__ import annotations

import struct
from fractions import Fraction
from types import SimpleNamespace
from unittest.mock import MagicMock

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from ovdet.errors import InputError
from ovdet.inference import media
from ovdet.inference.media import USUAL_RATE, Video, find_inputs, is_video
from ovdet.inference.video_writer import writing_video


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


@pytest.mark.parametrize("rate", [None, Fraction(0), Fraction(10**6)])
def test_a_rate_that_is_none(tmp_path, monkeypatch, rate):
    (tmp_path / "clip.webm").write_bytes(b"whatever")
    stream = SimpleNamespace(average_rate=rate, frames=0)
    container = MagicMock(streams=SimpleNamespace(video=[stream]))
    monkeypatch.setattr(media.av, "open", lambda path, **options: container)
    video = Video.open(tmp_path / "clip.webm")
    assert (video.rate, video.num_frames) == (USUAL_RATE, None)


@pytest.mark.parametrize("rate", [0.5, 23.976, 240])
def test_slow_and_fast_rates_keep_their_time(tmp_path, rate):
    with writing_video(tmp_path / "clip.mp4", rate) as write:
        for frame in frames(6):
            write(frame)
    video = Video.open(tmp_path / "clip.mp4")
    assert video.rate == pytest.approx(rate, rel=1e-3)
    times = [seconds for seconds, _ in video.timed_frames()]
    assert times == pytest.approx([number / rate for number in range(6)], abs=1e-4)


def test_variable_rates_are_kept_by_their_time_stamps(tmp_path):
    shown = [0, 0.04, 0.5, 0.54, 2.0]
    with writing_video(tmp_path / "clip.mp4", 25) as write:
        for seconds, frame in zip(shown, frames(5), strict=True):
            write(frame, seconds)
    assert [seconds for seconds, _ in Video.open(tmp_path / "clip.mp4").timed_frames()] == pytest.approx(
        shown, abs=1e-4
    )


@pytest.mark.parametrize("suffix", [".3gp", ".wmv", ".mpg", ".ts", ".flv", ".mov", ".mkv", ".webm"])
def test_containers_of_many_kinds(tmp_path, suffix):
    codec = {".wmv": "wmv2", ".mpg": "mpeg1video", ".webm": "libvpx"}.get(suffix, "mpeg4")
    codec = "flv1" if suffix == ".flv" else codec
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv" if codec == "flv1" else codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    assert find_inputs([str(path)])[1] == [Video.open(path)]
    assert [frame.shape for frame in Video.open(path)] == [(48, 64, 3)] * 5


def test_a_phone_s_video_is_turned_upright(tmp_path):
    """The display matrix of an MP4, of a quarter turn, written into its header."""
    path = tmp_path / "clip.mp4"
    with writing_video(path, 25) as write:
        for frame in frames(2):
            write(frame)
    content = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)  # clockwise
    at = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:at] + turned + content[at + 36 :])
    first = next(iter(Video.open(path)))
    assert first.shape == (64, 48, 3) and first[4:24, 18:38, 0].mean() > 150 > 100 > first[30:, :, 0].mean()


def test_several_inputs_at_once(tmp_path):
    with writing_video(tmp_path / "clip.mp4", 25) as write:
        write(next(frames()))
    (tmp_path / "photos").mkdir()
    for name in ("photos/b.png", "photos/a.png", "c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    images, videos = find_inputs([str(tmp_path / each) for each in ("clip.mp4", "photos", "c.png")])
    assert [image.name for image in images] == ["a.png", "b.png", "c.png"] and len(videos) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("0", "got a camera: 0"), ("https://a.org/b.jpg", "got an address: https://a.org/b.jpg"),
        ("rtsp://10.0.0.1/x", "address"), ("none.jpg", "none.jpg does not exist"), ("none.mp4", "none.mp4"),
        ("", "empty"),
    ],
)  # fmt: skip
def test_inputs_that_are_none(tmp_path, path, message):
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    with pytest.raises(InputError, match=message):
        find_inputs([str(tmp_path / "good.png"), path])
