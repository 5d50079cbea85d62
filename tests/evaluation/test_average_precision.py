"""Average precision of the Rust engine, as it is fed here, against pycocotools: equal, not close."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from ovdet.errors import InputError
from ovdet.evaluation.average_precision import METRICS, CocoAP, average_precision
from ovdet.evaluation.ground_truth import index_ground_truth, load_ground_truth
from ovdet.evaluation.report import summarize_subsets

EXACT = {"rtol": 0, "atol": 1e-11}  # percent; sums in another order differ by 1e-14


def ids_of(content):
    return [category["id"] for category in content["categories"]]


def means(per_class):
    summary = summarize_subsets(per_class, [str(k) for k in range(len(per_class.objects))], {})
    return [summary["all"][metric] for metric in METRICS]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("max_detections", [100, 2])
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_pycocotools(judges, seed, max_detections, iou_type):
    content = judges.make_content(seed)
    detections = judges.make_detections(content, seed, masks=iou_type == "segm")
    found = average_precision(
        index_ground_truth(content), detections, ids_of(content), iou_type, max_detections=max_detections
    )
    expected = judges.run_pycocotools(content, detections, iou_type, max_detections=max_detections)
    np.testing.assert_allclose(means(found), judges.headline(expected), **EXACT)
    np.testing.assert_array_equal(np.nan_to_num(found.curves, nan=-1), expected[0, :, :, 0])
    assert 1 < means(found)[0] < 99
    for k in range(len(ids_of(content)) - 1):
        class_k = [found.figures[metric][k] for metric in METRICS]
        np.testing.assert_allclose(class_k, judges.headline(expected[:, :, [k]]), **EXACT)
    assert all(np.isnan(found.figures[metric][-1]) for metric in METRICS)  # the class without objects
    crowds = [annotation["category_id"] for annotation in content["annotations"] if not annotation["iscrowd"]]
    assert found.objects.tolist() == [crowds.count(category_id) for category_id in ids_of(content)]


@pytest.mark.parametrize("chosen", [slice(0, 3), [1], [4, 0, 5]])
def test_a_choice_of_classes_in_any_order(judges, chosen):
    content = judges.make_content()
    detections = judges.make_detections(content)
    category_ids = np.array(ids_of(content))[chosen].tolist()
    found = average_precision(index_ground_truth(content), detections, category_ids)
    expected = judges.run_pycocotools(content, detections, category_ids=sorted(category_ids))
    np.testing.assert_allclose(means(found), judges.headline(expected), **EXACT)
    for k, category_id in enumerate(category_ids):
        one = judges.run_pycocotools(content, detections, category_ids=[category_id])
        np.testing.assert_allclose(found.figures["AP"][k], judges.headline(one)[0], **EXACT)


def test_subsets_equal_separate_runs(judges):
    content = judges.make_content()
    detections = judges.make_detections(content)
    ids, names = ids_of(content), [category["name"] for category in content["categories"]]
    found = average_precision(index_ground_truth(content), detections, ids)
    summary = summarize_subsets(found, names, {"base": names[:3], "novel": [*names[3:], "a class of elsewhere"]})
    for subset, part in (("base", ids[:3]), ("novel", ids[3:]), ("all", ids)):
        expected = judges.headline(judges.run_pycocotools(content, detections, category_ids=part))
        np.testing.assert_allclose([summary[subset][metric] for metric in METRICS], expected, **EXACT)
    assert [summary[subset]["classes"] for subset in ("base", "novel", "all")] == [3, 2, 5]
    empty = summarize_subsets(found, names, {"novel": []})["novel"]
    assert np.isnan(empty["AP"]) and empty["classes"] == 0


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_images_added_in_any_portions_and_order(judges, iou_type):
    content = judges.make_content(3)
    detections = judges.make_detections(content, 3, masks=iou_type == "segm")
    truth = index_ground_truth(content)
    at_once = average_precision(truth, detections, ids_of(content), iou_type)
    scorer = CocoAP(truth, ids_of(content), iou_type)
    order = np.random.default_rng(0).permutation(list(truth.images)).tolist()
    for start in range(0, len(order), 5):
        scorer.add({i: [d for d in detections if d["image_id"] == i] for i in order[start : start + 5]})
    by_portions = scorer.result()
    for metric in METRICS:
        np.testing.assert_array_equal(by_portions.figures[metric], at_once.figures[metric])
    np.testing.assert_array_equal(by_portions.objects, at_once.objects)


@pytest.mark.parametrize(
    "rename", [lambda i: f"photo {i:05d}", lambda i: i + 2**53, lambda i: i - 1], ids=["strings", "large", "from zero"]
)
def test_ids_of_any_kind(judges, rename):
    """Image ids that no float and no 32 bits hold; annotation ids from 0, which pycocotools takes for none."""
    content = judges.make_content()
    detections = judges.make_detections(content)
    expected = judges.headline(judges.run_pycocotools(content, detections))
    for image in content["images"]:
        image["id"] = rename(image["id"])
    for entry in (*content["annotations"], *detections):
        entry["image_id"] = rename(entry["image_id"])
    for annotation in content["annotations"]:
        annotation["id"] -= 1
    for category in content["categories"]:
        category["id"] -= 2
    for entry in (*content["annotations"], *detections):
        entry["category_id"] -= 2
    assert ids_of(content)[0] == 0
    found = average_precision(index_ground_truth(content), detections, ids_of(content))
    np.testing.assert_allclose(means(found), expected, **EXACT)


def test_some_images_only(judges):
    content = judges.make_content()
    detections = judges.make_detections(content)
    some = [image["id"] for image in content["images"]][:5]
    found = average_precision(index_ground_truth(content), detections, ids_of(content), image_ids=some)
    part = {
        **content,
        "images": content["images"][:5],
        "annotations": [a for a in content["annotations"] if a["image_id"] in some],
    }
    expected = judges.run_pycocotools(part, [d for d in detections if d["image_id"] in some])
    np.testing.assert_allclose(means(found), judges.headline(expected), **EXACT)


def test_truth_without_area_and_iscrowd(judges):
    content = judges.make_content()
    for annotation in content["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    expected = judges.headline(judges.run_pycocotools(content, judges.make_detections(content)))
    for annotation in content["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    found = average_precision(index_ground_truth(content), judges.make_detections(content), ids_of(content))
    np.testing.assert_allclose(means(found), expected, **EXACT)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = annotation["area"] = None
    found = average_precision(index_ground_truth(content), judges.make_detections(content), ids_of(content))
    np.testing.assert_allclose(means(found), expected, **EXACT)


def test_objects_and_detections_without_area(judges):
    content = judges.make_content()
    for annotation in content["annotations"][::2]:
        annotation["bbox"][2:] = [0.0, 0.0]
        annotation.update(area=0.0, iscrowd=0)
    detections = judges.make_detections(content)
    assert any(detection["bbox"][2] == 0 for detection in detections)
    found = average_precision(index_ground_truth(content), detections, ids_of(content))
    np.testing.assert_allclose(means(found), judges.headline(judges.run_pycocotools(content, detections)), **EXACT)


def test_crowds_as_run_lengths(judges):
    """As COCO's json has them: uncompressed counts."""
    content = judges.make_content()
    for annotation in content["annotations"]:
        if annotation["iscrowd"]:
            x, y, width, height = (int(value) for value in annotation["bbox"])
            counts = [120 * x + y, height]
            counts += [120 - height, height] * (width - 1)
            annotation["segmentation"] = {"size": [120, 160], "counts": [*counts, 120 * 160 - sum(counts)]}
    detections = judges.make_detections(content, masks=True)
    found = average_precision(index_ground_truth(content), detections, ids_of(content), "segm")
    np.testing.assert_allclose(
        means(found), judges.headline(judges.run_pycocotools(content, detections, "segm")), **EXACT
    )


def test_no_detections_and_no_objects(judges, capfd):
    content = judges.make_content()
    found = average_precision(index_ground_truth(content), [], ids_of(content))
    assert found.figures["AP"][:-1].tolist() == [0.0] * 5 and np.isnan(found.figures["AP"][-1])
    found = average_precision(index_ground_truth({**content, "annotations": []}), [], ids_of(content))
    assert np.isnan(found.figures["AP"]).all() and found.objects.tolist() == [0] * 6
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("unknown", [-1, -1.0, None, "absent"])
def test_areas_that_a_tool_does_not_know_are_the_boxes(judges, unknown):
    """-1 everywhere made every figure nan."""
    content = judges.make_content()
    for annotation in content["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    detections = judges.make_detections(content)
    expected = means(average_precision(index_ground_truth(copy.deepcopy(content)), detections, ids_of(content)))
    for annotation in content["annotations"]:
        annotation.pop("area")
        annotation.update({} if unknown == "absent" else {"area": unknown})
    found = means(average_precision(index_ground_truth(content), detections, ids_of(content)))
    assert np.isfinite(found[0])
    np.testing.assert_array_equal(found, expected)


def test_nothing_given_is_changed(judges, capfd):
    content = judges.make_content()
    for masks, iou_type in ((False, "bbox"), (True, "segm")):
        detections = judges.make_detections(content, masks=masks)
        before = copy.deepcopy((content, detections))
        average_precision(index_ground_truth(content), detections, ids_of(content), iou_type)
        assert (content, detections) == before
    assert capfd.readouterr() == ("", "")


def test_what_is_refused(judges):
    content = judges.make_content()
    truth, ids, detections = index_ground_truth(content), ids_of(content), judges.make_detections(content)
    for category_ids in ([ids[0], 999], [ids[0], ids[0]], []):
        with pytest.raises(InputError, match="class ids"):
            average_precision(truth, detections, category_ids)
    first = detections[0]
    for strange, message in (
        ({**first, "image_id": 77}, "unknown image ids: 77"),
        ({**first, "category_id": 999}, "unknown category ids: 999"),
        ({**first, "score": float("nan")}, "finite"),
        ({**first, "bbox": [0, 0, float("inf"), 1]}, "finite"),
        ({key: value for key, value in first.items() if key != "bbox"}, "no 'bbox'"),
        ({key: value for key, value in first.items() if key != "score"}, "no 'score'"),
    ):
        with pytest.raises(InputError, match=message):
            average_precision(truth, [strange], ids)
    with pytest.raises(InputError, match="no 'segmentation'"):
        average_precision(truth, detections, ids, "segm")
    mask = judges.make_detections(content, masks=True)[0]
    with pytest.raises(InputError, match=r"masks of \[120, 160\] pixels on image .* got .*\[3, 4\]"):
        average_precision(truth, [{**mask, "segmentation": {"size": [3, 4], "counts": "<"}}], ids, "segm")
    with pytest.raises(InputError, match="run lengths fill image"):
        average_precision(truth, [{**mask, "segmentation": {"size": [120, 160], "counts": "o" * 99}}], ids, "segm")
    with pytest.raises(InputError, match="unknown image ids: 78"):
        average_precision(truth, [], ids, image_ids=[1, 78])
    with pytest.raises(InputError, match="at least 1"):
        average_precision(truth, [], ids, max_detections=0)
    broken = copy.deepcopy(content)
    broken["annotations"][0]["segmentation"] = {"size": [4000, 4000], "counts": "o" * 99}
    with pytest.raises(InputError, match=f"those of annotation {broken['annotations'][0]['id']} do not"):
        average_precision(index_ground_truth(broken), [], ids, "segm")
    del content["annotations"][0]["segmentation"]
    with pytest.raises(InputError, match="ground truth with a segmentation"):
        average_precision(truth, [], ids, "segm")
    with pytest.raises(ValueError, match="iou_type"):
        average_precision(truth, detections, ids, "keypoints")


def golden(folder, truth_file, detections_file):
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here")
    content = json.loads((folder / truth_file).read_text())
    return content, load_ground_truth(folder / truth_file), json.loads((folder / detections_file).read_text())


@pytest.mark.parametrize(
    ("iou_type", "kind", "expected"), [("bbox", "bbox", 0.5045806987249628), ("segm", "segm", 0.3195452758576433)]
)
def test_golden_cocoapi(judges, shared_data, iou_type, kind, expected):
    files = "instances_val2014_100.json", f"instances_val2014_fake{kind}100_results.json"
    content, truth, detections = golden(shared_data / "golden" / "coco_fake100", *files)
    found = average_precision(truth, detections, list(truth.names), iou_type)
    assert means(found)[0] / 100 == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(
        means(found), judges.headline(judges.run_pycocotools(content, detections, iou_type)), **EXACT
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_golden_detectron2(judges, shared_data, iou_type):
    folder = shared_data / "golden" / "detectron2"
    content, truth, detections = golden(folder, "gt_annotations.json", "detections.json")
    found = average_precision(truth, detections, list(truth.names), iou_type)
    stats = json.loads((folder / "expected_pycocotools_stats.json").read_text())[iou_type][:6]
    expected = [np.nan if value < 0 else value for value in stats]
    np.testing.assert_allclose(np.array(means(found)) / 100, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        means(found), judges.headline(judges.run_pycocotools(content, detections, iou_type)), **EXACT
    )


@pytest.mark.slow  # beside the golden figures of COCO's own API
def test_golden_yolox(judges, shared_data):
    folder = shared_data / "golden" / "coco_pool_yolox"
    content, truth, detections = golden(folder, "../../coco_pool/instances_val.json", "detections.json")
    expected = json.loads((folder / "expected.json").read_text())["stats"][:6]
    found = average_precision(truth, detections, list(truth.names))
    np.testing.assert_allclose(np.array(means(found)) / 100, expected, rtol=0, atol=1e-12)
    split = json.loads((shared_data / "coco_pool" / "ov_coco_split.json").read_text())
    summary = summarize_subsets(found, list(truth.names.values()), {"novel": split["novel17"]})
    novel = [category_id for category_id, name in truth.names.items() if name in split["novel17"]]
    expected = judges.headline(judges.run_pycocotools(content, detections, category_ids=novel))
    np.testing.assert_allclose([summary["novel"][metric] for metric in METRICS], expected, **EXACT)
