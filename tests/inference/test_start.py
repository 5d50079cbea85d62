"""What a program loads on its way to the first box, counted: `ovdet benchmark start` has the times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ovdet.benchmarks.stream import draw_photos

BARE = "import sys, torch, torchvision; print(*sys.modules)"
FIRST_BOX = """
import gc, sys
from ovdet import OpenVocabPredictor
found = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")(sys.argv[1], ["person", "dog"], threshold=0)
assert len(found) and gc.get_freeze_count() > 100_000
print(*sys.modules)
"""
# what others need: plots, evaluation, other teachers, servers, training
HEAVY = {"matplotlib", "scipy", "pandas", "sklearn", "transformers", "tokenizers", "sentence_transformers", "open_clip"}
HEAVY |= {"hydra", "hotcoco", "onnxruntime", "openvino", "onnx", "ray", "fastapi", "uvicorn", "tensorboard", "av"}
MOST = 950  # modules beside those of torch and torchvision


def loaded(script: str, *words: object) -> set[str]:
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_modules_up_to_the_first_box(tmp_path: Path):
    modules = loaded(FIRST_BOX, draw_photos(tmp_path, 1) / "0000.jpg")
    assert not HEAVY & modules
    assert not [name for name in modules if name.startswith(("ovdet.engine.train", "ovdet.export"))]
    more = modules - loaded(BARE)
    assert len(more) <= MOST, sorted(more)
