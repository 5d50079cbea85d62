"""The wheel brings all that the commands need, and runs outside of the checkout."""

import json
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: the build leaves files beside the sources."""
    copy = tmp_path_factory.mktemp("copy") / "ovdet"
    ignored = shutil.ignore_patterns(".*", "output", "build", "*.egg-info", "__pycache__", "tests", "datasets")
    shutil.copytree(ROOT, copy, ignore=ignored)
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, copy]
    subprocess.run(build, check=True, timeout=600)
    (file,) = folder.glob("ovdet-*.whl")
    return file


def test_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, target in (("ovdet", "ovdet"), ("configs", "ovdet/configs")):
        files = [file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        assert not {f"{target}/{file.relative_to(ROOT / folder).as_posix()}" for file in files} - names
    assert not [name for name in names if name.startswith(("tests", "tools", "docs", "datasets"))]
    assert "ovdet/py.typed" in names and "ovdet/configs/quick/vild.py" in names


def test_commands_outside_of_the_checkout(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    packages = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(packages)
    # all that ovdet needs is taken from this environment; the wheel's own files come before an editable installation
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    start = f"import sys; sys.path.insert(0, {str(packages)!r}); from ovdet.cli.main import main; main()"

    def run(*words: str) -> str:
        command = [tmp_path / "venv/bin/python", "-I", "-c", start, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version").startswith("ovdet ")
    assert "detect" in run("--help")
    assert 0.001 < json.loads(run("doctor", "--json"))["seconds_per_photo"] < 60
    assert "cat" in run("detect", "--names", "cat; kitten, dog", "--device", "cpu")
    assert (tmp_path / "output/detect/detections.json").is_file()
    small = ("dataset.prepare.num_train=8", "dataset.prepare.num_val=2", "train.max_iter=1", "train.device=cpu")
    run("train", "--config", "quick/vild", *small, "dataloader.train.num_workers=0", "dataloader.test.num_workers=0")
    assert (tmp_path / "output/quick/vild/model_final.pth").is_file()
