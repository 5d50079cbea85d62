"""What a program loads on its way to the first box, counted: `ovdet benchmark start` has the times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ovdet.benchmarks.stream import draw_photos

STAGES = """
import gc, sys, torch, torchvision
print(*sys.modules)
from ovdet import OpenVocabPredictor
found = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")(sys.argv[1], ["person", "dog"], threshold=0)
assert len(found) and gc.get_freeze_count() > 100_000
print(*sys.modules)
from ovdet.engine.config import load_config
load_config("configs/lite/vild.py")
print(*sys.modules)
"""
# what others need: plots, evaluation, other teachers, servers, training
HEAVY = {"matplotlib", "scipy", "pandas", "sklearn", "transformers", "tokenizers", "sentence_transformers", "open_clip"}
HEAVY |= {"hydra", "hotcoco", "onnxruntime", "openvino", "onnx", "ray", "fastapi", "uvicorn", "tensorboard", "av"}
HEAVY |= {"supervision"}
MOST = 950  # modules beside those of torch and torchvision


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> list[set[str]]:
    """What is loaded with torch alone, with the first box, and with a config besides: of one process, one start."""
    photo = draw_photos(tmp_path_factory.mktemp("photo"), 1) / "0000.jpg"
    command = [sys.executable, "-c", STAGES, str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_modules_up_to_the_first_box(loaded):
    bare, modules, _ = loaded
    assert not HEAVY & modules
    assert not [name for name in modules if name.startswith(("ovdet.engine.train", "ovdet.export"))]
    more = modules - bare
    assert len(more) <= MOST, sorted(more)


def test_modules_of_a_config(loaded):
    """To read one loads more, and nothing of what trains, plots or serves."""
    *_, modules = loaded
    assert "ovdet.engine.config" in modules
    heavy = {"matplotlib", "hotcoco", "ray", "transformers", "open_clip", "onnxruntime", "ovdet.engine.train"}
    assert not heavy & modules
