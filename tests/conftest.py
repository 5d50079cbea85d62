"""What all tests share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ovdet.teachers import Teacher, load_teacher

torch.set_num_threads(1)  # the tensors are small; more threads only get in each other's way


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data beside the project (photos, golden results), no part of it; skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data beside the project (../shared/data) is not here")
    return folder


@pytest.fixture(scope="session")
def conse_teacher() -> Teacher:
    """The embedded teacher, loaded once; nobody moves it to another device."""
    return load_teacher("conse")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small CLIP architecture that open_clip then knows: 32 px, width 24."""
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    file = tmp_path_factory.mktemp("open_clip") / "ovdet-tiny.json"
    file.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(file)
    return file.stem
