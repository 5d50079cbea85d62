"""Transfer as its configs say it, with a small detector in the large one's place and a made VOC."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from ovdet.data import catalog as builtin
from ovdet.engine.config import load_config
from ovdet.engine.evaluate import classes_of, do_test

ROOT = Path(__file__).parents[2]


@pytest.fixture
def voc(trained, tmp_path):
    """Drawn shapes under VOC's names of files -> the folder of data sets."""
    data = trained.output.parent / "data"
    shutil.copytree(data / "images", tmp_path / "VOC2007/JPEGImages")
    content = json.loads((data / "instances_val.json").read_text())
    content["annotations"][0]["iscrowd"] = 1  # as difficult objects are written
    (tmp_path / "VOC2007/voc_2007_test.json").write_text(json.dumps(content))
    yield tmp_path
    importlib.reload(builtin)


@pytest.fixture
def config(trained, voc, monkeypatch):
    """configs/transfer/voc.py with the quick detector as a ViLD-ensemble."""
    monkeypatch.chdir(ROOT)
    config = load_config("configs/quick/vild.py", [*trained.overrides, f"train.output_dir={voc}/run"])
    transfer = load_config("configs/transfer/voc.py", [f"dataset.root={voc}"])
    config.model = LazyConfig.load("configs/common/methods.py", "vild_ensemble")(config.model)
    config.model.roi_heads.score_fusion = transfer.model.roi_heads.score_fusion
    config.model.roi_heads.box_predictor.test_score_thresh = 0.0
    config.dataset.root = transfer.dataset.root
    config.dataloader.test.dataset.names = transfer.dataloader.test.dataset.names
    config.dataloader.evaluator = transfer.dataloader.evaluator
    return config


def test_figures_and_one_exponent_whatever_was_trained_on(config, conse_teacher, voc):
    torch.manual_seed(0)
    model = instantiate(config.model).eval()
    embed_names = instantiate(config.name_embedder)
    results = do_test(config, model, classes_of(instantiate(config.dataloader.test.dataset.names), embed_names))
    assert {"AP", "AP50", "AP75"} <= set(results["bbox"])
    metrics = json.loads((voc / "run/evaluation/metrics.json").read_text())
    assert metrics["vocabulary"] == 30 and metrics["base"]["AP"] is None  # no class is base there

    (photo,) = next(iter(instantiate(config.dataloader.test)))

    def scores(training_classes=()):
        classes = classes_of("voc_2007_test", embed_names, training_classes)
        return model([photo], classes=classes)[0]["instances"].scores

    assert len(scores()) > 0 and torch.equal(scores(), scores(("red circle", "blue star")))
    before, config.model.roi_heads.score_fusion.open_exponent = scores(), 0.1
    model.roi_heads.score_fusion = instantiate(config.model.roi_heads.score_fusion)
    assert not torch.equal(scores(), before)
