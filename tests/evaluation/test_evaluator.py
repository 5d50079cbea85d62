"""The evaluator: from a model's outputs to the table, equal to detectron2's COCOEvaluator and the same on two ranks."""

from __future__ import annotations

import csv
import json
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from PIL import Image

from ovdet.errors import InputError
from ovdet.evaluation.evaluator import OpenVocabEvaluator
from ovdet.evaluation.predictions import PredictionFile

NAMES = ["cat", "dog", "cow", "unused"]
IDS = [4, 7, 11, 13]
SIZE = (60, 80)
ROOT = Path(__file__).parents[2]


def make_json(path):
    """Ten images with two objects of each class, one of them a crowd at times; masks are the boxes."""
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(1, 11)]
    annotations = []
    for image in images:
        for category_id in IDS * 2:
            x, y, w, h = (int(v) for v in rng.integers((0, 0, 10, 10), (40, 30, 40, 30)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category_id,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    categories = [{"id": i, "name": n} for i, n in zip(IDS, NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return content


@pytest.fixture
def registered(tmp_path, request):
    """A function that registers the dataset with its first `number` classes; its json's content."""
    content = make_json(tmp_path / "truth.json")
    names = []

    def register(number=3, novel=("cow",)):
        name = f"{request.node.name}_{number}"
        MetadataCatalog.pop(name, None)
        MetadataCatalog.get(name).set(
            json_file=str(tmp_path / "truth.json"),
            thing_classes=NAMES[:number],
            thing_dataset_id_to_contiguous_id={category_id: k for k, category_id in enumerate(IDS[:number])},
            base_classes=[n for n in NAMES[:number] if n not in novel],
            novel_classes=list(novel),
        )
        names.append(name)
        return name

    yield register, content
    for name in names:
        MetadataCatalog.pop(name, None)


def make_outputs(content, number=3, masks=False):
    """What a fair detector of the first classes would give for each image."""
    rng = np.random.default_rng(1)
    batches = []
    for image in content["images"]:
        objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        objects = [a for a in objects if a["category_id"] in IDS[:number]]
        boxes = np.array([a["bbox"] for a in objects], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances(SIZE)
        instances.pred_boxes = Boxes(torch.from_numpy(boxes + rng.normal(0, 2, boxes.shape).astype(np.float32)))
        instances.scores = torch.from_numpy(rng.random(len(objects)).astype(np.float32))
        instances.pred_classes = torch.tensor([IDS.index(a["category_id"]) for a in objects])
        instances.pred_classes[::3] = 0
        if masks:
            instances.pred_masks = torch.zeros(len(objects), *SIZE, dtype=torch.bool)
            for mask, (x1, y1, x2, y2) in zip(instances.pred_masks, instances.pred_boxes.tensor.int(), strict=True):
                mask[max(y1, 0) : y2, max(x1, 0) : x2] = True
        batches.append(({"image_id": image["id"]}, {"instances": instances}))
    return batches


def run(evaluator, batches):
    evaluator.reset()
    for image, output in batches:
        evaluator.process([image], [output])
    return evaluator.evaluate()


@pytest.mark.parametrize("iou_types", [("bbox",), ("bbox", "segm")])
def test_equal_to_detectron2(registered, iou_types):
    """On all the json's classes, where detectron2's evaluator can say something, the numbers are its."""
    register, content = registered
    name = register(4)
    batches = make_outputs(content, 4, masks="segm" in iou_types)
    expected = run(COCOEvaluator(name, tasks=iou_types, distributed=False), batches)
    results = run(OpenVocabEvaluator(name, iou_types=iou_types), batches)
    assert list(results) == list(iou_types)
    for iou_type in iou_types:
        for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
            assert results[iou_type][metric] == pytest.approx(expected[iou_type][metric], abs=1e-9, nan_ok=True)
        for metric in ("AP", "AP50", "AP75"):
            assert results[iou_type][metric] == results[iou_type][f"{metric}-all"]
        base = np.mean([expected[iou_type][f"AP-{n}"] for n in ("cat", "dog", "unused")])
        assert results[iou_type]["AP-base"] == pytest.approx(base, abs=1e-9)
        assert results[iou_type]["AP-novel"] == pytest.approx(expected[iou_type]["AP-cow"], abs=1e-9)
        assert 1 < results[iou_type]["AP50-novel"] < 99


FILES = ["detections.json", "metrics.json", "per_class.csv", "per_class.png", "precision_recall.png"]


def test_files_and_table(registered, tmp_path, caplog):
    register, content = registered
    with caplog.at_level(logging.INFO):
        results = run(OpenVocabEvaluator(register(), tmp_path / "out"), make_outputs(content))["bbox"]
    assert "generalized, 3-way" in caplog.text
    rows = [line.split() for line in caplog.text.splitlines() if line.startswith(("base", "novel", "all"))]
    assert [row[0] for row in rows] == ["base", "novel", "all"] and [row[-1] for row in rows] == ["2", "1", "3"]
    assert rows[1][2] == f"{results['AP50-novel']:.2f}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["setting"], metrics["vocabulary"], metrics["iou_type"]) == ("generalized", 3, "bbox")
    assert metrics["images"] == 10
    assert metrics["protocol"] == "COCO: at most 100 detections per image and class; all names compete"
    for subset in ("base", "novel", "all"):
        for metric in ("AP", "AP50", "AP75"):
            assert metrics[subset][metric] == round(results[f"{metric}-{subset}"], 4)
    assert set(metrics["all"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "classes"}
    assert metrics["all"]["APl"] is None  # no photo is that large
    cow = metrics["per_class"]["cow"]
    assert cow["AP50"] == round(results["AP50-novel"], 4) and cow["subset"] == "novel"
    crowds = [a["iscrowd"] for a in content["annotations"] if a["category_id"] == 11]
    assert cow["objects"] == crowds.count(0)
    with (tmp_path / "out" / "per_class.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["class"], line["subset"]) for line in lines] == [("cat", "base"), ("dog", "base"), ("cow", "novel")]
    assert float(lines[2]["AP50"]) == pytest.approx(cow["AP50"], abs=1e-4)
    for name in ("per_class.png", "precision_recall.png"):
        assert Image.open(tmp_path / "out" / name).size[0] > 500


def test_detections_are_cocos_results(registered, tmp_path, judges):
    """Original class ids, XYWH of the original; pycocotools says of them what the evaluator says."""
    register, content = registered
    results = run(OpenVocabEvaluator(register(), tmp_path), make_outputs(content))["bbox"]
    written = json.loads((tmp_path / "detections.json").read_text())
    assert {detection["category_id"] for detection in written} == set(IDS[:3])
    image, output = make_outputs(content)[0]
    first = next(detection for detection in written if detection["image_id"] == image["image_id"])
    x1, y1, x2, y2 = output["instances"].pred_boxes.tensor[0].tolist()
    np.testing.assert_allclose(first["bbox"], [x1, y1, x2 - x1, y2 - y1], rtol=1e-5)
    for ids, subset in ((IDS[:2], "base"), (IDS[2:3], "novel"), (IDS[:3], "all")):
        expected = judges.headline(judges.run_pycocotools(content, written, category_ids=ids))
        found = [results[f"{metric}-{subset}"] for metric in ("AP", "AP50", "AP75")]
        np.testing.assert_allclose(found, expected[:3], rtol=0, atol=1e-9)


def test_boxes_on_top_and_masks_beside(registered, tmp_path):
    register, content = registered
    evaluator = OpenVocabEvaluator(register(), tmp_path, ("bbox", "segm"))
    results = run(evaluator, make_outputs(content, masks=True))
    boxes, masks = (round(results[iou_type]["AP-novel"], 4) for iou_type in ("bbox", "segm"))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["iou_type"] == "bbox" and metrics["novel"]["AP"] == boxes
    assert metrics["segm"]["novel"]["AP"] == metrics["segm"]["per_class"]["cow"]["AP"] == masks != boxes
    written = {path.name for path in tmp_path.iterdir()} - {"truth.json"}
    assert written == {*FILES, "per_class_segm.png", "precision_recall_segm.png"}
    assert (tmp_path / "per_class.csv").read_text().splitlines()[0].endswith("AP75,segm AP,segm AP50,segm AP75")


def test_novel_names_only(registered, tmp_path, caplog):
    register, content = registered
    name = register()
    MetadataCatalog.get(name).thing_classes.__init__(["cow"])
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id.clear()
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id[11] = 0
    evaluator = OpenVocabEvaluator(name, tmp_path)
    outputs = make_outputs(content)
    for _, output in outputs:
        output["instances"].pred_classes[:] = 0
    with caplog.at_level(logging.INFO):
        run(evaluator, outputs)
    assert "constrained (novel names only), 1-way" in caplog.text
    assert not any(line.startswith("base") for line in caplog.text.splitlines())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["setting"], metrics["vocabulary"]) == ("constrained", 1)
    assert metrics["protocol"].endswith("novel names only")
    assert metrics["base"]["AP"] is None and metrics["novel"] == metrics["all"]


def test_no_detections_and_no_novel_classes(registered, caplog):
    register, content = registered
    evaluator = OpenVocabEvaluator(register(novel=()))
    nothing = Instances(SIZE, pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    nothing.pred_classes = torch.zeros(0, dtype=torch.int64)
    results = run(evaluator, [({"image_id": 1}, {"instances": nothing})])["bbox"]
    assert results["AP"] == 0.0 and np.isnan(results["AP-novel"])
    assert np.isnan(results["AP50-base"])  # without novel classes there is nothing to tell base apart from
    assert "detected nothing on 1 images" in caplog.text and "9 of 10 images" in caplog.text
    caplog.clear()
    evaluator.process([{"image_id": 1}], [{"instances": nothing}])
    evaluator.evaluate(image_ids=[1])
    assert "were not run" not in caplog.text


def test_at_most_so_many_detections(registered):
    register, content = registered
    name, batches = register(), make_outputs(content)
    few = run(OpenVocabEvaluator(name, max_detections=1), batches)["bbox"]["AP"]
    assert 0 < few < run(OpenVocabEvaluator(name), batches)["bbox"]["AP"]


def test_lvis_is_told_apart(registered, tmp_path, caplog):
    register, content = registered
    content["images"][0]["neg_category_ids"] = [4]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    run(OpenVocabEvaluator(register()), make_outputs(content))
    assert "federated" in caplog.text


def test_a_repeated_image_counts_once(registered):
    register, content = registered
    evaluator = OpenVocabEvaluator(register())
    batches = make_outputs(content)
    assert run(evaluator, batches) == run(evaluator, batches + batches)


@pytest.mark.slow
def test_detections_are_not_in_memory_together(registered, tmp_path, monkeypatch):
    """Neither while the images are run nor while they are scored: Python's own peak stays far under what was kept."""
    register, content = registered
    content["images"] = [{**content["images"][0], "id": number} for number in range(1, 41)]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    monkeypatch.setattr("ovdet.evaluation.evaluator.IMAGES_AT_ONCE", 1)
    instances = Instances(SIZE, pred_boxes=Boxes(torch.ones(50, 4)), scores=torch.rand(50))
    instances.pred_classes = torch.zeros(50, dtype=torch.int64)
    instances.pred_masks = torch.rand(50, *SIZE) < 0.5  # noise makes long run lengths
    evaluator = OpenVocabEvaluator(register(), iou_types=("bbox", "segm"))
    evaluator.reset()
    tracemalloc.start()
    try:
        for image in content["images"]:
            evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
        kept = sum(length for _, length in evaluator._writer.file().lines.values())
        after_run, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        evaluator.evaluate()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept > 4e6 and after_run < kept / 5 and peak < kept / 3


def test_what_is_refused(registered, tmp_path):
    register, content = registered
    evaluator = OpenVocabEvaluator(register(2))
    image, output = make_outputs(content)[0]
    with pytest.raises(InputError, match="classes 0 to 1 .* got 0 to 2"):
        evaluator.process([image], [output])
    evaluator = OpenVocabEvaluator(register(3))
    evaluator.process([{"image_id": 77}], [output])
    with pytest.raises(InputError, match="77"):
        evaluator.evaluate()
    for field in ("scores", "pred_boxes"):
        _, broken = make_outputs(content)[0]
        value = broken["instances"].get(field)
        (value if field == "scores" else value.tensor)[0] = float("nan")
        with pytest.raises(InputError, match="nan or infinity on image 1"):
            OpenVocabEvaluator(register(3)).process([image], [broken])
    with pytest.raises(InputError, match="masks to evaluate segm"):
        OpenVocabEvaluator(register(3), iou_types=("segm",)).process([image], [output])
    with pytest.raises(InputError, match="json_file, thing_classes"):
        OpenVocabEvaluator("test_evaluator_never_registered")
    for iou_types in (("keypoints",), "bbox", ()):
        with pytest.raises(InputError, match="iou_types"):
            OpenVocabEvaluator(register(3), iou_types=iou_types)


def test_what_is_refused_before_the_images_are_run(registered, tmp_path):
    register, content = registered
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="place to write to"):
        OpenVocabEvaluator(register(), tmp_path / "file").reset()
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="segmentation in every annotation"):
        OpenVocabEvaluator(register(), iou_types=("segm",)).reset()
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(InputError, match="is not json"):
        OpenVocabEvaluator(register()).reset()
    assert not list(tmp_path.glob("**/*.part"))


def test_warning_of_annotation_zero_and_no_annotations(registered, tmp_path, caplog):
    register, content = registered
    name = register()
    content["annotations"][0]["id"] = 0
    (tmp_path / "truth.json").write_text(json.dumps(content))
    run(OpenVocabEvaluator(name), make_outputs(content))
    assert "id 0" in caplog.text
    (tmp_path / "truth.json").write_text(json.dumps({**content, "annotations": []}))
    assert run(OpenVocabEvaluator(name), make_outputs(content)) == {}
    assert "no annotations" in caplog.text


@pytest.mark.slow  # in the default tier tests/objectives has two
def test_two_processes_equal_one(registered, run_two_processes, tmp_path):
    """Images parted between two processes, one image run by both."""
    register, content = registered
    name, batches = register(), make_outputs(content)
    expected = run(OpenVocabEvaluator(name), batches)
    metadata = {key: value for key, value in MetadataCatalog.get(name).as_dict().items() if key != "name"}
    outputs = [(image, output["instances"].get_fields()) for image, output in batches]
    torch.save({"metadata": metadata, "size": SIZE, "outputs": outputs}, tmp_path / "outputs.pt")
    run_two_processes(Path(__file__).with_name("evaluate_share.py"), tmp_path)
    assert json.loads((tmp_path / "rank1.json").read_text()) == {}
    assert (tmp_path / "rank0.json").read_text() == json.dumps(expected)  # as text, where nan equals nan
    written = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(written) == sum(len(output["instances"]) for _, output in batches)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_machines_without_a_shared_folder_are_refused_before_any_photo_is_run(registered, tmp_path, monkeypatch):
    register, _ = registered
    evaluator = OpenVocabEvaluator(register(), tmp_path / "out")
    elsewhere = PredictionFile("/other/machine/.detections.part", {})
    monkeypatch.setattr(comm, "all_gather", lambda part: [part, elsewhere])
    with pytest.raises(InputError, match=f"all machines share, {elsewhere.path}"):
        evaluator.reset()
    monkeypatch.setattr(comm, "all_gather", lambda part: [part])
    evaluator.reset()
