"""OV-LVIS as its configs say it, on drawn shapes under LVIS's names of files: training photos, weights, figures."""

import importlib
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler

from ovdet.data import catalog as builtin
from ovdet.engine.config import load_config
from ovdet.engine.evaluate import classes_of, do_test
from ovdet.engine.resume import InitialWeights
from ovdet.engine.train import build_train_loader
from ovdet.hub.find import find_model
from ovdet.hub.load import load_detector
from ovdet.inference.evaluate import evaluate_on

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(trained, tmp_path):
    """The folder of data sets, as datasets/prepare_ov_lvis.py leaves it."""
    data = trained.output.parent / "data"
    split = json.loads((data / "ov_split.json").read_text())
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis/ov_lvis_v1_split.json").write_text(json.dumps(split))
    for part, subsets in (("train", ("base",)), ("val", ("base", "novel"))):
        content = json.loads((data / f"instances_{part}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        wanted = {name for subset in subsets for name in split[subset]}
        content["annotations"] = [a for a in content["annotations"] if names[a["category_id"]] in wanted]
        for category in content["categories"]:
            category["frequency"] = "r" if category["name"] in split["novel"] else "f"
        for image in content["images"]:
            image.update(file_name=f"{part}2017/{image['file_name']}", neg_category_ids=[1, 2, 3])
            image["not_exhaustive_category_ids"] = []
        (tmp_path / f"lvis/ov_lvis_v1_{part}.json").write_text(json.dumps(content))
        shutil.copytree(data / "images", tmp_path / f"coco/{part}2017")
    yield tmp_path
    importlib.reload(builtin)


@pytest.fixture
def config(root, monkeypatch):
    monkeypatch.chdir(ROOT)
    overrides = [f"dataset.root={root}", f"train.output_dir={root}/run", "dataloader.train.total_batch_size=1"]
    return load_config("configs/ov_lvis/vild_text_federated.py", overrides)


def test_training_photos_and_weights(config, root):
    config.dataloader.train.num_workers = config.dataloader.test.num_workers = 0
    config.dataloader.train.mapper.augmentations = []
    config.dataloader.train.sampler.threshold = 1.0
    loader, _ = build_train_loader(config, {}, InitialWeights("", []), seed=0)
    photos = [photo for (photo,) in itertools.islice(loader, 120)]
    assert len(photos[0]["instances"].gt_masks) > 0
    drawn = Counter(photo["image_id"] for photo in photos)
    dicts = DatasetCatalog.get("ov_lvis_v1_train")
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 1.0)
    rarest, commonest = dicts[factors.argmax()]["image_id"], dicts[factors.argmin()]["image_id"]
    assert factors.max() > 1.5 * factors.min() and drawn[rarest] > drawn[commonest]
    weights = instantiate(config.model.roi_heads.box_predictor.class_weights)()
    content = json.loads((root / "lvis/ov_lvis_v1_train.json").read_text())
    photos_of = {(a["category_id"], a["image_id"]) for a in content["annotations"]}
    base = json.loads((root / "lvis/ov_lvis_v1_split.json").read_text())["base"]
    expected = [
        sum(category["id"] == shown for shown, _ in photos_of)
        for category in sorted(content["categories"], key=lambda category: category["id"])
        if category["name"] in base
    ]
    assert len(weights) == 24 and torch.allclose(weights.square(), torch.tensor(expected).float())


@pytest.mark.slow
def test_figures_are_lvis_ones_by_config_and_by_hand(config, root, trained, conse_teacher):
    run = find_model(trained.output)
    quick = load_config(run.config_file, ["model.roi_heads.box_predictor.test_score_thresh=0.0"])
    quick.dataset.root, quick.train.output_dir = config.dataset.root, config.train.output_dir
    quick.dataloader.test.dataset.names = config.dataloader.test.dataset.names
    quick.dataloader.evaluator = config.dataloader.evaluator
    quick.dataloader.evaluator.iou_types = ["bbox"]
    quick.model.roi_heads.box_predictor.test_topk_per_image = 300
    model, embed_names, _ = load_detector(quick, run.weights)
    results = do_test(quick, model, classes_of(instantiate(quick.dataloader.test.dataset.names), embed_names))["bbox"]
    assert {"APr", "APc", "APf"} <= set(results) and results["AP50"] > 0
    by_hand = evaluate_on(
        quick, root / "lvis/ov_lvis_v1_val.json", root / "coco", root / "out", weights=run.weights,
        split=root / "lvis/ov_lvis_v1_split.json", lvis=True,
    )  # fmt: skip
    assert by_hand["bbox"] == pytest.approx(results, abs=0, nan_ok=True)
    figures = json.loads((root / "out/metrics.json").read_text())
    assert "LVIS" in figures["protocol"] and "APr" in figures["all"]
