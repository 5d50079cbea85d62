"""A store is written by one command and trains by another; it is refused where it does not fit."""

import pytest
import torch

from ovdet.data import RegionStore, read_image
from ovdet.teachers import embed_regions

QUICK = "configs/quick/vild.py"


@pytest.fixture
def store(trained, run_tool, tmp_path):
    path = tmp_path / "regions.safetensors"
    code, out, err = run_tool(
        "extract_regions.py", "--config-file", QUICK, "--weights", trained.output / "model_final.pth",
        "--output", path, "--max-regions", 3, *trained.overrides,
    )  # fmt: skip
    assert code == 0, err
    assert "conse" in out
    return path


def test_store_holds_what_the_teacher_says(trained, store, conse_teacher):
    regions = RegionStore(store)
    assert regions.header["teacher"] == "conse" and len(regions.header["training_classes"]) == 24
    assert "red square" not in regions.header["training_classes"]
    photo = sorted((trained.output.parent / "data/images").iterdir())[0]
    boxes, embeddings, scores = regions.regions(1)
    assert 1 <= len(boxes) <= 3 and scores.max() == 1  # ground truth is among them
    image = torch.from_numpy(read_image(photo).transpose(2, 0, 1).copy())
    assert torch.allclose(embed_regions(conse_teacher, image, boxes), embeddings.float(), atol=2e-3)


def test_training_from_the_store(trained, store, run_tool, tmp_path):
    overrides = [o for o in trained.overrides if not o.startswith("train.output_dir")]
    common = ("--config-file", "configs/quick/vild_stored.py", *overrides, f"dataset.region_store={store}")
    code, out, err = run_tool("train_net.py", *common, f"train.output_dir={tmp_path}/run", "train.max_iter=2")
    assert code == 0, (out + err)[-2000:]
    assert "loss_distill" in (tmp_path / "run/metrics.json").read_text()
    code, _, err = run_tool("train_net.py", *common, f"train.output_dir={tmp_path}/b", "teacher.name=conse:lite0")
    last = err.strip().splitlines()[-1]
    assert code == 2 and "conse:lite0" in last and "'conse'" in last


@pytest.mark.parametrize(("option", "value"), [("--weights", "/nowhere.pth"), ("--max-regions", "0")])
def test_bad_input(trained, run_tool, tmp_path, option, value):
    arguments = {"--weights": trained.output / "model_final.pth", "--output": tmp_path / "s.safetensors", option: value}
    flat = [part for pair in arguments.items() for part in pair]
    code, _, err = run_tool("extract_regions.py", "--config-file", QUICK, *flat, *trained.overrides)
    assert code == 2 and err.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "s.safetensors").exists()
