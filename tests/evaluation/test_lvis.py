"""LVIS's federated average precision against lvis-api, on ground truth with negative and half-annotated classes."""

from __future__ import annotations

import copy
import csv
import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from ovdet.errors import InputError
from ovdet.evaluation.average_precision import METRICS, LvisAP, average_precision
from ovdet.evaluation.evaluator import OpenVocabEvaluator, OpenVocabLVISEvaluator, build_evaluator
from ovdet.evaluation.ground_truth import index_ground_truth
from ovdet.evaluation.report import summarize_subsets

EXACT = {"rtol": 0, "atol": 1e-11}


@pytest.fixture
def run_lvis_api(monkeypatch, tmp_path):
    """lvis-api's precision, (T, R, K, A), and its results; as published it needs NumPy's old names."""
    monkeypatch.setattr(np, "float", float, raising=False)
    lvis = pytest.importorskip("lvis")
    logging.getLogger("lvis").setLevel(logging.ERROR)

    def run(content, detections, iou_type, max_detections=300):
        (tmp_path / "judge.json").write_text(json.dumps(content))
        truth = lvis.LVIS(str(tmp_path / "judge.json"))
        other = "segmentation" if iou_type == "bbox" else "bbox"
        plain = [{key: value for key, value in entry.items() if key != other} for entry in copy.deepcopy(detections)]
        engine = lvis.LVISEval(truth, lvis.LVISResults(truth, plain, max_detections), iou_type)
        engine.run()
        return engine.eval["precision"], engine.get_results()

    return run


def make_federated(judges, seed):
    """COCO's oddities, and classes that a photo is not annotated for, is free of, or is annotated for in part."""
    content = judges.make_content(seed, num_images=15)
    rng = np.random.default_rng(seed)
    ids = [category["id"] for category in content["categories"]]
    for image in content["images"]:
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        absent = sorted(set(ids) - present)
        image["neg_category_ids"] = [int(i) for i in rng.permutation(absent)[:2]]
        image["not_exhaustive_category_ids"] = [int(i) for i in rng.permutation(sorted(present))[:2]]
    for k, category in enumerate(content["categories"]):
        category["frequency"] = "rcf"[k % 3]
    for annotation in content["annotations"][::7]:
        annotation["bbox"][2:] = [0.0, 0.0]
        annotation["area"] = 0.0
    for annotation in content["annotations"][::11]:
        annotation["ignore"] = 1
    return content


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("max_detections", [300, 4])
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_lvis_api(judges, run_lvis_api, seed, max_detections, iou_type):
    content = make_federated(judges, seed)
    detections = judges.make_detections(content, seed, masks=iou_type == "segm")
    expected, results = run_lvis_api(content, detections, iou_type, max_detections)
    truth = index_ground_truth(content)
    found = average_precision(
        truth, detections, list(truth.names), iou_type, protocol=LvisAP, max_detections=max_detections
    )
    np.testing.assert_array_equal(np.nan_to_num(found.curves, nan=-1), expected[0, :, :, 0])
    counted = [a["category_id"] for a in content["annotations"] if a["area"] > 0 and not a.get("ignore")]
    assert found.objects.tolist() == [counted.count(category_id) for category_id in truth.names]
    names = list(truth.names.values())
    groups = {letter: [truth.names[i] for i, given in truth.frequencies.items() if given == letter] for letter in "rcf"}
    summary = summarize_subsets(found, names, groups)
    ours = [summary["all"][metric] for metric in METRICS] + [summary[letter]["AP"] for letter in "rcf"]
    theirs = [100 * results[key] if results[key] >= 0 else np.nan for key in (*METRICS, "APr", "APc", "APf")]
    np.testing.assert_allclose(ours, theirs, **EXACT)
    assert 1 < ours[0] < 99


def test_what_is_federated_matters(judges):
    """The same boxes score otherwise under COCO's rules, without the lists, and with a limit over all classes."""
    content = make_federated(judges, 1)
    detections = judges.make_detections(content, 1)

    def mean(**options):
        truth = index_ground_truth(content)
        return np.nanmean(average_precision(truth, detections, list(truth.names), **options).figures["AP"])

    federated = mean(protocol=LvisAP, max_detections=300)
    assert mean(max_detections=300) < federated  # what is not annotated counts against the detector
    assert mean(protocol=LvisAP, max_detections=5) < federated  # over all classes of a photo
    for image in content["images"]:
        image["not_exhaustive_category_ids"] = []
    assert mean(protocol=LvisAP, max_detections=300) < federated


def test_a_choice_of_classes(judges, run_lvis_api):
    """Novel names only: the limit counts the detections that are there, lists of other classes are passed over."""
    content = make_federated(judges, 2)
    chosen = [category["id"] for category in content["categories"]][1:4]
    detections = [d for d in judges.make_detections(content, 2) if d["category_id"] in chosen]
    expected, _ = run_lvis_api(content, detections, "bbox", 3)
    found = average_precision(index_ground_truth(content), detections, chosen, protocol=LvisAP, max_detections=3)
    np.testing.assert_array_equal(np.nan_to_num(found.curves, nan=-1), expected[0, :, 1:4, 0])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_more_than_the_limit_on_one_image(judges, run_lvis_api, iou_type):
    content = make_federated(judges, 3)
    detections = judges.make_detections(content, 3, masks=iou_type == "segm")
    crowded = next(image["id"] for image in content["images"] if image["id"] == detections[0]["image_id"])
    scores = np.random.default_rng(0).random(400).round(2).tolist()
    many = [d for d in detections if d["image_id"] == crowded] * 100
    many = [{**detection, "score": score} for detection, score in zip(many, scores, strict=False)]
    assert len(many) == 400
    expected, _ = run_lvis_api(content, many + detections, iou_type)
    found = average_precision(
        index_ground_truth(content), many + detections, [c["id"] for c in content["categories"]], iou_type,
        protocol=LvisAP, max_detections=300,
    )  # fmt: skip
    np.testing.assert_array_equal(np.nan_to_num(found.curves, nan=-1), expected[0, :, :, 0])


@pytest.fixture
def registered(judges, tmp_path, request):
    """A federated data set with its first class novel; its name, its json, outputs with masks."""
    content = make_federated(judges, 4)
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    names = [category["name"] for category in content["categories"]]
    rare = [category["name"] for category in content["categories"] if category["frequency"] == "r"]
    MetadataCatalog.pop(request.node.name, None)
    MetadataCatalog.get(request.node.name).set(
        json_file=str(tmp_path / "lvis.json"),
        thing_classes=names,
        thing_dataset_id_to_contiguous_id={c["id"]: k for k, c in enumerate(content["categories"])},
        base_classes=[name for name in names if name not in rare],
        novel_classes=rare,
        evaluator_type="ovdet_lvis",
    )
    yield request.node.name, content
    MetadataCatalog.pop(request.node.name, None)


def make_outputs(judges, content):
    """A detector's boxes, with rectangles as masks."""
    index = {category["id"]: k for k, category in enumerate(content["categories"])}
    detections = judges.make_detections(content, 4)
    for image in content["images"]:
        found = [d for d in detections if d["image_id"] == image["id"]]
        boxes = torch.tensor([d["bbox"] for d in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((image["height"], image["width"]), pred_boxes=Boxes(boxes))
        instances.scores = torch.tensor([d["score"] for d in found])
        instances.pred_classes = torch.tensor([index[d["category_id"]] for d in found], dtype=torch.int64)
        instances.pred_masks = torch.zeros(len(found), image["height"], image["width"], dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(instances.pred_masks, boxes.clamp(min=0).int(), strict=True):
            mask[y1:y2, x1:x2] = True
        yield {"image_id": image["id"]}, {"instances": instances}


def test_the_evaluator(registered, judges, run_lvis_api, tmp_path, caplog):
    """Files and results of boxes and masks; lvis-api says of detections.json what metrics.json says."""
    name, content = registered
    evaluator = build_evaluator(name, tmp_path / "out", ("bbox", "segm"))
    assert isinstance(evaluator, OpenVocabLVISEvaluator) and evaluator.max_detections == 300
    evaluator.reset()
    for image, output in make_outputs(judges, content):
        evaluator.process([image], [output])
    with caplog.at_level(logging.INFO):
        results = evaluator.evaluate()
    assert all(f"\n{subset}" in caplog.text for subset in ("base", "novel", "rare", "common", "frequent", "all"))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["protocol"] == "LVIS, federated: at most 300 detections per image; all names compete"
    detections = json.loads((tmp_path / "out" / "detections.json").read_text())
    for iou_type, section in (("bbox", metrics), ("segm", metrics["segm"])):
        _, expected = run_lvis_api(content, detections, iou_type)
        for key in ("AP", "AP50", "AP75", "APr", "APc", "APf"):
            assert results[iou_type][key] == pytest.approx(100 * expected[key], abs=1e-9)
            assert section["all"][key] == round(results[iou_type][key], 4)
        assert section["novel"] == section["rare"] and section["novel"]["AP"] == section["all"]["APr"]
        assert set(section["per_class"]) == set(evaluator.names)
    with (tmp_path / "out" / "per_class.csv").open() as stream:
        assert {line["subset"] for line in csv.DictReader(stream)} == {"base", "novel"}


def test_cocos_rules_on_lvis_are_told(registered, judges, caplog):
    name, content = registered
    evaluator = OpenVocabEvaluator(name)
    evaluator.process(*zip(*make_outputs(judges, content), strict=True))
    evaluator.evaluate()
    assert "not LVIS's federated one" in caplog.text


def test_a_json_that_is_not_lvis(registered, tmp_path):
    name, content = registered
    for image in content["images"]:
        del image["neg_category_ids"]
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected an LVIS json"):
        OpenVocabLVISEvaluator(name).reset()
