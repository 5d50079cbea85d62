"""The commands of docs/own_data.md on names of one's own: all parse, and all run, one after the other."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ovdet.cli.main import COMMANDS

DOCS = Path(__file__).parents[2] / "docs/own_data.md"
# shorter than the real ones
SHORTER = {
    "train": [
        "train.max_iter=2",
        "train.device=cpu",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
    ],
    "average": ["--max-loss", "100"],
    "few-shot": ["--shots", "1", "--seeds", "1"],
}


def commands() -> list[list[str]]:
    """Words of each command of section 5."""
    section = DOCS.read_text(encoding="utf-8").partition("\n## 5. ")[2].partition("\n## 6. ")[0]
    blocks = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in blocks.splitlines()]


def test_they_parse():
    found = commands()
    assert {words[1] for words in found} == {"detect", "learn", "evaluate", "train", "average", "few-shot"}
    for program, name, *words in found:
        parser = argparse.ArgumentParser()
        importlib.import_module(COMMANDS[name]).add_arguments(parser)
        parser.parse_intermixed_args(words)
        assert program == "ovdet"


@pytest.mark.slow
def test_they_run(ovdet, striped, tmp_path, monkeypatch):
    content = json.loads((striped / "my.json").read_text())
    for name in (
        "my.json",
        "my_val.json",
        "instances_val.json",
        "PATH/instances_train.json",
        "PATH/instances_val.json",
        "COCO/instances_train.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    for folder in ("photos", "coco", "PATH/images", "COCO/images"):
        shutil.copytree(striped, tmp_path / folder)
    for name in ("photo", "kitchen", "desk"):
        Image.open(striped / "5.png").resize((400, 320)).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    for _, name, *words in commands():
        code, _, err = ovdet(name, *words, *SHORTER.get(name, []))
        assert code == 0, (name, words, err[-2000:])
    for file in ("my.safetensors", "output/my/classes.safetensors", "output/lite/own_data/averaged.pth"):
        assert (tmp_path / file).is_file()
