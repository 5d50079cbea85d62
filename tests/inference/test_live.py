"""Cameras and streams: the newest frame each time, and one line where there is no picture (any more)."""

import contextlib
import functools
import http.server
import re
import socket
import socketserver
import threading
import time

import av
import cv2
import numpy as np
import pytest

from ovdet.errors import InputError
from ovdet.inference import media
from ovdet.inference.live import Camera, newest
from ovdet.inference.media import Video, find_videos
from ovdet.inference.video_writer import writing_video

RATE, FRAMES = 10, 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Frames that grow brighter: 20 levels each."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with writing_video(path, RATE) as write:
        for number in range(FRAMES):
            write(np.full((48, 64, 3), 20 * number, np.uint8))
    return path


def test_the_newest_item_and_the_last_one():
    taken, came = threading.Event(), threading.Event()

    def source():
        yield 0
        taken.wait(10)
        yield from range(1, 100)
        came.set()

    items = newest(source())
    assert next(items) == 0
    taken.set()
    assert came.wait(10) and list(items) == [99]
    assert list(newest(iter([]))) == []


def test_what_a_source_raises_comes_behind_its_last_item():
    def source():
        yield 1
        raise InputError("expected more, got none")

    items = newest(source())
    assert next(items) == 1
    with pytest.raises(InputError, match="expected more"):
        next(items)


def test_a_source_is_closed_when_nobody_asks_any_more():
    closed = threading.Event()

    def source():
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            closed.set()

    items = newest(source())
    next(items)
    items.close()
    assert closed.wait(10)


@pytest.fixture
def plugged_in(monkeypatch, clip):
    """The clip stands in for camera 0, slowly, and then is unplugged; there is no other camera."""

    class Capture:
        opened = cv2.VideoCapture

        def __init__(self, number):
            self.file = Capture.opened(str(clip) if number == 0 else "")

        def __getattr__(self, name):
            return getattr(self.file, name)

        def read(self):
            time.sleep(0.01)
            return self.file.read()

    monkeypatch.setattr(cv2, "VideoCapture", Capture)


def test_a_camera(plugged_in):
    (camera,) = find_videos(["0"])
    assert (camera.name, str(camera.path), camera.rate, camera.num_frames) == ("camera 0", "camera_0", RATE, None)
    seen = []
    with pytest.raises(InputError, match=f"camera 0, got none after {FRAMES} frames"):
        for seconds, frame in camera.timed_frames():
            seen.append((seconds, int(frame.mean())))
    assert frame.shape == (48, 64, 3) and frame.flags.c_contiguous and seen[-1][1] == pytest.approx(220, abs=3)
    assert seen[0][0] == 0 and seen == sorted(seen) and 0.05 < seen[-1][0] < 5


def test_no_camera(plugged_in, capfd):
    with pytest.raises(InputError, match="expected camera 7 to answer"):
        find_videos(["7"])
    with pytest.raises(InputError, match="expected camera 3 to answer"):
        next(Camera(3, 25.0).timed_frames())
    assert capfd.readouterr().err == ""


class RtspServer(socketserver.ThreadingTCPServer):
    """Serves a clip over RTSP (RFC 2326), as MPEG-TS in RTP (RFC 2250) on the same connection, once to each client.

    With `goes_silent` it does not hang up behind the last packet, and sends no more.
    """

    allow_reuse_address = daemon_threads = True

    def __init__(self, clip, folder, *, goes_silent=False):
        super().__init__(("127.0.0.1", 0), _Rtsp)
        self.packets, self.goes_silent = _transport_stream(clip, folder / "clip.ts"), goes_silent
        self.address = f"rtsp://127.0.0.1:{self.server_address[1]}/door"


def _transport_stream(clip, path) -> list[bytes]:
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = path.read_bytes()
    return [content[start : start + 7 * 188] for start in range(0, len(content), 7 * 188)]


class _Rtsp(socketserver.StreamRequestHandler):
    def handle(self):
        with contextlib.suppress(OSError):
            while request := self._request():
                self._answer(*request)

    def _request(self):
        lines = []
        while (line := self.rfile.readline().strip()) or not lines:
            if not line:
                return None
            lines.append(line.decode())
        return lines[0].split()[0], "\r\n".join(lines)

    def _answer(self, method, text):
        number = re.search(r"CSeq: (\d+)", text)[1]
        code, more, body = "200 OK", "Session: 1\r\n", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=door\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:video\r\n"
            more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP" and "RTP/AVP/TCP" in text:
            more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        elif method == "SETUP":
            code = "461 Unsupported Transport"
        self.wfile.write(f"RTSP/1.0 {code}\r\nCSeq: {number}\r\n{more}\r\n{body}".encode())
        if method == "PLAY":
            for place, packet in enumerate(self.server.packets):
                header = b"\x80\x21" + place.to_bytes(2, "big") + (place * 900).to_bytes(4, "big") + bytes(4)
                self.wfile.write(b"$\x00" + (len(header) + len(packet)).to_bytes(2, "big") + header + packet)
            if not self.server.goes_silent:
                self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def rtsp(clip, tmp_path):
    servers = []

    def rtsp(**options) -> str:
        servers.append(RtspServer(clip, tmp_path, **options))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1].address

    yield rtsp
    for server in servers:
        server.shutdown()
        server.server_close()


def test_rtsp(rtsp):
    (video,) = find_videos([rtsp()])
    assert video.is_live and str(video.path) == "door" and video.num_frames is None
    seen = [(seconds, int(frame.mean())) for seconds, frame in video.timed_frames()]
    assert seen == sorted(seen) and seen[-1][1] == pytest.approx(220, abs=3)
    assert seen[-1][0] == pytest.approx((FRAMES - 1) / RATE, abs=0.02)  # by the stream's own time stamps


@pytest.mark.slow
def test_a_stream_that_goes_silent(rtsp, monkeypatch):
    monkeypatch.setattr(media, "_PATIENCE", (3.0, 0.5))
    seen = []
    with pytest.raises(InputError, match="expected the rest of rtsp://127.0.0.1"):
        seen.extend(frame for _, frame in find_videos([rtsp(goes_silent=True)])[0].timed_frames())
    assert seen


def test_a_file_at_an_address_is_not_live(clip):
    assert not Video.open(clip).is_live
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(clip.parent))
    handler.log_message = lambda *more: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        (video,) = find_videos([f"http://127.0.0.1:{server.server_port}/clip.mp4"])
        assert not video.is_live and len(list(video)) == FRAMES  # all of them
        server.shutdown()
