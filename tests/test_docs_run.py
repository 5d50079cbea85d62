"""The documentation, page by page: its commands and Python run as they stand, in a folder with what they ask for.

What needs GPUs, a network, official data sets or hours is parsed by tests/test_docs.py instead.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from PIL import Image
from shared_fixtures import forget_data_sets

from ovdet.cli.main import main
from ovdet.data.synthetic import build_synthetic
from ovdet.engine.config import load_config
from ovdet.inference.predictor import OpenVocabPredictor

test_docs = importlib.util.spec_from_file_location("test_docs", Path(__file__).with_name("test_docs.py"))
docs = importlib.util.module_from_spec(test_docs)
test_docs.loader.exec_module(docs)

# a command with one of these is not run here, and why
NOT_HERE = {
    r"--num-gpus|^torchrun|configs/(ov_coco|ov_lvis|transfer)/": "several GPUs, official data sets",
    r"^python datasets/": "official data sets; tests/datasets",
    r"open_clip:|\bhf:(?!//OWNER)|--push|^(cvat-cli|hf) ": "a network, an account",
    r"[Dd]etic|--model FOLDER --card": "a download",
    r"^(make|pip|source|export|docker) |-m venv": "sets up an environment; `make quick` is `ovdet train`",
    r"ov_coco_2017_val": "official data sets",
    r"openvino": "an extra; tests/tools/test_export.py",
    r"ovdet_lite_mixture|ovdet_lite/model_final": "22 data sets, hours",
    r"ovdet_lite_expert": "weights of hours; tests/hub/test_every_config.py",
    r"tools/make_space": "tests/tools/test_containers.py",
    r"tools/reproduce_lite": "hours; tests/tools/test_reproduce.py",
    r"^ovdet calibrate": "a detector of two steps finds nothing to measure; tests/cli/test_calibrate.py",
    r"--model (packed|learned|calibrated)\b": "models of hours and 52 data sets; tests/tools/test_make_lite.py",
    r"CONFIG": "stands for all of a folder; tests/test_configs.py",
}
# shorter than a real one
CPU = ["train.device=cpu", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
SHORTER = {
    "train": ["train.max_iter=2", *CPU, "dataloader.train.total_batch_size=2"],
    "extract": CPU,
    "average": ["--max-loss", "100"],
    "few-shot": ["--shots", "1", "--seeds", "1"],
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def given(striped, tmp_path_factory) -> Path:
    """A folder with all files that the pages name: photos, jsons, a video, names; PATH is a small data set."""
    folder = tmp_path_factory.mktemp("given")
    build_synthetic(folder / "PATH", num_train=6, num_val=3)
    shutil.copy(folder / "PATH/ov_split.json", folder / "PATH/ov_coco_split.json")
    shutil.copy(folder / "PATH/ov_split.json", folder / "split.json")
    shutil.copy(folder / "PATH/instances_val.json", folder)
    (folder / "COCO").symlink_to("PATH")
    for photos in ("photos", "coco"):
        shutil.copytree(striped, folder / photos)
        shutil.copytree(folder / "PATH/images", folder / photos, dirs_exist_ok=True)
    for name in ("my.json", "my_val.json"):
        shutil.copy(striped / "my.json", folder / name)
    sizes = {"photo": (400, 320), "other": (400, 320), "kitchen": (400, 320), "desk": (300, 240), "large": (1500, 1000)}
    sizes["crop"] = (80, 60)
    for name, size in sizes.items():
        Image.open(striped / "5.png").resize(size).save(folder / f"{name}.jpg")
    for name in ("zebra crossing", "wheel"):  # a folder with a sub-folder of photos for each class
        shutil.copytree(striped, folder / "FOLDER" / name, ignore=shutil.ignore_patterns("*.json"))
    for name, source in {
        "trained_names": folder / "PATH/instances_val.json",
        "other_names": striped / "my.json",
    }.items():
        shutil.copy(source, folder / f"{name}.json")
    for name in ("more_photos", "unlabeled_photos"):
        (folder / name).symlink_to(folder / "photos")
    _copy_set(striped, folder / "SETS/NAME/images", "instances.json")
    _copy_set(striped, folder / "kitchen/photos", "my.json")
    _copy_set(striped, folder / "garage/photos", "my.json")
    (folder / "all_names.txt").write_text("dog\nzebra crossing\nwheel\n")
    (folder / "mine").mkdir()
    for name in ("train", "val"):
        shutil.copy(striped / "my.json", folder / f"mine/{name}.json")
    shutil.copytree(striped, folder / "mine/photos")
    (folder / "mine/split.json").write_text(json.dumps({"base": ["zebra crossing"], "novel": ["wheel"]}))
    (folder / "names.txt").write_text("dog; puppy\nred kite\n")
    (folder / "card.md").write_text("---\nlicense: apache-2.0\n---\n# A detector\n")
    import cv2

    frames = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (640, 480))
    for number in range(4):
        frames.write(np.full((480, 640, 3), 60 * number, np.uint8))
    frames.release()
    for name in ("configs", "tools", "datasets", "ovdet", "docs"):  # paths from the root of a checkout
        (folder / name).symlink_to(docs.ROOT / name)
    return folder


def _copy_set(striped: Path, photos: Path, json_name: str) -> None:
    shutil.copytree(striped, photos)
    shutil.copy(striped / "my.json", photos.parent / json_name)


class Shell:
    """Runs command lines in a folder, each once: what it wrote to output/ and into files stays for later pages."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self.stack, self.port, self.photo = folder, stack, None, ""
        self.done: set[tuple[str, ...]] = set()
        self.given = {entry.name for entry in folder.iterdir()}

    def begin_page(self) -> None:
        """Other folders go: two pages may write different things to `labels`."""
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry.name not in (*self.given, "output"):
                shutil.rmtree(entry)
        self.done = {words for words in self.done if not writes_a_folder(words)}

    def run(self, line: str) -> None:
        program, *words = docs.words_of(line)
        if (program, *words) not in self.done:
            {"ovdet": self.ovdet, "python": self.python, "curl": self.curl}[program](words)
        self.done.add((program, *words))

    def ovdet(self, words: list[str]) -> None:
        if words[0] == "serve":
            return self.serve(words)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ovdet", *words, *SHORTER.get(words[0], [])])
            try:
                main()
            except SystemExit as stop:
                assert not stop.code, (words, stop.code)
            finally:
                forget_data_sets()

    def python(self, words: list[str]) -> None:
        subprocess.run([sys.executable, *words], cwd=self.folder, check=True)

    def serve(self, words: list[str]) -> None:
        if self.port is not None:
            return  # one is enough
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "ovdet", *words, "--port", str(self.port), "--device", "cpu"]
        process = subprocess.Popen(command, cwd=docs.ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ})
        self.stack.callback(process.wait, 60)
        self.stack.callback(process.send_signal, signal.SIGTERM)
        assert process.stdout.readline().strip().endswith(str(self.port))

    def curl(self, words: list[str]) -> None:
        words = [word.replace("7860", str(self.port)).replace("photo=ID", f"photo={self.photo}") for word in words]
        done = subprocess.run(["curl", "-sS", "--fail-with-body", *words], cwd=self.folder, capture_output=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        if done.stdout:  # else it went to a file
            self.photo = json.loads(done.stdout).get("photo", self.photo)


def writes_a_folder(words: tuple[str, ...]) -> bool:
    """Whether a command writes a folder elsewhere than below output/."""
    output = dict(zip(words, words[1:], strict=False)).get("--output", "output")
    return not output.startswith("output") and not Path(output).suffix


@pytest.fixture(scope="module")
def shell(given) -> Iterator[Shell]:
    with contextlib.ExitStack() as stack:
        yield Shell(given, stack)


def write_file(page: Path, folder: Path) -> None:
    """What a page calls FILE: captions of the photos, or proposals, which are the objects themselves."""
    contents = [json.loads((folder / f"PATH/instances_{part}.json").read_text()) for part in ("train", "val")]
    if page.name == "train.md":
        boxes = [box for content in contents for box in content["annotations"]]
        found = [{"image_id": box["image_id"], "bbox": box["bbox"], "score": 0.9} for box in boxes]
    else:
        found = {"captions": {str(image["id"]): ["a wheel"] for content in contents for image in content["images"]}}
    (folder / "FILE").write_text(json.dumps(found))


def parts_of(page: Path) -> list[tuple[str, str]]:
    """Commands and Python blocks as they follow each other."""
    found = []
    for kind, body in docs.FENCE.findall(page.read_text(encoding="utf-8")):
        found += [("sh", line) for line in docs.lines_of(body)] if kind in ("sh", "bash") else []
        found += [("python", body)] if kind == "python" else []
    return [part for part in found if not any(re.search(each, part[1]) for each in NOT_HERE)]


def names_before(page: Path) -> dict:
    """What the Python of a page takes for granted: a predictor, or the parts of a config."""
    if page.name == "own_data.md":
        return {"predictor": OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")}
    if page.name in ("extend.md", "objectives.md"):
        from ovdet.modeling import score_fusion
        from ovdet.objectives.info_nce import RegionTextInfoNCE
        from ovdet.objectives.self_supervision import SimCLR
        from ovdet.packable import packable

        found = {name: getattr(score_fusion, name) for name in ("ScoreFusion", "Exponents")}
        found |= {"L": L, "packable": packable, "RegionTextInfoNCE": RegionTextInfoNCE, "SimCLR": SimCLR}
        return found | {"model": load_config("lite/vild").model, "Tensor": importlib.import_module("torch").Tensor}
    return {}


def run_python(block: str, names: dict, folder: Path) -> None:
    """A block of a config is read as one: its imports are relative."""
    if re.search(r"^from \.\.", block, re.MULTILINE):
        own = folder / "own" / "mine" / "vild.py"
        if not own.exists():
            shutil.copytree(docs.ROOT / "configs", folder / "own")
            own.parent.mkdir()
        own.write_text(block)
        config = load_config(str(own)) if "dataloader" in block else LazyConfig.load(str(own))
        instantiate(config.model.backbone)
        return
    try:
        exec(compile(block, "documentation", "exec"), names)
    except ModuleNotFoundError as error:
        if error.name not in ("sahi", "fiftyone"):  # other people's programs
            raise


PAGES = {page.relative_to(docs.ROOT).as_posix(): page for page in docs.PAGES if parts_of(page)}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs(name, shell, monkeypatch):
    monkeypatch.chdir(shell.folder)
    page = PAGES[name]
    shell.begin_page()
    write_file(page, shell.folder)
    names = {"__name__": "documentation", **names_before(page)}
    for kind, part in parts_of(page):
        print(f"\n>>> {part}")
        if kind == "python":
            run_python(part, names, shell.folder)
        else:
            shell.run(part)


def test_most_commands_run():
    run = [part for page in PAGES.values() for kind, part in parts_of(page) if kind == "sh"]
    assert len(run) > len(docs.FENCED) / 2
