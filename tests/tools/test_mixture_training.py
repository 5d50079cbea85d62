"""Several data sets in one training, as a user runs it: the teacher online or a region store, one process or two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ovdet.regions.store import RegionStore

CONFIG = """
import runpy
from pathlib import Path

from detectron2.config import LazyCall as L, LazyConfig

_quick = LazyConfig.load("configs/quick/vild_stored.py" if {stored} else "configs/quick/vild.py")
_mixture = runpy.run_path("configs/common/mixture.py")
dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train = (
    _quick[key] for key in
    "dataloader dataset lr_multiplier model name_embedder optimizer teacher train".split()
)
dataset.name = "several"
shares = (("red", 2), ("rest", 1))
sets = [_mixture["data_set"](name, share, folder={folder!r}, is_exhaustive=True) for name, share in shares]
for each in sets:
    each.image_root, each.hold_out = "${{dataset.root}}/images", 4
_mixture["train_on"](dataloader, sets, threshold=0.0)
model = _mixture["partial_labels"](model)
"""


@pytest.fixture(scope="module")
def several(trained, tmp_path_factory):
    """The drawn data set as two that share their photos: one speaks of red shapes, one of the others."""
    folder = tmp_path_factory.mktemp("several")
    content = json.loads((trained.output.parent / "data/instances_train.json").read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    for name, is_red in (("red", True), ("rest", False)):
        of_set = {each for each, text in names.items() if text.startswith("red") == is_red}
        part = {
            **content,
            "categories": [each for each in content["categories"] if each["id"] in of_set],
            "annotations": [each for each in content["annotations"] if each["category_id"] in of_set],
        }
        (folder / name).mkdir()
        (folder / name / "instances.json").write_text(json.dumps(part))
    for stored in (False, True):
        (folder / f"{'stored' if stored else 'online'}.py").write_text(CONFIG.format(folder=str(folder), stored=stored))
    return folder


@pytest.fixture(scope="module")
def store(trained, several, tmp_path_factory):
    """Regions of all sets, by the real command."""
    folder = tmp_path_factory.mktemp("store") / "regions"
    command = [sys.executable, "tools/extract_regions.py", "--config-file", several / "stored.py", "--output", folder]
    options = ["--proposals", "ground-truth", "--max-regions", "1", *trained.overrides]
    done = subprocess.run([*command, *options], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder


def losses(folder: Path) -> list[float]:
    """Of each step that a run logged."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [each["loss_distill"] for each in lines if "loss_distill" in each]


@pytest.mark.slow
def test_the_teacher_online(trained, several, run_tool, tmp_path):
    overrides = [*trained.overrides, f"train.output_dir={tmp_path}/run", "train.max_iter=1", "train.log_period=1"]
    code, _, err = run_tool("train_net.py", "--config-file", several / "online.py", *overrides)
    assert code == 0 and losses(tmp_path / "run") > [0], err[-3000:]
    report = json.loads((tmp_path / "run/leak_report.json").read_text())
    assert sorted(report["sets"]) == ["red", "rest"]
    assert sum(each["num_photos"] for each in report["sets"].values()) == report["num_photos"]


@pytest.mark.slow
def test_a_region_store_of_all_sets(trained, several, store, run_tool, tmp_path):
    assert {str(image.image_id).split("/")[0] for image in RegionStore(store).plan.images} == {"red", "rest"}
    overrides = [*trained.overrides, f"train.output_dir={tmp_path}/run", "train.max_iter=1", "train.log_period=1"]
    regions = f"dataset.region_store={store}"
    code, _, err = run_tool("train_net.py", "--config-file", several / "stored.py", *overrides, regions)
    assert code == 0 and losses(tmp_path / "run") > [0], err[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["online", "stored"])
def test_two_processes(trained, several, store, tmp_path, name):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["tools/train_net.py", "--config-file", several / f"{name}.py", *trained.overrides]
    command += [f"train.output_dir={tmp_path}/run", "train.max_iter=3", "train.log_period=1"]
    command += [f"dataset.region_store={store}"] * (name == "stored")
    done = subprocess.run(command, capture_output=True, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-3000:]
    assert min(losses(tmp_path / "run")) > 0
