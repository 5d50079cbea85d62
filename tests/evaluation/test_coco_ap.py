"""Average precision against plain pycocotools, detectron2's evaluator and stored golden results."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovdet.errors import InputError
from ovdet.evaluation.coco_ap import average_precision, load_ground_truth, summarise_subsets


def make_truth(num_images=12, num_classes=6, seed=0):
    """Ground truth with crowds, a class without objects (the last), and ids that are not in a row."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 3 * k + 2, "name": f"class {k}"} for k in range(num_classes)]
    images = [{"id": 10 * i + 1, "height": 200, "width": 300, "file_name": f"{i}.jpg"} for i in range(num_images)]
    annotations = []
    for image in images:
        for _ in range(rng.integers(2, 9)):
            x, y, width, height = (float(v) for v in rng.uniform((0, 0, 5, 5), (200, 120, 100, 80)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": categories[rng.integers(num_classes - 1)]["id"],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                }
            )
    return index({"images": images, "categories": categories, "annotations": annotations})


def index(content):
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def make_detections(truth, seed=1):
    """Shifted copies of the objects, some of another class, and boxes of nothing (of the objectless class too)."""
    rng = np.random.default_rng(seed)
    ids = sorted(truth.cats)
    detections = []
    for annotation in truth.dataset["annotations"]:
        for _ in range(rng.integers(0, 4)):
            category_id = annotation["category_id"] if rng.random() < 0.8 else ids[rng.integers(len(ids))]
            box = np.array(annotation["bbox"]) + rng.normal(0, 4, 4)
            score = float(np.round(rng.random(), 2))  # with ties
            detections.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category_id,
                    "bbox": [float(v) for v in (*box[:2], *np.maximum(box[2:], 1))],
                    "score": score,
                }
            )
    return detections


def run_pycocotools(truth, detections, iou_type="bbox", category_ids=None, max_detections=100):
    """AP, AP50, AP75 in percent of pycocotools itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        engine = COCOeval(copy.deepcopy(truth), truth.loadRes(copy.deepcopy(detections)), iou_type)
        if category_ids is not None:
            engine.params.catIds = list(category_ids)
        engine.params.maxDets = [1, max_detections]
        engine.evaluate()
        engine.accumulate()
    precision = engine.eval["precision"][:, :, :, 0, 1]
    return [float(part[part > -1].mean() * 100) for part in (precision, precision[0], precision[5])]


def means(per_class):
    summary = summarise_subsets(per_class, [str(k) for k in range(len(per_class["AP"]))], {})
    return [summary["all"][metric] for metric in ("AP", "AP50", "AP75")]


@pytest.mark.parametrize("max_detections", [100, 2])
@pytest.mark.parametrize("chosen", [slice(None), slice(0, 3), [1], [4, 0, 5]])
def test_equal_to_pycocotools_on_any_subset(chosen, max_detections):
    truth = make_truth()
    detections = make_detections(truth)
    category_ids = np.array(sorted(truth.cats))[chosen].tolist()
    per_class = average_precision(truth, detections, category_ids, max_detections=max_detections)
    expected = run_pycocotools(truth, detections, category_ids=category_ids, max_detections=max_detections)
    np.testing.assert_allclose(means(per_class), expected, atol=1e-10)
    assert 1 < expected[0] < 99
    for k, category_id in enumerate(category_ids):
        if category_id == max(truth.cats):
            assert np.isnan([per_class[metric][k] for metric in per_class]).all()
            continue
        one = run_pycocotools(truth, detections, category_ids=[category_id], max_detections=max_detections)
        np.testing.assert_allclose([per_class[metric][k] for metric in ("AP", "AP50", "AP75")], one, atol=1e-10)


def test_masks_equal_pycocotools():
    truth = make_truth()
    detections = make_detections(truth)
    for detection in detections:  # as detectron2 gives them: boxes and RLE
        x, y, width, height = detection["bbox"]
        image = {"segmentation": [[x, y, x + width, y, x, y + height]], "image_id": detection["image_id"]}
        detection["segmentation"] = truth.annToRLE(image)
    per_class = average_precision(truth, detections, sorted(truth.cats), "segm")
    without_boxes = [{k: v for k, v in detection.items() if k != "bbox"} for detection in detections]
    np.testing.assert_allclose(means(per_class), run_pycocotools(truth, without_boxes, "segm"), atol=1e-10)
    assert means(per_class)[1] != pytest.approx(means(average_precision(truth, detections, sorted(truth.cats)))[1])


def test_nothing_given_is_changed(capsys):
    truth, detections = make_truth(), make_detections(make_truth())
    for detection in detections:
        detection["segmentation"] = truth.annToRLE({"segmentation": [[0, 0, 9, 0, 9, 9]], "image_id": 1})
    before = copy.deepcopy((truth.dataset, truth.anns, detections))
    average_precision(truth, detections, sorted(truth.cats))
    average_precision(truth, detections, sorted(truth.cats), "segm")
    assert (truth.dataset, truth.anns, detections) == before
    assert capsys.readouterr().out == ""


def test_subsets_equal_separate_runs():
    truth = make_truth()
    detections = make_detections(truth)
    ids = sorted(truth.cats)
    names = [truth.cats[category_id]["name"] for category_id in ids]
    per_class = average_precision(truth, detections, ids)
    summary = summarise_subsets(per_class, names, {"base": names[:3], "novel": [*names[3:], "a class of elsewhere"]})
    for subset, part in (("base", ids[:3]), ("novel", ids[3:]), ("all", ids)):
        expected = run_pycocotools(truth, detections, category_ids=part)
        np.testing.assert_allclose([summary[subset][m] for m in ("AP", "AP50", "AP75")], expected, atol=1e-10)
    assert [summary[subset]["classes"] for subset in ("base", "novel", "all")] == [3, 2, 5]
    empty = summarise_subsets(per_class, names, {"novel": []})["novel"]
    assert np.isnan(empty["AP"]) and empty["classes"] == 0


def test_no_detections():
    truth = make_truth()
    for detections in ([], [{"image_id": 1, "category_id": 999, "bbox": [0, 0, 1, 1], "score": 1.0}]):
        per_class = average_precision(truth, detections, sorted(truth.cats))
        assert per_class["AP"][:-1].tolist() == [0.0] * 5 and np.isnan(per_class["AP"][-1])


def test_some_images_only():
    truth = make_truth()
    detections = make_detections(truth)
    some = sorted(truth.imgs)[:5]
    per_class = average_precision(truth, detections, sorted(truth.cats), image_ids=some)
    content = {
        "images": [truth.imgs[i] for i in some],
        "annotations": [a for a in truth.dataset["annotations"] if a["image_id"] in some],
        "categories": truth.dataset["categories"],
    }
    kept = [detection for detection in detections if detection["image_id"] in some]
    np.testing.assert_allclose(means(per_class), run_pycocotools(index(content), kept), atol=1e-10)


def test_truth_without_area_and_iscrowd():
    truth = make_truth()
    for annotation in truth.dataset["annotations"]:
        annotation["iscrowd"] = 0
    expected = run_pycocotools(truth, make_detections(truth))
    for annotation in truth.dataset["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    per_class = average_precision(truth, make_detections(truth), sorted(truth.cats))
    np.testing.assert_allclose(means(per_class), expected, atol=1e-10)


def test_boxes_of_zero_size():
    truth = make_truth()
    truth.dataset["annotations"][0]["bbox"][2:] = [0, 0]
    truth.dataset["annotations"][0].update(area=0, iscrowd=0)
    detections = make_detections(truth)
    per_class = average_precision(truth, detections, sorted(truth.cats))
    np.testing.assert_allclose(means(per_class), run_pycocotools(truth, detections), atol=1e-10)


def test_what_is_refused():
    truth = make_truth()
    ids = sorted(truth.cats)
    detections = make_detections(truth)
    for category_ids in ([ids[0], 999], [ids[0], ids[0]], []):
        with pytest.raises(InputError, match="class ids"):
            average_precision(truth, detections, category_ids)
    with pytest.raises(InputError, match="unknown image ids.*77"):
        average_precision(truth, [{**detections[0], "image_id": 77}], ids)
    with pytest.raises(InputError, match="detections with a segmentation"):
        average_precision(truth, detections, ids, "segm")
    for annotation in truth.dataset["annotations"]:
        del annotation["segmentation"]
    with pytest.raises(InputError, match="ground truth with a segmentation"):
        average_precision(truth, [], ids, "segm")
    with pytest.raises(ValueError, match="iou_type"):
        average_precision(truth, detections, ids, "keypoints")


def golden(folder, truth_file, detections_file):
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here")
    truth = load_ground_truth(str(folder / truth_file))
    return truth, json.loads((folder / detections_file).read_text())


@pytest.mark.parametrize(
    ("iou_type", "kind", "expected"), [("bbox", "bbox", 0.5045806987249628), ("segm", "segm", 0.3195452758576433)]
)
def test_golden_cocoapi(shared_data, iou_type, kind, expected):
    folder = shared_data / "golden" / "coco_fake100"
    truth, detections = golden(folder, "instances_val2014_100.json", f"instances_val2014_fake{kind}100_results.json")
    per_class = average_precision(truth, detections, sorted(truth.cats), iou_type)
    assert means(per_class)[0] / 100 == pytest.approx(expected, abs=1e-6)
    rounded = {"bbox": (0.505, 0.697, 0.573), "segm": (0.320, 0.562, 0.299)}[iou_type]  # val2014_fake_eval_res.txt
    np.testing.assert_allclose(np.array(means(per_class)) / 100, rounded, atol=6e-4)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_golden_detectron2(shared_data, iou_type):
    folder = shared_data / "golden" / "detectron2"
    truth, detections = golden(folder, "gt_annotations.json", "detections.json")
    expected = json.loads((folder / "expected_pycocotools_stats.json").read_text())[iou_type][:3]
    per_class = average_precision(truth, detections, sorted(truth.cats), iou_type)
    np.testing.assert_allclose(np.array(means(per_class)) / 100, expected, atol=1e-6)


def test_golden_yolox(shared_data):
    folder = shared_data / "golden" / "coco_pool_yolox"
    truth, detections = golden(folder, "../../coco_pool/instances_val.json", "detections.json")
    expected = json.loads((folder / "expected.json").read_text())["stats"][:3]
    ids = sorted(truth.cats)
    per_class = average_precision(truth, detections, ids)
    np.testing.assert_allclose(np.array(means(per_class)) / 100, expected, atol=1e-6)
    split = json.loads((shared_data / "coco_pool" / "ov_coco_split.json").read_text())
    names = [truth.cats[category_id]["name"] for category_id in ids]
    summary = summarise_subsets(per_class, names, {"base": split["base48"], "novel": split["novel17"]})
    assert summary["base"]["AP50"] == pytest.approx(37.6, abs=0.05)  # the README beside the data says so
    assert summary["novel"]["AP50"] == pytest.approx(42.5, abs=0.05)
