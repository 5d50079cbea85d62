"""Crops are Pillow's, on every device. (tests/teachers/test_crops.py asks the same of whole regions.)"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ovdet.teachers import bicubic
from ovdet.teachers.bicubic import resize_regions

EDGES = torch.tensor(
    [[0, 3, 5, 14, 9], [1, 0, 0, 32, 24], [0, 30, 5, 31, 23], [1, 3, 7, 8, 19], [0, 31, 23, 32, 24], [1, 0, 4, 5, 5]]
)


def photos() -> torch.Tensor:
    """(2, 3, 24, 32) uint8, with noise, but away from black and white: where an overshoot is cut off there, Pillow's
    order of the passes shows, which is its version's."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (24, 32), mode="bilinear") * 100 + 80
    return (smooth + 15 * torch.randn(2, 3, 24, 32, generator=generator)).clamp(0, 255).byte()


def by_pillow(size: tuple[int, int]) -> torch.Tensor:
    rows = []
    for number, *box in EDGES.tolist():
        crop = Image.fromarray(photos()[number].permute(1, 2, 0).numpy()).crop(box)
        rows.append(np.asarray(crop.resize(size[::-1], Image.BICUBIC)))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def check(resize, device="cpu", size=(10, 9), types=(torch.uint8, torch.float32)) -> None:
    for dtype in types:
        crops = resize(photos().to(device, dtype), EDGES, size)
        assert crops.dtype == torch.uint8 and crops.shape == (len(EDGES), 3, *size)
        assert crops.is_contiguous(memory_format=torch.channels_last)
        off = (crops.cpu().int() - by_pillow(size).int()).abs()
        assert off.max() <= 2 and (off > 0).float().mean() < 0.06  # a level up or down, by the order of the passes
        assert resize(photos().to(device, dtype), EDGES[:0], size).shape == (0, 3, *size)


def test_on_cpus():
    check(resize_regions)
    check(resize_regions, size=(64, 40))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_cuda():
    check(resize_regions, "cuda")
    check(resize_regions, "cuda", size=(224, 260))
    elsewhere = photos().cuda().permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # another layout in memory
    assert torch.equal(resize_regions(elsewhere, EDGES, (10, 9)), resize_regions(photos().cuda(), EDGES, (10, 9)))


@pytest.mark.slow  # a process of its own
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch without Triton")
def test_the_kernel_by_triton_s_interpreter():
    """What the GPU computes, without one."""
    code = (
        "from tests.teachers.test_bicubic import check, torch\n"
        "from ovdet.teachers import bicubic_kernel as kernel\n"
        "kernel._ROWS, kernel._COLUMNS = 8, 16\n"
        "check(kernel.resize_regions_together, types=[torch.uint8])"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment, cwd=os.getcwd())


def test_without_triton_or_a_compiler_for_it_a_line_says_so(monkeypatch, caplog):
    bicubic._kernel.cache_clear()
    monkeypatch.setitem(sys.modules, "ovdet.teachers.bicubic_kernel", None)
    assert bicubic._kernel() is None and bicubic._kernel() is None
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "crops are cut one by one, which is slower"
    ]
    bicubic._kernel.cache_clear()
