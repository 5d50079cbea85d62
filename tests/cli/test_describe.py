"""`ovdet describe` as a user runs it: with a detector that writes captions, packed too, and with one that does not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from PIL import Image

from ovdet.engine.config import load_config, save_config
from ovdet.hub.model_folder import write_model_folder
from ovdet.inference.describe import describe_photo
from ovdet.inference.load import load_predictor
from ovdet.objectives.coca import CoCa

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def writer(tiny_files, tmp_path_factory):
    """The folder of a training run whose detector writes, random words as it is not trained."""
    folder = tmp_path_factory.mktemp("coca")
    config = load_config(str(ROOT / tiny_files.arguments[1]), [*tiny_files.overrides, f"train.output_dir={folder}"])
    small = dict(hidden_width=16, heads=2, num_layers=1, max_tokens=4)
    config.model.roi_heads.objectives = [L(CoCa)(channels=16, width=384, **small)]
    torch.manual_seed(0)
    learned = CoCa(16, 384, **small)
    torch.nn.init.normal_(learned.decoder.tokens.weight)
    content = torch.load(tiny_files.arguments[3], weights_only=True)
    content["model"].update({f"roi_heads.objectives.0.{key}": value for key, value in learned.state_dict().items()})
    torch.save(content, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    save_config(config, folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)).save(file)
    return file


def test_regions_in_words(ovdet, writer, photo, tmp_path):
    code, out, err = ovdet("describe", photo, "--model", writer, "--regions", 3, "--output", tmp_path, "--json")
    assert code == 0, err
    line = json.loads(out)
    (row,) = json.loads((tmp_path / "detections.json").read_text())
    assert row["detections"] == line["detections"] and (tmp_path / "photo.png").is_file()
    assert 1 <= len(line["detections"]) <= 3
    scores = [each["score"] for each in line["detections"]]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1
    assert all(each["label"] for each in line["detections"])
    # a folder to be passed on says the same, but for half precision
    config = load_config(str(writer / "config.yaml"))
    write_model_folder(config, str(writer / "model_final.pth"), tmp_path / "packed", card="x")
    code, out, _ = ovdet("describe", photo, "--model", tmp_path / "packed", "--regions", 3, "--output", tmp_path / "2")
    assert code == 0 and line["detections"][0]["label"] in out


def test_regions_are_the_most_object_like_that_do_not_overlap(writer, photo):
    predictor = load_predictor(str(writer), None, None)
    all_of_them = describe_photo(predictor, str(photo), max_regions=1000, nms_threshold=1.0)
    seen = predictor.embed_photo(str(photo)).seen
    assert len(all_of_them) == len(seen.boxes)
    best = seen.boxes[seen.objectness_logits.argmax()]
    (first,) = describe_photo(predictor, str(photo), max_regions=1).boxes
    scale = 160 / seen.image_size[1]
    height, width = seen.image_size
    clipped = torch.minimum(best.clamp(min=0), torch.tensor([width, height, width, height]))
    np.testing.assert_allclose(first, clipped.numpy() * scale, atol=0.5)
    assert len(describe_photo(predictor, str(photo), threshold=1.0)) == 0


def test_without_a_writer_it_says_how_to_train_one(ovdet, tiny_files, photo, tmp_path):
    for model in ((), (*tiny_files.arguments, *tiny_files.overrides)):
        code, out, err = ovdet("describe", photo, *model, "--output", tmp_path / "out")
        assert code == 2 and not out and err.count("\n") == 1, err
        assert "caption" in err and "ovdet train --config-file lite/coca dataset.root=PATH" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.png"], "none.png"),
        (["train.seed=1"], "images or folders of them, got overrides alone"),
        (["{photo}", "--regions", "0"], "--regions of at least 1"),
        (["{photo}", "--threshold", "2"], "--threshold between 0 and 1"),
        (["{photo}", "--output", "{photo}"], "expected a folder to write to, "),
    ],
)
def test_mistakes_are_one_line(ovdet, writer, photo, words, message):
    words = [word.format(photo=photo) for word in words]
    code, out, err = ovdet("describe", *words, "--model", writer)
    assert code == 2 and not out and err.count("\n") == 1 and message in err, err


def test_a_photo_that_cannot_be_read_stops_no_other(ovdet, writer, photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no photo")
    (folder / "b.png").write_bytes(photo.read_bytes())
    code, out, err = ovdet("describe", folder, "--model", writer, "--output", tmp_path / "out")
    assert code == 2 and out.startswith(str(tmp_path / "out/b.png")) and "a.png" in err
    (row,) = json.loads((tmp_path / "out/detections.json").read_text())
    assert row["detections"] and row["image"].endswith("b.png")
