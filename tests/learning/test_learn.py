"""Learned classes with the tiny detector: other scores stay to the bit; files; what is refused; the commands."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ovdet.class_embeddings import NEGATIVE
from ovdet.errors import InputError
from ovdet.inference.load import load_predictor
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.inference.shown import thresholds_of
from ovdet.learning.classes_file import load_all_classes, load_classes, save_classes
from ovdet.learning.examples import LabeledRegions, label_regions
from ovdet.learning.learn import name_shares
from ovdet.learning.probe import BACKGROUND, IGNORED
from ovdet.modeling.fingerprint import detector_fingerprint
from ovdet.text.classes import join_classes
from ovdet.text.embeddings import TextEmbeddings, load_embeddings

ASKED = ["red circle", "wheel"]
ALL = dict(threshold=0, class_agnostic_iou=1, max_containment=1)


@pytest.fixture(scope="module")
def predictor(tiny_files) -> OpenVocabPredictor:
    _, config, _, weights = tiny_files.arguments
    return load_predictor(None, config, weights, overrides=tiny_files.overrides, device="cpu")


@pytest.fixture(scope="module")
def data(striped):
    return striped


def examples(data) -> list:
    found = json.loads((data / "my.json").read_text())["annotations"]
    return [(data / f"{a['image_id']}.png", [[x, y, x + w, y + h]]) for a in found for x, y, w, h in [a["bbox"]]]


@pytest.fixture(scope="module")
def learned(predictor, data):
    return predictor.learn("zebra crossing", examples(data)[:4])


def of_names(found, names):
    kept = [index for index, label in enumerate(found.labels) if label in names]
    return found.boxes[kept], found.scores[kept], [found.labels[index] for index in kept]


def test_a_learned_class_is_found_and_other_scores_stay_to_the_bit(predictor, data, learned):
    before = predictor.embed(ASKED)
    both = join_classes(before, learned)
    weights = {key: value.clone() for key, value in predictor.model.state_dict().items()}
    for photo, (box,) in examples(data)[4:]:
        alone, together = predictor(photo, classes=before, **ALL), predictor(photo, classes=both, **ALL)
        for expected, found in zip(of_names(alone, ASKED), of_names(together, ASKED), strict=True):
            assert np.array_equal(expected, found) and len(found)
        assert list(together.scores) == sorted(together.scores, reverse=True)
        own = predictor(photo, classes=learned, **ALL)
        assert np.array_equal(own.scores, of_names(together, ["zebra crossing"])[1])
        x, y = (own.boxes[0, :2] + own.boxes[0, 2:]) / 2
        assert box[0] < x < box[2] and box[1] < y < box[3]
    assert all(torch.equal(value, weights[key]) for key, value in predictor.model.state_dict().items())


def test_a_learned_name_that_was_asked_for_goes_on_as_a_negative(predictor, data):
    wheel = predictor.learn("wheel", examples(data)[:2])
    before = predictor.embed(ASKED, negatives=())
    both = join_classes(before, wheel)
    assert both.names == tuple(ASKED) and both.class_ids.tolist() == [0, NEGATIVE]
    photo = data / "5.png"
    alone, together = predictor(photo, classes=before, **ALL), predictor(photo, classes=both, **ALL)
    circles = [of_names(found, ["red circle"])[1] for found in (alone, together)]
    assert np.array_equal(circles[0], circles[1][: len(circles[0])])
    with pytest.raises(InputError, match="'wheel' twice"):
        join_classes(both, wheel)


def test_a_name_is_replaced_by_the_rule_for_equal_names(predictor, data):
    wheels = predictor.learn("Wheels_of a  Cart.", examples(data)[:2])
    both = join_classes(predictor.embed(["wheels of a cart", "red circle"], negatives=()), wheels)
    assert both.names == ("wheels of a cart", "red circle")
    assert both.class_ids.tolist() == [NEGATIVE, 1] and both.learned.class_ids.tolist() == [0]


def test_learning_is_repeatable(predictor, data, learned):
    again = predictor.learn("zebra crossing", examples(data)[:4])
    assert torch.equal(again.learned.weights, learned.learned.weights)


def test_a_file_gives_the_same_and_another_detector_refuses_it(predictor, data, learned, tmp_path):
    save_classes(tmp_path / "my.safetensors", learned)
    loaded = load_classes(tmp_path / "my.safetensors")
    assert loaded.names == learned.names and torch.equal(loaded.learned.weights, learned.learned.weights)
    first, second = (predictor(data / "5.png", classes=each, **ALL) for each in (learned, loaded))
    assert np.array_equal(first.scores, second.scores)
    lite = OpenVocabPredictor.from_pretrained("ovdet-lite-base48", device="cpu")
    with pytest.raises(InputError, match=f"{lite.fingerprint}.*{predictor.fingerprint}"):
        lite(data / "5.png", classes=loaded)
    with pytest.raises(InputError, match="'zebra crossing' twice"):
        load_all_classes([tmp_path / "my.safetensors"] * 2)
    with pytest.raises(InputError, match="one detector"):
        join_classes(loaded, replace(predictor.learn("wheel", examples(data)[:1]), detector="another"))
    with pytest.raises(InputError, match="no file"):
        load_classes(tmp_path / "none.safetensors")
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    with pytest.raises(InputError, match="odd.safetensors"):
        load_classes(tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="of a detector"):
        save_classes(tmp_path / "names.safetensors", predictor.embed(ASKED))


def test_a_file_for_another_option_is_told(predictor, learned, tmp_path):
    """Names and classes both come as safetensors."""
    save_classes(tmp_path / "mine.safetensors", learned)
    with pytest.raises(InputError, match="embeddings, .*mine.safetensors is one of classes: --classes takes it"):
        load_embeddings(tmp_path / "mine.safetensors")
    matrix = torch.nn.functional.normalize(torch.ones(1, 4), dim=1)
    TextEmbeddings(matrix, ("dog",), ("a {}.",), "nobody", "0" * 16).save(tmp_path / "names.safetensors")
    with pytest.raises(InputError, match="classes, .*names.safetensors is one of embeddings: --names takes it"):
        load_classes(tmp_path / "names.safetensors")


def test_files_hold_all_kinds_of_rows_and_thresholds(predictor, data, learned, tmp_path):
    classes = join_classes(predictor.embed(["red circle", "wheel"], negatives=["dog"]), learned)
    classes = classes.with_thresholds({"wheel": 0.25}, predictor.fingerprint)
    save_classes(tmp_path / "my.safetensors", classes)
    loaded = load_classes(tmp_path / "my.safetensors")
    assert loaded.names == classes.names and loaded.detector == predictor.fingerprint
    for key in ("embeddings", "class_ids", "is_base"):
        assert torch.equal(getattr(loaded, key), getattr(classes, key))
    assert loaded.thresholds.nan_to_num(-1).tolist() == [-1, 0.25, -1]
    found = [predictor(data / "5.png", classes=each, **ALL) for each in (classes, loaded)]
    assert np.array_equal(found[0].scores, found[1].scores)


def test_a_threshold_of_a_class_decides_what_is_shown(predictor, data, learned):
    scores = predictor(data / "5.png", classes=learned, **ALL).scores
    middle = float(scores[len(scores) // 2])
    strict = learned.with_thresholds({"zebra crossing": middle}, predictor.fingerprint)
    shown = predictor(data / "5.png", classes=strict, class_agnostic_iou=1, max_containment=1)
    assert len(shown) == (scores >= np.float32(middle)).sum()
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        learned.with_thresholds({"zebra crossing": 1.5}, predictor.fingerprint)


def test_joined_files_score_as_alone(predictor, data, learned):
    other = predictor.learn("wheel", examples(data)[2:4])
    joined = join_classes(other, learned)
    found = predictor(data / "5.png", classes=joined, **ALL)
    alone = predictor(data / "5.png", classes=learned, **ALL)
    scores = of_names(found, ["zebra crossing"])[1]
    assert len(scores) and np.allclose(scores, alone.scores[: len(scores)], atol=1e-5)


def test_the_fingerprint_is_of_half_precision(predictor):
    before = detector_fingerprint(predictor.model)
    bias = predictor.model.roi_heads.box_predictor.bbox_pred.bias.data
    kept = bias.clone()
    bias.copy_(bias.half())
    assert detector_fingerprint(predictor.model) == before
    bias += 1
    assert detector_fingerprint(predictor.model) != before
    bias.copy_(kept)


def test_labels_of_regions():
    objects = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [50, 50, 60, 60], [80, 80, 90, 90]])
    labels, weights = label_regions(boxes, objects, torch.tensor([1, IGNORED]))
    assert labels.tolist() == [1, 1, IGNORED, IGNORED, BACKGROUND]
    assert weights.tolist() == [0.5, 0.5, 1, 1, 1]
    labels, weights = label_regions(boxes, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert set(labels.tolist()) == {BACKGROUND} and weights.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[10, 10, 10, 40]], r"10.0, 10.0, 10.0, 40.0"),
        ([[300, 10, 350, 40]], "200 x 160"),
        ([[10, 10, torch.nan, 40]], "finite numbers.*nan, 40.0"),
        ([[10, 10, torch.inf, 40]], "finite numbers.*inf, 40.0"),
        ([[10, 10, 40]], "x1, y1, x2, y2 in .*0.png, got .*10, 10, 40"),
        ("all", "got all"),
        ([], "zebra crossing"),
    ],
)
def test_boxes_that_are_none(predictor, data, boxes, message):
    with pytest.raises(InputError, match=message):
        predictor.learn("zebra crossing", [(data / "0.png", boxes)])


@pytest.mark.parametrize("examples", [["photo.png"], [("photo.png", [1, 2, 3, 4], "more")], [3]])
def test_examples_that_are_no_pairs(predictor, examples):
    with pytest.raises(InputError, match="pairs of a photo and its boxes, got"):
        predictor.learn("zebra crossing", examples)


def test_the_commands(tiny_files, run_tool, data, tmp_path):
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    file, annotated = tmp_path / "my.safetensors", ["--annotations", data / "my.json", "--images", data]
    code, told, _ = run_tool("learn.py", *annotated, "--output", file, *detector)
    assert code == 0 and "1 learned from 6 photos" in told
    seen = ["--input", data / "5.png", "--output", tmp_path / "demo", "--threshold", "0", *detector]
    assert run_tool("demo.py", *seen, "--classes", file, "--vocabulary", "red circle")[0] == 0
    found = json.loads((tmp_path / "demo/detections.json").read_text())[0]["detections"]
    assert {each["label"] for each in found} == {"zebra crossing", "red circle"}
    assert run_tool("demo.py", *seen, "--classes", file)[0] == 0
    found = json.loads((tmp_path / "demo/detections.json").read_text())[0]["detections"]
    assert {each["label"] for each in found} == {"zebra crossing"}
    figures = []
    for number, more in enumerate(([], ["--classes", file])):
        output = tmp_path / f"evaluation{number}"
        assert run_tool("evaluate.py", *annotated, "--output", output, *detector, *more)[0] == 0
        figures.append((output / "metrics.json").read_text())
    assert figures[0] != figures[1]
    # what is refused
    for name, arguments, message in (
        ("learn.py", [*annotated, "--output", file, "--name", "cat"], "cat"),
        ("learn.py", [*annotated, "--output", tmp_path / "my.txt"], "my.txt"),
        ("demo.py", [*seen], "none of them"),
        ("demo.py", ["--input", data / "5.png", "--output", tmp_path / "demo", "--classes", file], "another's"),
    ):
        code, _, error = run_tool(name, *arguments, *(detector if name == "learn.py" else []))
        assert code == 2 and message in error and len(error.strip().splitlines()) == 1


def test_photos_of_another_json_are_background(tiny_files, run_tool, data, tmp_path):
    content = json.loads((data / "my.json").read_text())
    content["annotations"] = content["annotations"][:2]  # the other four show none
    (tmp_path / "other.json").write_text(json.dumps(content))
    arguments = ["--annotations", data / "my.json", "--images", data, "--negatives-from", tmp_path / "other.json"]
    file = tmp_path / "my.safetensors"
    code, told, _ = run_tool("learn.py", *arguments, "--output", file, *tiny_files.arguments, *tiny_files.overrides)
    assert code == 0 and "from 10 photos" in told


@pytest.mark.slow
def test_compare_says_what_names_and_examples_give(tiny_files, run_tool, data, tmp_path):
    arguments = ["--annotations", data / "my.json", "--images", data, "--output", tmp_path / "my.safetensors"]
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    code, told, _ = run_tool("learn.py", *arguments, "--compare", "--json", *detector)
    assert code == 0
    told = json.loads(told)
    assert [each["method"] for each in told["compared"]] == ["text", "learned", "learned + text"]
    assert all(0 <= each["AP50"] <= 100 for each in told["compared"]) and told["compared"][1]["shots"] == 4
    code, told, _ = run_tool("learn.py", *arguments, "--compare", *detector)
    assert code == 0 and "learned + text" in told and "1 learned from 6 photos" in told


def test_what_a_name_means_can_be_left_out(predictor, data, learned):
    alone, both = predictor.learn("zebra crossing", examples(data)[:4], use_name=False), learned
    width = both.width
    assert not alone.learned.weights[:, -width:].any()
    name, weights = predictor.name_embeddings(["zebra crossing"]), both.learned.weights[:, -width:]
    assert (share := weights @ name.t()) >= 0 and torch.allclose(weights, share * name, atol=1e-6)
    assert torch.equal(both.learned.weights[:, :-width], alone.learned.weights[:, :-width])


def test_little_is_told(tiny_files, run_tool, data, tmp_path):
    content = json.loads((data / "my.json").read_text())
    content["images"], (one, *_) = content["images"][:1], content["annotations"]
    content["annotations"] = [{**one, "id": number} for number in range(6)]
    (tmp_path / "one.json").write_text(json.dumps(content))
    arguments = ["--annotations", tmp_path / "one.json", "--images", data, "--output", tmp_path / "my.safetensors"]
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    code, _, error = run_tool("learn.py", *arguments, *detector)
    assert code == 0 and error.count("zebra crossing: all 6 boxes are of one photo") == 1
    code, _, error = run_tool("learn.py", *arguments, "--compare", *detector)
    assert code == 2 and "got 1 in" in error
    code, _, error = run_tool("learn.py", *arguments, "--name", "zebra crossing", "--name", "Zebra_Crossing", *detector)
    assert code == 2 and "read alike" in error
    for each in content["annotations"]:
        each["bbox"] = [10, 10, 0, 40]
    (tmp_path / "one.json").write_text(json.dumps(content))
    code, _, error = run_tool("learn.py", *arguments, *detector)
    assert code == 2 and "error: expected boxes with an area to learn from in" in error.splitlines()[-1]


@pytest.mark.slow
def test_base_names_score_the_same_to_the_bit_beside_learned_ones(data, shared_data):
    """ovdet-lite-base48 on photos of COCO, before and after learning."""
    lite = OpenVocabPredictor.from_pretrained("ovdet-lite-base48", device="cpu")
    names = ["person", "cat", "dog", "car", "chair", "bottle"]
    mine = lite.learn("zebra crossing", examples(data)[:1])
    before = lite.embed(names)
    val = json.loads((shared_data / "coco_pool/instances_val.json").read_text())["images"][:3]
    counted = 0
    for image in val:
        photo = shared_data / "coco_pool/images" / image["file_name"]
        alone, both = (lite(photo, classes=each, **ALL) for each in (before, join_classes(before, mine)))
        for expected, found in zip(of_names(alone, names), of_names(both, names), strict=True):
            assert np.array_equal(expected, found)
        counted += len(alone)
    assert counted > 50


def test_learned_classes_have_a_default_threshold_of_their_own(predictor, learned):
    both = join_classes(predictor.embed(["red circle", "wheel"], negatives=()), learned)  # the first was trained
    assert thresholds_of(both).tolist() == pytest.approx([0.3, 0.08, 0.1])
    assert thresholds_of(both, {"zebra crossing": 0.5}).tolist() == pytest.approx([0.3, 0.08, 0.5])
    assert thresholds_of(both, {"Zebra_Crossing.": 0.5}).tolist() == pytest.approx([0.3, 0.08, 0.5])
    with pytest.raises(InputError, match=r"asked for, got one of 'zebra crosing' \(near it: 'zebra crossing'\)"):
        thresholds_of(both, {"zebra crosing": 0.5})


def test_a_name_counts_as_far_as_it_tells_examples_from_the_rest():
    random = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, BACKGROUND] * 20)
    similarities, logits = torch.randn(80, 3, generator=random), torch.randn(80, 3, generator=random) * 5
    similarities[labels == 0, 0] += 1
    similarities[labels == 1, 1] -= 1  # says the contrary
    similarities[:, 2] = 0  # says nothing
    regions = LabeledRegions(torch.zeros(80, 1), labels, torch.rand(80, generator=random))
    shares = name_shares(similarities, logits, regions)
    own, background = labels == 0, labels == BACKGROUND
    weights = torch.where(own, regions.weights, torch.ones(()))
    lowest = min(
        2 * roc_auc_score(own[kept], similarities[kept, 0], sample_weight=weights[kept]) - 1
        for kept in (own | background, ~background)
    )
    scale = logits[background, 0].std() / similarities[background, 0].std()
    assert lowest > 0.1 and float(shares[0]) == pytest.approx(float(lowest**2 * scale), rel=1e-4)
    assert shares[1:].tolist() == [0, 0]
    without_background = LabeledRegions(*(part[~background] for part in regions))
    assert torch.isfinite(name_shares(similarities[~background], logits[~background], without_background)).all()
