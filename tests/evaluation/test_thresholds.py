"""Thresholds against pycocotools' matching and a look at every score; false alarms on photos without a class."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovdet.errors import InputError
from ovdet.evaluation.ground_truth import index_ground_truth
from ovdet.evaluation.thresholds import (
    choose_threshold,
    match_detections,
    suggest_thresholds,
    suggestions_csv,
    threshold_between,
)


def drawn(seed: int = 0, photos: int = 12) -> tuple[dict, list[dict]]:
    """A json with two classes and crowds, and detections near its objects and elsewhere."""
    random = np.random.default_rng(seed)
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 200, "width": 200} for n in range(photos)]
    objects, found = [], []
    for n in range(photos):
        for _ in range(random.integers(0, 5)):
            box = [*random.uniform(0, 120, 2), *random.uniform(20, 80, 2)]
            new = {"id": len(objects) + 1, "image_id": n, "category_id": int(random.integers(1, 3)), "bbox": box}
            objects.append({**new, "area": box[2] * box[3], "iscrowd": int(random.random() < 0.2)})
            for _ in range(random.integers(0, 3)):
                near = (np.array(box) + random.normal(0, 8, 4)).tolist()
                found.append({**{k: new[k] for k in ("image_id", "category_id")}, "bbox": near})
        stray = [*random.uniform(0, 120, 2), *random.uniform(20, 80, 2)]
        found.append({"image_id": n, "category_id": int(random.integers(1, 3)), "bbox": stray})
    scores = random.permutation(len(found)) / len(found)
    found = [{**each, "score": float(score)} for each, score in zip(found, scores, strict=True)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": objects, "categories": categories}, found


def test_matches_are_pycocotools():
    content, found = drawn(photos=40)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
    compared = 0
    for entry in run.evalImgs:
        if entry is None or entry["aRng"] != run.params.areaRng[0]:
            continue
        key = entry["image_id"], entry["category_id"]
        mine = [each for each in found if (each["image_id"], each["category_id"]) == key]
        there = [each for each in content["annotations"] if (each["image_id"], each["category_id"]) == key]
        scores = [each["score"] for each in mine]
        got = match_detections(
            [d["bbox"] for d in mine], scores, [a["bbox"] for a in there], [a["iscrowd"] for a in there]
        )
        expected = np.where(entry["dtIgnore"][0], -1, entry["dtMatches"][0] > 0)
        assert got[np.argsort(-np.array(scores), kind="stable")].tolist() == expected.tolist()
        compared += len(scores)
    assert compared > 60


def test_the_best_f1_is_that_of_a_look_at_every_score():
    random = np.random.default_rng(1)
    scores, found = random.integers(0, 20, 60) / 20, random.integers(0, 2, 60)
    threshold, precision, recall = choose_threshold(scores, found, 40)

    def f1(t):
        kept = found[scores >= t]
        return 2 * kept.sum() / (len(kept) + 40)

    assert f1(threshold) == max(f1(t) for t in scores) == pytest.approx(2 * precision * recall / (precision + recall))
    wanted, reached, most = choose_threshold(scores, found, 40, precision=0.6)
    if not math.isnan(wanted):
        assert reached >= 0.6 and most == max(
            found[scores >= t].sum() / 40 for t in scores if found[scores >= t].mean() >= 0.6
        )


@pytest.mark.parametrize(("scores", "found", "objects"), [([], [], 3), ([0.5], [0], 3), ([0.5], [1], 0)])
def test_nothing_to_choose_from(scores, found, objects):
    threshold, *figures = choose_threshold(np.array(scores), np.array(found, dtype=int), objects)
    assert math.isnan(threshold) and figures == [0, 0]


def test_false_alarms_are_counted_on_photos_without_the_class():
    content, _ = drawn()
    content["annotations"] = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 50, 50]}]
    found = [{"image_id": n, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.9 - 0.1 * n} for n in range(4)]
    cat, dog = suggest_thresholds(index_ground_truth(content), found, [1, 2])
    assert (cat.threshold, cat.precision, cat.recall, cat.false_alarms) == (0.9, 1, 1, 0)
    assert math.isnan(dog.threshold) and math.isnan(dog.false_alarms) and dog.objects == 0
    cat, _ = suggest_thresholds(index_ground_truth(content), found, [1, 2], thresholds=[0.65, 0.5])
    assert cat.precision == pytest.approx(1 / 3) and cat.false_alarms == pytest.approx(2 / 11)
    text = suggestions_csv(["cat", "dog"], suggest_thresholds(index_ground_truth(content), found, [1, 2]))
    assert text.splitlines()[1:] == ["cat,0.9000,1.0000,1.0000,1.0000,1,0.0000", "dog,,0.0000,0.0000,0.0000,0,"]
    with pytest.raises(InputError, match=r"1\.5"):
        suggest_thresholds(index_ground_truth(content), found, [1], precision=1.5)


def test_two_groups_are_parted_as_scikit_image_does():
    filters = pytest.importorskip("skimage.filters")
    random = np.random.default_rng(2)
    for _ in range(20):
        scores = np.concatenate([random.normal(-5, 1, random.integers(2, 30)), random.normal(-2, 1, 9)]).round(1)
        values, counts = np.unique(scores, return_counts=True)
        last_below = filters.threshold_otsu(hist=(counts, values))
        above = values[values > last_below][0]
        assert threshold_between(random.permutation(scores)) == pytest.approx((last_below + above) / 2)
    assert math.isnan(threshold_between(np.array([]))) and math.isnan(threshold_between(np.full(3, 0.5)))
