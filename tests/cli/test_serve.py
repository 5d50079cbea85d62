"""`ovdet serve` as a process, and what it says where it cannot serve."""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import uvicorn
from PIL import Image

from ovdet.cli import serve
from ovdet.inference import vocabulary_embedder
from ovdet.learning.classes_file import load_classes
from ovdet.text.embedder import NameEmbedder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def levels_as_before():
    """A server is a process of its own and leaves its loggers as they are; here other tests come after it."""
    before = vocabulary_embedder.logger.level
    yield
    vocabulary_embedder.logger.setLevel(before)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--port", "70000"), "0 to 65535"),
        (("--max-megabytes", "-1"), "--max-megabytes of 0 or more"),
        (("--rate", "nan"), "--rate of 0 or more, got nan"),
        (("--photos", "/nowhere"), "--photos to be a folder, got /nowhere"),
        (("--host", "256.1.1.1"), "cannot be had"),
        (("--port", "0", "--model", "nowhere"), "got nowhere"),
    ],
)
def test_bad_options_are_one_line(ovdet, words, told):
    code, _, err = ovdet("serve", *words)
    assert code == 2 and told in err.splitlines()[-1] and "Traceback" not in err


def test_a_port_that_is_taken(ovdet):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = ovdet("serve", "--port", taken.getsockname()[1])
    assert code == 2 and "free port" in err and err.count("\n") == 1


def test_without_the_packages_of_the_extra(ovdet, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = ovdet("serve", "--port", "0")
    assert code == 2 and "pip install 'ovdet[web]'" in err


def test_a_module_of_its_own_that_is_missing_is_a_fault(monkeypatch):
    """Not something that a user could install."""
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    monkeypatch.setitem(sys.modules, "ovdet.serving.app", None)
    with pytest.raises(ModuleNotFoundError, match="ovdet.serving.app"):
        serve.run(parser.parse_args(["--port", "0"]))


def test_what_is_served(ovdet, tiny_files, tmp_path, monkeypatch):
    """The address on stdout once it listens; the limits of the command line hold."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    def run(server, sockets):
        app = server.config.app
        thread = threading.Thread(target=real, args=(server,), kwargs={"sockets": sockets})
        thread.start()
        address = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        try:
            answers["health"] = json.loads(urllib.request.urlopen(f"{address}/health", timeout=60).read())
            request = urllib.request.Request(f"{address}/detect", b"x" * 200_000, {"Content-Type": "text/plain"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            answers["too long"] = refused.value.code
        finally:
            server.should_exit = True
            thread.join(60)
        assert app.title

    real, answers, warm = uvicorn.Server.run, {}, []
    monkeypatch.setattr(NameEmbedder, "warm_up", lambda embedder: warm.append(embedder))
    monkeypatch.setattr(vocabulary_embedder.logger, "setLevel", lambda level: None)  # is for the whole process
    monkeypatch.setattr(uvicorn.Server, "run", run)
    words = (
        "--port",
        "0",
        "--max-megabytes",
        "0.1",
        "--photos",
        tmp_path,
        *tiny_files.arguments,
        *tiny_files.overrides,
    )
    code, out, err = ovdet("serve", *words)
    assert code == 0, err
    assert re.fullmatch(r"http://localhost:\d+\n", out) and int(out.rpartition(":")[2]) > 0
    assert answers["health"]["status"] == "UP" and answers["health"]["model"] == tiny_files.arguments[3]
    assert answers["too long"] == 413 and len(warm) == 1, "the first who asks does not wait for the text encoder"


@pytest.fixture
def served(tmp_path):
    """The address of a server with the package's detector."""
    command = [sys.executable, "-m", "ovdet", "serve", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ})
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM, 143)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_person_at_the_page(served, tmp_path):
    """In a real browser: a sample photo, names, other names, thresholds, a photo of one's own, a mistake."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser_file = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_file is None:
        pytest.skip("no browser")
    photo = Path(pytest.importorskip("skimage").__file__).with_name("data") / "coffee.png"
    assert json.loads(urllib.request.urlopen(f"{served}/health").read())["status"] == "UP"
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        errors, elsewhere = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: elsewhere.append(request.url) if not _is_of(request.url, served) else None)
        page.goto(served)
        page.locator("img.sample").first.click()
        page.wait_for_selector("#rows td:has-text('cat')", timeout=120_000)
        assert "found" in page.inner_text("#said")
        # a name is hidden and shown again
        for shown in (0, 1):
            page.locator("#legend button:has-text('cat')").press("Enter")
            assert min(page.locator("#rows td:has-text('cat')").count(), 1) == shown
        # other names on the same photo
        page.fill("#names", "dog, tabby cat; kitten")
        page.wait_for_selector("#rows td:has-text('tabby cat')", timeout=120_000)
        # the slider filters without a request
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.uncheck("#auto")
        page.evaluate("threshold.value = 0.95; threshold.dispatchEvent(new Event('input'))")
        assert page.locator("#rows tr").count() == 0 and "nothing above" in page.inner_text("#said")
        page.click("#none button")  # the nearest
        assert page.locator("#rows tr").count() >= 1
        page.evaluate("threshold.value = 0.02; threshold.dispatchEvent(new Event('input'))")
        assert page.locator("#rows tr").count() >= 1 and not requests
        # a photo of one's own, and a download
        page.check("#auto")
        page.fill("#names", "cup; mug, saucer, spoon")
        page.set_input_files("#file", photo)
        page.wait_for_selector("#rows td:has-text('cup')", timeout=120_000)
        with page.expect_download() as download:
            page.click("#coco")
        content = json.loads(Path(download.value.path()).read_text())
        assert content["images"][0]["file_name"] == "coffee.png" and content["annotations"][0]["category_id"] == 1
        page.screenshot(path=tmp_path / "page.png")
        with page.expect_download() as download:
            page.click("#picture")
        assert download.value.suggested_filename == "coffee.boxes.png"
        with Image.open(download.value.path()) as picture, Image.open(photo) as before:
            assert picture.size == before.size
        _on_a_phone_at_night(page, tmp_path)
        # a mistake is told, and does not stay
        page.fill("#names", "cup, Cup")
        page.wait_for_selector("#said.error", timeout=60_000)
        assert "read alike" in page.inner_text("#said")
        page.fill("#names", "cup")
        page.wait_for_selector("#rows td:has-text('cup')", timeout=60_000)
        _teach(page, served, tmp_path)
        page.goto(f"{served}/docs")
        page.wait_for_selector("section:has-text('POST /detect')")
        browser.close()
    assert not errors and not elsewhere


def _is_of(address, served):
    """Whether a request stays with the server or in the page."""
    return address.startswith((f"{served}/", "data:", f"blob:{served}/"))


def _on_a_phone_at_night(page, tmp_path):
    """Nothing is wider than the screen; the page is dark where the system is."""
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", color)[:3])) < 64
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    page.set_viewport_size({"width": 1100, "height": 900})
    page.emulate_media(color_scheme="light")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_camera_at_the_page(served):
    """A browser's made-up camera: its picture becomes the photo; no camera is told."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser_file = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_file is None:
        pytest.skip("no browser")
    with playwright.sync_playwright() as play:
        options = dict(executable_path=browser_file, args=["--no-sandbox", "--use-fake-device-for-media-stream"])
        browser = play.chromium.launch(**options)
        page = browser.new_context(permissions=["camera"]).new_page()
        page.goto(served)
        page.click("#camera")
        page.wait_for_selector("#shutter")
        _wait_for(page, "live.videoWidth > 0")
        page.click("#shutter")
        page.wait_for_selector("#said:has-text('threshold'), #said:has-text('found')", timeout=120_000)
        assert page.is_hidden("#live") and page.is_visible("#canvas")
        assert "camera.jpg" in page.get_attribute("#canvas", "aria-label")
        page = browser.new_context().new_page()  # asks nobody, so it is refused
        page.goto(served)
        page.click("#camera")
        page.wait_for_selector("#said.error:has-text('no camera')")
        browser.close()


def _teach(page, served, tmp_path):
    """Draw a box on the photo, find more like it, save the class, load it again, look for a name's nearest regions."""
    page.click("#teach summary")
    page.fill("#newname", "silver spoon")
    frame = page.locator("#canvas").bounding_box()
    scale = frame["width"] / 600  # the photo's
    corners = [(frame["x"] + x * scale, frame["y"] + y * scale) for x, y in ((318, 226), (410, 332))]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=3)
    page.mouse.up()
    assert "silver spoon: coffee.png" in page.inner_text("#boxes li")
    page.click("#learn")
    page.wait_for_selector("#rows td:has-text('silver spoon')", timeout=120_000)
    assert page.inner_text("#learned") == "learned: silver spoon" and page.locator("#rows td:has-text('cup')").count()
    page.screenshot(path=tmp_path / "taught.png", full_page=True)
    with page.expect_download() as download:
        page.click("#keep")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert load_classes(file).names == ("silver spoon",)
    # other names: the network does not look at the photo again
    looked = _count(served, "ovdet_photos_total")
    page.fill("#names", "cup, plate")
    _wait_for(page, "answer.names.some(each => each.name === 'plate')")
    assert _count(served, "ovdet_photos_total") == looked
    # forget, and load from the file
    page.click("#forget")
    _wait_for(page, "!answer.names.some(each => each.name === 'silver spoon')")
    page.set_input_files("#load", file)
    page.wait_for_selector("#rows td:has-text('silver spoon')", timeout=60_000)
    # which regions are near a name
    page.fill("#names", "handle")
    page.check("#nearest")
    page.wait_for_selector("#said:has-text('nearest regions')", timeout=60_000)
    page.wait_for_selector("#rows td:has-text('handle')", timeout=60_000)
    assert page.locator("#rows tr").count() == 5 and _count(served, "ovdet_photos_total") == looked
    # and a file that is none
    page.uncheck("#nearest")
    page.set_input_files("#load", ROOT / "README.md")
    page.wait_for_selector("#said.error", timeout=60_000)
    assert "what was sent is damaged" in page.inner_text("#said")


def _wait_for(page, expression):
    """The page's policy lets nobody evaluate texts in it, so `wait_for_function` cannot."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(expression)


def _count(served, name):
    lines = urllib.request.urlopen(f"{served}/metrics").read().decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
