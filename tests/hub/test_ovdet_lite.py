"""The detector that comes along: its folder, and that it finds the obvious on scikit-image's photos."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from detectron2.config import instantiate
from torchvision.ops import box_iou

from ovdet import OpenVocabPredictor, Vocabulary, embed_vocabulary
from ovdet.engine.checkpoint import known_classes
from ovdet.hub.find import SHIPPED, find_model, open_config
from ovdet.text.class_names import distinct_names

SPLIT = json.loads((Path(__file__).parents[2] / "datasets/metadata/ov_coco.json").read_text())
NAMES = ("tabby cat", "dog", "cup of coffee", "motorcycle", "elephant", "airplane", "umbrella", "scissors")


@pytest.fixture(scope="module")
def predictor():
    predictor = OpenVocabPredictor.from_pretrained(device="cpu")
    predictor.set_vocabulary(NAMES)
    return predictor


@pytest.mark.parametrize("name", SHIPPED)
def test_the_folders_are_small(name):
    config_file, _ = find_model(name)
    folder = Path(config_file).parent
    files = ["README.md", "config.json", "model.safetensors", "names.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == files
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 30e6


@pytest.mark.parametrize("name", SHIPPED)
def test_trained_names_need_no_text_encoder(name, conse_teacher, monkeypatch, tmp_path):
    """Neither they nor the negatives beside them; and what comes along is what the encoder says."""
    embedder = instantiate(open_config(find_model(name).config_file).name_embedder)
    names = known_classes(header_of(name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ovdet.text.embedder.load_teacher", lambda *_: pytest.fail("loaded"))
    kept = embedder(distinct_names([*names[3:20], "Person", *names]))
    assert not list(tmp_path.iterdir())
    expected = embed_vocabulary(Vocabulary(tuple(names[3:9])), conse_teacher).matrix
    assert torch.allclose(kept[:6], expected, atol=1e-5)


def test_the_experiments_model_knows_no_novel_class():
    names = header_of("ovdet-lite-base48")["training_classes"]
    assert sorted(names) == sorted(SPLIT["base"]) and not set(names) & set(SPLIT["novel"])


def test_the_default_knows_everyday_things():
    header = header_of("ovdet-lite")
    everyday = {"cat", "dog", "cup", "couch", "bus", "chair", "bottle", "person", "hat", "shoes", "tomato", "rabbit"}
    assert everyday <= set(header["training_classes"])
    assert set(SPLIT["novel"]) & set(header.get("known_classes", header["training_classes"]))


def header_of(name: str) -> dict:
    with safetensors.safe_open(find_model(name).weights, framework="pt") as file:
        return json.loads(file.metadata()["ovdet"])


@pytest.mark.parametrize(
    ("photo", "name"), [("chelsea", "tabby cat"), ("coffee", "cup of coffee"), ("motorcycle_left", "motorcycle")]
)
def test_the_best_detection_has_the_obvious_name(predictor, photo, name):
    data = pytest.importorskip("skimage")
    found = predictor(Path(data.__file__).with_name("data") / f"{photo}.png", threshold=0)
    assert found.labels[0] == name


def test_a_narrower_word_is_found_where_the_wider_one_is_and_scores_lower(predictor):
    photo = Path(pytest.importorskip("skimage").__file__).with_name("data") / "camera.png"
    person, man = (predictor(photo, names=[name]) for name in ("person", "man"))
    assert man.labels[0] == "man" and man.scores[0] < 0.6 * person.scores[0]
    assert box_iou(*(torch.from_numpy(found.boxes[:1]) for found in (person, man))).item() > 0.8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_taken_where_there_is_one_and_finds_the_same(predictor):
    data = Path(pytest.importorskip("skimage").__file__).with_name("data")
    on_gpu = OpenVocabPredictor.from_pretrained()
    on_gpu.set_vocabulary(NAMES)
    assert on_gpu.model.device.type == "cuda"
    for photo in ("chelsea.png", "coffee.png", "motorcycle_left.png"):
        expected, found = predictor(data / photo), on_gpu(data / photo)
        assert sorted(found.labels) == sorted(expected.labels) and len(expected)
        assert abs(found.scores[0] - expected.scores[0]) < 0.01 and np.abs(found.boxes[0] - expected.boxes[0]).max() < 1
        overlaps = box_iou(torch.from_numpy(expected.boxes), torch.from_numpy(found.boxes)).numpy()
        for row, score, label in zip(overlaps, expected.scores, expected.labels, strict=True):
            # of two boxes for one thing that are nearly as good, rounding decides which is kept
            near = (np.array(found.labels) == label) & (np.abs(found.scores - score) < 0.1) & (row > 0.85)
            assert near.any()
