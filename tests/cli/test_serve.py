"""`ovdet serve` as a process, and what it says where it cannot serve."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--port", "70000"), "0 to 65535"),
        (("--max-megabytes", "-1"), "--max-megabytes of 0 or more"),
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


@pytest.fixture
def served(tmp_path):
    """The address of a server with the package's detector."""
    command = [sys.executable, "-m", "ovdet", "serve", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ})
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM, 143)


@pytest.mark.slow
def test_a_person_at_the_page(served, tmp_path):
    """In a real browser: a sample photo, names, other names, thresholds, a photo of one's own, a mistake."""
    playwright = pytest.importorskip("playwright.sync_api")
    import shutil

    browser_file = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_file is None:
        pytest.skip("no browser")
    photo = Path(pytest.importorskip("skimage").__file__).with_name("data") / "coffee.png"
    assert json.loads(urllib.request.urlopen(f"{served}/health").read())["status"] == "UP"
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served)
        page.locator("img.sample").first.click()
        page.wait_for_selector("#rows td:has-text('cat')", timeout=120_000)
        assert "found" in page.inner_text("#said")
        # other names on the same photo
        page.fill("#names", "dog, tabby cat; kitten")
        page.wait_for_selector("#rows td:has-text('tabby cat')", timeout=120_000)
        # the slider filters without a request
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.uncheck("#auto")
        page.evaluate("threshold.value = 0.95; threshold.dispatchEvent(new Event('input'))")
        assert page.locator("#rows tr").count() == 0 and "nothing above" in page.inner_text("#said")
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
        # a mistake is told, and does not stay
        page.fill("#names", "cup, Cup")
        page.wait_for_selector("#said.error", timeout=60_000)
        assert "read alike" in page.inner_text("#said")
        page.fill("#names", "cup")
        page.wait_for_selector("#rows td:has-text('cup')", timeout=60_000)
        browser.close()
    assert not errors
