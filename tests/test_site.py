"""The documentation as a site: built without a warning, every page is there, every link leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "docs/site/mkdocs.yml", "-d", folder]
    done = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_every_page_is_there(site):
    pages = {path.with_suffix(".html").relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md")}
    pages |= {Path("configs/index.html"), Path("datasets/index.html"), Path("models/ovdet-lite.html")}
    pages |= {Path("models/ovdet-lite-base48.html"), Path("CHANGELOG.html")}
    assert not {str(page) for page in pages if not (site / page).is_file()}
    for name in ("OpenVocabPredictor.from_pretrained", "OpenVocabPredictor.__call__", "Detections.to_coco"):
        assert name in (site / "api/predictor.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_link_leads_somewhere(site):
    lost = []
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for target in re.findall(r'(?:href|src)="([^"#?]+)[^"]*"', page.read_text(encoding="utf-8")):
            if not re.match(r"\w+:", target) and not (page.parent / unquote(target)).exists():
                lost.append((page.name, target))
    assert not lost


@pytest.mark.slow
def test_a_page_asks_nobody_else(site):
    """No font, script or picture from another server."""
    for page in site.rglob("*.html"):
        assert not re.findall(r'(?:src|<link[^>]+href)="https?://[^"]+', page.read_text(encoding="utf-8")), page
