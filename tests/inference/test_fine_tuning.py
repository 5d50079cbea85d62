"""What a fine-tuning of the few-shot protocol trains on: read back as detectron2 reads it; no step is run."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.coco import COCO

from ovdet.errors import InputError
from ovdet.inference import fine_tuning
from ovdet.inference.fine_tuning import FineTuning
from ovdet.learning.learn import AnnotatedPhoto

TRUTH = SimpleNamespace(images={7: {"height": 30, "width": 40}, 8: {"height": 50, "width": 60}})


def photo(image_id, boxes, ids):
    return AnnotatedPhoto(f"photos/{image_id}.jpg", np.array(boxes, float).reshape(-1, 4), np.array(ids), image_id)


@pytest.fixture
def trained(monkeypatch):
    """The config that training got, and the jsons that it named, which are gone afterwards."""
    seen = SimpleNamespace()

    def train(config):
        seen.config = config
        seen.train, seen.val = COCO(config.dataset.train), COCO(config.dataset.val)

    monkeypatch.setattr(fine_tuning, "do_train", train)
    monkeypatch.setattr(fine_tuning.OpenVocabPredictor, "from_config", lambda *files: files)
    return seen


def test_photos_become_a_data_set(trained, capsys):
    tune = FineTuning("configs/quick/vild.py", "first.pth", 5, ("train.device=cpu",))
    assert tune.method == "fine-tuned, 5 steps"
    shots = [photo(7, [[1, 2, 11, 22], [0, 0, 5, 5]], [1, -1]), photo(8, [], [])]
    held = [photo(7, [[0, 0, 9, 9]], [-1]), photo(8, [[2, 2, 6, 6]], [0]), photo(7, [[2, 2, 6, 6]], [0])]
    config_file, weights = tune(shots, held, ["dog", "red kite"], TRUTH, seed=3)
    train = trained.config.train
    assert (train.init_checkpoint, train.max_iter, train.seed, train.device) == ("first.pth", 5, 3, "cpu")
    assert trained.config.dataset.split is None and "prepare" not in trained.config.dataset
    assert (config_file, weights) == (f"{train.output_dir}/config.yaml", f"{train.output_dir}/model_final.pth")
    # the json: absolute names, boxes as x, y, width, height; a box of no class is left out
    images = list(trained.train.imgs.values())
    assert [image["file_name"] for image in images] == [os.path.abspath(f"photos/{n}.jpg") for n in (7, 8)]
    assert [(image["height"], image["width"]) for image in images] == [(30, 40), (50, 60)]
    (box,) = trained.train.anns.values()
    assert box["bbox"] == [1, 2, 10, 20] and box["area"] == 200 and box["image_id"] == images[0]["id"]
    assert trained.train.cats[box["category_id"]]["name"] == "red kite" and len(trained.train.cats) == 2
    # it ends with a look at one photo, the first with something on it
    assert [image["file_name"] for image in trained.val.imgs.values()] == [os.path.abspath("photos/8.jpg")]
    assert not os.path.exists(train.output_dir) and not os.path.exists(trained.config.dataset.train)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_step_is_no_training(steps):
    with pytest.raises(InputError, match=f"expected 1 step of fine-tuning or more, got {steps}"):
        FineTuning("configs/quick/vild.py", "first.pth", steps)
