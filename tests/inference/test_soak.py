"""One predictor over thousands of photos with changing names: memory stays what it was, and so do the answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from detectron2.data import transforms as T

from ovdet import OpenVocabPredictor

SIZES = ((96, 128), (128, 96), (120, 120))


def photos(number: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 255, (*SIZES[i % 3], 3), dtype=np.uint8) for i in range(number)]


@pytest.mark.slow
def test_memory_is_flat_over_three_thousand_photos():
    predictor = OpenVocabPredictor.from_pretrained(device="cpu")
    predictor.resize = T.AugmentationList(
        [T.ResizeShortestEdge(128, max_size=256)]
    )  # small: it is the number that counts
    torch.set_num_threads(1)
    images, process, used, first = photos(30), psutil.Process(), [], {}
    for step in range(3000):
        names = [f"thing {step % 97}", f"object {step % 89}", "dog"]
        found = predictor(images[step % 30], names, threshold=0.01)
        key = (step % 30, step % 97, step % 89)
        again = (
            first.setdefault(key, len(found))
            if step < 500
            else len(predictor(images[step % 30], names, threshold=0.01))
        )
        assert again == len(found)
        if step % 250 == 249:
            used.append(process.memory_info().rss)
    assert max(used[4:]) <= 1.01 * used[3], [f"{each / 2**20:.0f} MiB" for each in used]


@pytest.mark.slow
def test_eight_threads():
    predictor = OpenVocabPredictor.from_pretrained(device="cpu")
    predictor.resize = T.AugmentationList([T.ResizeShortestEdge(128, max_size=256)])
    images = photos(16)

    def scores(number: int) -> list[np.ndarray]:
        return [predictor(image, [f"thing {number}", "dog"], threshold=0.001).scores for image in images]

    alone = [scores(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(scores, range(8)))
    assert all(np.array_equal(a, b) for x, y in zip(alone, together, strict=True) for a, b in zip(x, y, strict=True))
