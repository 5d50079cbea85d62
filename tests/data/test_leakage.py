"""What a training run sees: novel classes are found wherever they come in, photos of the test set are counted."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from ovdet.data.dataset import load_coco_subsets
from ovdet.data.leakage import check_no_leak, find_leaks, shared_photos
from ovdet.errors import InputError

METADATA = SimpleNamespace(
    thing_classes=["cat", "Hot_Dog", "cow", "pen"], base_classes=["cat"], novel_classes=["hot dog", "cow"]
)


def records(*category_ids):
    """A photo for each list of class indices."""
    return [
        {"file_name": f"{number}.jpg", "annotations": [{"category_id": i} for i in ids]}
        for number, ids in enumerate(category_ids)
    ]


def test_a_clean_run():
    report = find_leaks([*records([0, 0], [0, 3]), {"file_name": "no.jpg"}], METADATA, vocabulary=["Cat"])
    check_no_leak(report)
    assert not report.leaks
    assert report.boxes == {"base": {"cat": 3}, "novel": {}, "other": {"pen": 1}}
    assert report.vocabulary == report.proposal_classes == {"base": ["Cat"], "novel": [], "other": []}
    assert (report.num_photos, report.num_test_photos, report.shared_photos) == (3, 0, [])
    assert json.loads(json.dumps(report.as_dict()))["leaks"] is False
    table = report.table()
    assert "base" in table and "the detector in training itself" in table and "0 in both" in table


def test_each_set_of_a_mixture_has_its_report():
    sets = [SimpleNamespace(name=name) for name in ("first", "second")]
    metadata = SimpleNamespace(**vars(METADATA), mixture=SimpleNamespace(sets=sets))
    photos = [
        {**record, "set_index": index} for record, index in zip(records([0], [2, 2], [3]), (0, 1, 0), strict=True)
    ]
    report = find_leaks(photos, metadata, vocabulary=["cat"], test_dicts=[{"file_name": "1.jpg"}])
    assert list(report.sets) == ["first", "second"]
    first, second = report.sets.values()
    assert (first.num_photos, first.boxes) == (2, {"base": {"cat": 1}, "novel": {}, "other": {"pen": 1}})
    assert (second.num_photos, second.boxes["novel"]) == (1, {"cow": 2})
    assert first.shared_photos == [] and second.shared_photos == report.shared_photos == ["1.jpg"]
    assert json.loads(json.dumps(report.as_dict()))["sets"]["second"]["boxes"]["novel"] == {"cow": 2}
    assert [line.split() for line in report.table().splitlines() if line.startswith(("first", "second"))] == [
        ["first", "2", "1", "0", "1", "0"],
        ["second", "1", "0", "2", "0", "1"],
    ]
    assert "data set" not in find_leaks(records([0]), METADATA, vocabulary=["cat"]).table()


def test_an_empty_run():
    report = find_leaks([], METADATA, vocabulary=[])
    check_no_leak(report)
    assert report.boxes == {"base": {}, "novel": {}, "other": {}}


def test_boxes_of_novel_classes():
    report = find_leaks(records([0, 2], [1, 1]), METADATA, vocabulary=["cat"])
    assert report.leaks and report.boxes["novel"] == {"cow": 1, "Hot_Dog": 2}
    with pytest.raises(InputError, match=r"annotations of novel classes in training, got Hot_Dog \(2\), cow \(1\)"):
        check_no_leak(report)


def test_names_of_novel_classes():
    report = find_leaks(records([0]), METADATA, vocabulary=["cat", "Cow"])
    with pytest.raises(InputError, match="vocabulary without novel classes, it has Cow"):
        check_no_leak(report)


SPELLINGS = [
    "cow.",
    "Cow",
    "co\u200bw",
    "\ufeffcow",
    "c\u00adow",
    "\uff43\uff4f\uff57",
    " cow ",
    "cow\u202c",
    "COW\ufe0f",
]
SYNONYMS = [("couch", "sofa"), ("Sofa", "couch"), ("aeroplane", "airplane"), ("plane", "aeroplane")]


@pytest.mark.parametrize(("novel", "spelling"), [*(("cow", spelling) for spelling in SPELLINGS), *SYNONYMS])
def test_a_novel_class_is_found_in_any_spelling_and_by_its_synonyms(novel, spelling):
    metadata = SimpleNamespace(thing_classes=["cat", spelling], base_classes=["cat"], novel_classes=[novel])
    for report in (
        find_leaks(records([0, 1]), metadata, vocabulary=["cat"]),
        find_leaks(records([0]), metadata, vocabulary=["cat", spelling]),
        find_leaks(records([0]), metadata, vocabulary=["cat"], weights_source="w", weights_classes=[spelling]),
        find_leaks(records([0]), metadata, vocabulary=["cat"],
                   proposals={"proposal_source": "p", "training_classes": [spelling]}),
    ):  # fmt: skip
        assert report.leaks
        with pytest.raises(InputError, match="novel"):
            check_no_leak(report)


@pytest.mark.parametrize("base", [["cat", "fire_truck"], []])
def test_novel_classes_of_the_test_set_alone(base):
    """The training set's split may call them base, or there is none."""
    metadata = SimpleNamespace(thing_classes=["cat", "fire_truck"], base_classes=base, novel_classes=[])
    photos, vocabulary, others = records([0, 1, 1]), ["cat", "fire_truck"], "base" if base else "other"
    check_no_leak(find_leaks(photos, metadata, vocabulary=vocabulary))
    report = find_leaks(photos, metadata, vocabulary=vocabulary, test_novel=["Fire truck", "pen"])
    assert report.leaks
    assert report.boxes == {"base": {}, "other": {}, others: {"cat": 1}, "novel": {"fire_truck": 2}}
    assert report.vocabulary == {"base": [], "other": [], others: ["cat"], "novel": ["fire_truck"]}
    with pytest.raises(InputError, match=r"annotations of novel classes in training, got fire_truck \(2\)"):
        check_no_leak(report)
    known = dict(vocabulary=["cat"], weights_source="w.pth", weights_classes=["pen"], test_novel=["pen"])
    with pytest.raises(InputError, match="w.pth was trained on pen"):
        check_no_leak(find_leaks(records([0]), metadata, **known))


def test_proposals_that_know_novel_classes():
    header = {"proposal_source": "RPN of lvis.pth", "training_classes": ["cat", "hot_dog", "kite"]}
    report = find_leaks(records([0]), METADATA, vocabulary=["cat"], proposals=header)
    assert report.proposal_classes == {"base": ["cat"], "novel": ["hot_dog"], "other": ["kite"]}
    assert "RPN of lvis.pth" in report.table()
    with pytest.raises(InputError, match=r"proposals that know no novel class.*RPN of lvis.pth.*hot_dog"):
        check_no_leak(report)
    check_no_leak(find_leaks(records([0]), METADATA, vocabulary=["cat"], proposals={**header, "training_classes": []}))


def test_initial_weights_that_know_novel_classes():
    known = {"weights_source": "lvis.pth", "weights_classes": ["cat", "hot_dog", "kite"]}
    report = find_leaks(records([0]), METADATA, vocabulary=["cat"], **known)
    assert report.leaks and report.weights_classes == {"base": ["cat"], "novel": ["hot_dog"], "other": ["kite"]}
    assert "initial weights: lvis.pth" in report.table()
    with pytest.raises(InputError, match="initial weights that know no novel class, lvis.pth was trained on hot_dog"):
        check_no_leak(report)
    check_no_leak(find_leaks(records([0]), METADATA, vocabulary=["cat"], weights_source="backbone.pth"))


def test_photos_of_both_sets(tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train, test):
        folder.mkdir()
        for name, text in (("copy", "one photo"), ("other", str(folder)), ("size", f"{folder.name:>9}")):
            (folder / f"{name}.jpg").write_text(text)
    (train / "alone.jpg").write_text("x")
    shutil.copy(train / "copy.jpg", test / "renamed.jpg")
    link = tmp_path / "link"
    link.symlink_to(train)
    of_train = [str(file) for file in sorted(train.iterdir())]
    of_test = [str(file) for file in sorted(test.iterdir())]
    assert shared_photos(of_train, of_test) == [str(test / "copy.jpg")]
    assert shared_photos(of_train, [*of_test, of_train[2]]) == [str(test / "copy.jpg"), of_train[2]]
    assert shared_photos(of_train, [str(link / "alone.jpg")]) == [str(link / "alone.jpg")]
    assert shared_photos(["gone/1.jpg"], ["gone/1.jpg", "away/1.jpg"]) == ["gone/1.jpg"]
    assert shared_photos([], of_test) == shared_photos(of_train, []) == []


def test_the_report_counts_shared_photos():
    report = find_leaks(records([0], [0]), METADATA, vocabulary=["cat"], test_dicts=records([0], [2], [2]))
    check_no_leak(report)  # a warning's matter: one's own data may be small
    assert (report.num_test_photos, report.shared_photos) == (3, ["0.jpg", "1.jpg"])
    assert "2 for training, 3 for testing, 2 in both" in report.table()


def test_real_photos(shared_data):
    pool = shared_data / "coco_pool"
    arguments = (pool / "images", pool / "ov_coco_split.json")
    training = load_coco_subsets(pool / "instances_train.json", *arguments, is_train=True)
    evaluation = load_coco_subsets(pool / "instances_val.json", *arguments, ("base", "novel"))
    names = dict(base_classes=training.base_classes, novel_classes=training.novel_classes)
    metadata = SimpleNamespace(thing_classes=training.thing_classes, **names)
    found = dict(vocabulary=training.thing_classes, test_dicts=evaluation.dicts)
    report = find_leaks(training.dicts, metadata, **found)
    check_no_leak(report)
    assert sum(report.boxes["base"].values()) == sum(len(record["annotations"]) for record in training.dicts)
    assert report.shared_photos == []
    metadata = SimpleNamespace(thing_classes=evaluation.thing_classes, **names)
    with pytest.raises(InputError, match=r"cup \(\d+\)"):
        check_no_leak(find_leaks(evaluation.dicts, metadata, **found))
