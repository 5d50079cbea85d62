"""The evaluator: from a model's outputs to the table, equal to detectron2's COCOEvaluator and the same on two ranks."""

from __future__ import annotations

import json
import logging
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from ovdet.errors import InputError
from ovdet.evaluation.evaluator import PER_CLASS_FILE, RESULTS_FILE, OpenVocabEvaluator

NAMES = ["cat", "dog", "cow", "unused"]
IDS = [4, 7, 11, 13]
SIZE = (60, 80)


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
        for metric in ("AP", "AP50", "AP75"):
            assert results[iou_type][metric] == pytest.approx(expected[iou_type][metric], abs=1e-9)
            assert results[iou_type][metric] == results[iou_type][f"{metric}-all"]
        base = np.mean([expected[iou_type][f"AP-{n}"] for n in ("cat", "dog", "unused")])
        assert results[iou_type]["AP-base"] == pytest.approx(base, abs=1e-9)
        assert results[iou_type]["AP-novel"] == pytest.approx(expected[iou_type]["AP-cow"], abs=1e-9)
        assert 1 < results[iou_type]["AP50-novel"] < 99


def test_files_and_table(registered, tmp_path, caplog):
    register, content = registered
    with caplog.at_level(logging.INFO):
        results = run(OpenVocabEvaluator(register(), tmp_path / "out"), make_outputs(content))
    assert "generalised (3-way)" in caplog.text
    rows = [line.split() for line in caplog.text.splitlines() if line.startswith(("base", "novel", "all"))]
    assert [row[0] for row in rows] == ["base", "novel", "all"] and [row[-1] for row in rows] == ["2", "1", "3"]
    assert rows[1][2] == f"{results['bbox']['AP50-novel']:.2f}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([RESULTS_FILE, PER_CLASS_FILE])
    written = json.loads((tmp_path / "out" / RESULTS_FILE).read_text())
    assert {detection["category_id"] for detection in written} == set(IDS[:3])
    image, output = make_outputs(content)[0]
    first = next(detection for detection in written if detection["image_id"] == image["image_id"])
    x1, y1, x2, y2 = output["instances"].pred_boxes.tensor[0].tolist()
    np.testing.assert_allclose(first["bbox"], [x1, y1, x2 - x1, y2 - y1], rtol=1e-5)
    per_class = json.loads((tmp_path / "out" / PER_CLASS_FILE).read_text())["bbox"]
    assert per_class["cow"]["AP50"] == pytest.approx(results["bbox"]["AP50-novel"])


def test_no_detections_and_no_novel_classes(registered, caplog):
    register, content = registered
    evaluator = OpenVocabEvaluator(register(novel=()))
    nothing = Instances(SIZE, pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    nothing.pred_classes = torch.zeros(0, dtype=torch.int64)
    results = run(evaluator, [({"image_id": 1}, {"instances": nothing})])["bbox"]
    assert results["AP"] == results["AP50-base"] == 0.0 and np.isnan(results["AP-novel"])
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
    with pytest.raises(InputError, match="json_file, thing_classes"):
        OpenVocabEvaluator("test_evaluator_never_registered")
    with pytest.raises(InputError, match="iou_types"):
        OpenVocabEvaluator(register(3), iou_types=("keypoints",))


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


def evaluate_rank(rank, port, name, batches, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    results = run(OpenVocabEvaluator(name), batches[rank::2])
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_ranks_equal_one(registered, tmp_path):
    register, content = registered
    name, batches = register(), make_outputs(content)
    expected = run(OpenVocabEvaluator(name), batches)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = mp.start_processes(
        evaluate_rank, (port, name, batches, tmp_path), nprocs=2, join=False, start_method="fork"
    )
    try:
        finished = [ranks.join(timeout=30) for _ in range(2)]  # each call waits for one rank and raises what it raised
        assert finished[-1]
    finally:
        for process in ranks.processes:
            process.kill()
    assert json.loads((tmp_path / "1.json").read_text()) == {}
    assert json.loads((tmp_path / "0.json").read_text()) == expected
