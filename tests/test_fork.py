"""Processes that are forked or spawned after a prediction find the same."""

import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, sys
import numpy as np, torch
from ovdet import OpenVocabPredictor

def detect(predictor, image):
    return predictor(image, ["dog", "cat"], threshold=0).scores

def work(results, predictor, image):
    predictor = predictor or OpenVocabPredictor.from_pretrained(device="cpu")
    results.put(detect(predictor, image))

if __name__ == "__main__":
    torch.set_num_threads(2)  # with one there is no thread that a fork would lack
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    predictor = OpenVocabPredictor.from_pretrained(device="cpu")
    expected = detect(predictor, image)
    context = multiprocessing.get_context(sys.argv[1])
    results = context.Queue()
    shared = predictor if sys.argv[1] == "fork" else None
    processes = [context.Process(target=work, args=(results, shared, image), daemon=True) for _ in range(2)]
    [process.start() for process in processes]
    for _ in processes:
        assert np.allclose(results.get(timeout=200), expected, atol=1e-4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_begins_after_a_prediction(tmp_path, method):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py", method], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
