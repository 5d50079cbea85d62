"""Downloads from a server that counts what it gives, stops in the middle, or is not there."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ovdet.download import download
from ovdet.errors import InputError

CONTENT = bytes(range(256)) * 500


@pytest.fixture
def server():
    """-> its address and the list of ranges that were asked for; `server.stops_after` ends an answer early."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            httpd.asked.append(asked)
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and httpd.takes_ranges else 0
            if self.path != "/file.bin" or begin > len(CONTENT):
                self.send_error(404 if self.path != "/file.bin" else 416)
                return
            self.send_response(206 if asked and httpd.takes_ranges else 200)
            self.send_header("Content-Length", str(len(CONTENT) - begin))
            self.end_headers()
            end = begin + httpd.stops_after if httpd.stops_after else None
            self.wfile.write(CONTENT[begin:end])

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.asked, httpd.stops_after, httpd.takes_ranges = [], 0, True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}/file.bin"
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def test_a_file_is_fetched_once(server, tmp_path):
    path = tmp_path / "deep/file.bin"
    digest = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        assert download(server.url, path, sha256=digest) == path and path.read_bytes() == CONTENT
    assert server.asked == [None] and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_a_stopped_download_goes_on(server, tmp_path, takes_ranges):
    server.stops_after, server.takes_ranges = 1000, takes_ranges
    with pytest.raises(InputError, match=f"{len(CONTENT):,} bytes.* got 1,000"):
        download(server.url, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    server.stops_after = 0
    assert download(server.url, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]


def test_a_file_that_became_shorter(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(bytes(len(CONTENT) + 1))
    with pytest.raises(InputError, match="changed"):
        download(server.url, tmp_path / "file.bin")
    assert download(server.url, tmp_path / "file.bin").read_bytes() == CONTENT


def test_another_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(InputError, match="sha256 00ff"):
        download(server.url, tmp_path / "file.bin", sha256="00ff")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file.bin", "file:///nowhere/file.bin", "nonsense", "404"])
def test_what_cannot_be_had_is_one_line(server, tmp_path, url):
    url = server.url.replace("file.bin", "other.bin") if url == "404" else url
    with pytest.raises(InputError) as error:
        download(url, tmp_path / "file.bin")
    assert url in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "file.bin").exists()


def test_files_of_this_machine(tmp_path):
    (tmp_path / "here.bin").write_bytes(CONTENT)
    assert download((tmp_path / "here.bin").as_uri(), tmp_path / "there.bin").read_bytes() == CONTENT
