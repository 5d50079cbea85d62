"""Loading any COCO-format json with subsets: what is asked for, nothing else, and one line on what is wrong."""

from __future__ import annotations

import copy
import json
import logging
import unicodedata

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from omegaconf import ListConfig
from PIL import Image

from ovdet.data.dataset import load_coco_subsets, register_coco_subsets
from ovdet.data.splits import load_split
from ovdet.errors import InputError

SPLIT = {"base2": ["cat", "dog"], "novel1": ["cow"], "excluded": ["hot dog"], "source": "a test"}
POLYGON = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0]]


def annotation(number, image_id, category_id, box=(10, 10, 20, 20), **more):
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(box), **more}


def make_content():
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in (3, 1, 2, 4, 5)],
        "categories": [{"id": i, "name": n} for i, n in ((9, "cow"), (2, "dog"), (1, "cat"), (5, "hot dog"))],
        "annotations": [
            annotation(1, 1, 1, segmentation=POLYGON, iscrowd=0, area=200),
            annotation(2, 1, 9),
            annotation(3, 2, 9),
            annotation(4, 3, 2, iscrowd=1, segmentation={"size": [48, 64], "counts": [480, 20, 2572]}),
            annotation(5, 3, 2),
            annotation(6, 4, 5),
            annotation(7, 5, 1, iscrowd=1),
        ],
    }


@pytest.fixture
def dataset(tmp_path):
    """A function that writes a json (the split too) and returns the arguments of load_coco_subsets."""
    (tmp_path / "images").mkdir()
    for number in range(1, 6):
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / f"{number}.png")

    def write(content=None, split=SPLIT):
        (tmp_path / "a.json").write_text(json.dumps(make_content() if content is None else content))
        (tmp_path / "split.json").write_text(json.dumps(split))
        return tmp_path / "a.json", tmp_path / "images", tmp_path / "split.json"

    return write


def classes_by_image(loaded):
    return {
        record["image_id"]: [loaded.thing_classes[a["category_id"]] for a in record["annotations"]]
        for record in loaded.dicts
    }


def test_base_alone(dataset):
    loaded = load_coco_subsets(*dataset())
    assert loaded.thing_classes == ["cat", "dog"] and loaded.dataset_id_to_contiguous_id == {1: 0, 2: 1}
    assert loaded.base_classes == ["cat", "dog"] and loaded.novel_classes == ["cow"]
    assert classes_by_image(loaded) == {1: ["cat"], 3: ["dog", "dog"], 5: ["cat"]}
    assert [record["image_id"] for record in loaded.dicts] == [1, 3, 5]


def test_crowds_and_empty_photos(dataset):
    arguments = dataset()
    training = load_coco_subsets(*arguments, is_train=True)
    assert classes_by_image(training) == {1: ["cat"], 3: ["dog"]}
    assert not any(a["iscrowd"] for record in training.dicts for a in record["annotations"])
    whole = load_coco_subsets(*arguments, ("base", "novel"), filter_empty=False)
    assert classes_by_image(whole) == {1: ["cat", "cow"], 2: ["cow"], 3: ["dog", "dog"], 4: [], 5: ["cat"]}
    assert classes_by_image(load_coco_subsets(*arguments, ("base", "novel"))).keys() == {1, 2, 3, 5}
    assert load_coco_subsets(*arguments, ["ignored"]).thing_classes == ["hot dog"]


def test_without_a_split_every_class_is_base(dataset):
    arguments = dataset()[:2]
    loaded = load_coco_subsets(*arguments, filter_empty=False)
    assert loaded.thing_classes == ["cat", "dog", "hot dog", "cow"]
    assert loaded.base_classes == loaded.novel_classes == []  # not told apart
    expected = load_coco_json(str(arguments[0]), str(arguments[1]), "test_coco_subsets_reference")
    strip = [{key: record[key] for key in record if key != "annotations"} for record in loaded.dicts]
    assert strip == [{key: record[key] for key in record if key != "annotations"} for record in expected]
    for record, reference in zip(loaded.dicts, expected, strict=True):
        for mine, theirs in zip(record["annotations"], reference["annotations"], strict=True):
            assert mine == {"iscrowd": 0, **theirs}


def test_classes_that_the_split_leaves_out_are_ignored(dataset):
    loaded = load_coco_subsets(*dataset(split={"base": ["cat"], "novel": ["cow"]}), ("base", "novel"))
    assert loaded.thing_classes == ["cat", "cow"]
    assert classes_by_image(loaded) == {1: ["cat", "cow"], 2: ["cow"], 5: ["cat"]}


def test_boxes_without_area_are_counted_in_one_warning(dataset, caplog):
    content = make_content()
    boxes = [(5, 5, 0, 9), (5, 5, 9, -3), (64, 5, 9, 9), (-9, 5, 9, 9), (5, 60, 3, 3)]
    content["annotations"] += [annotation(100 + i, 2, 1, box) for i, box in enumerate(boxes)]
    arguments = dataset(content)
    with caplog.at_level(logging.WARNING):
        training = load_coco_subsets(*arguments, is_train=True)
    assert classes_by_image(training) == {1: ["cat"], 3: ["dog"]}
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [
        "left out 5 boxes without area or outside their photo"
    ]
    assert 2 in classes_by_image(load_coco_subsets(*arguments))  # evaluation runs the photo: the json annotates it


def test_lvis_names_its_photos_by_url(dataset, tmp_path):
    content = make_content()
    (tmp_path / "images" / "val2017").mkdir()
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        Image.new("L", (64, 48)).save(tmp_path / "images" / "val2017" / f"{image['id']}.png")
    record = load_coco_subsets(*dataset(content)).dicts[0]
    assert record["file_name"] == str(tmp_path / "images" / "val2017" / "1.png")


def change(path, value):
    """A json with one value replaced (or removed, for None)."""

    def apply(content):
        *parents, last = path
        for key in parents:
            content = content[key]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(["images"], None), "`images`"),
        (change(["annotations"], {}), r"array.*\$.annotations"),
        (change(["categories"], []), "categories.*empty"),
        (change(["images", 1, "id"], 3), "image id once.*3"),
        (change(["images", 0, "height"], None), "height"),
        (change(["images", 0, "width"], 0), r"images\[0\].width"),
        (change(["images", 0, "id"], [1]), r"images\[0\].id"),
        (change(["categories", 0, "id"], 2), "category id once"),
        (change(["categories", 0, "name"], "dog"), "different names.*dog.*category 2.*dog.*category 9"),
        (change(["annotations", 0, "id"], 2), "annotation id once"),
        (change(["annotations", 0, "id"], None), "`id`"),
        (change(["annotations", 0, "image_id"], 77), "image_ids.*77"),
        (change(["annotations", 0, "category_id"], 78), "category_ids.*78"),
        (change(["annotations", 0, "bbox"], [1, 2, 3]), r"annotations\[0\].bbox.*\[1, 2, 3\]"),
        (change(["annotations", 0, "bbox"], [1, 2, 3, "4"]), "bbox"),
        (change(["annotations", 0, "bbox"], [1, 2, 3, float("nan")]), "bbox"),
        (
            change(["annotations", 0, "segmentation"], [[1, 1, 9, 1, float("nan"), 9]]),
            "finite numbers in the segmentation of annotation .*json, got nan",
        ),
        (change(["images", 4, "file_name"], "nowhere.png"), "3 photos.*1 are missing: .*nowhere.png"),
    ],
)
def test_what_is_wrong_with_a_json(dataset, edit, message):
    content = copy.deepcopy(make_content())
    edit(content)
    with pytest.raises(InputError, match=message) as caught:
        load_coco_subsets(*dataset(content))
    assert "\n" not in str(caught.value)


def test_all_missing_photos_are_named(dataset, caplog):
    content = make_content()
    for image in content["images"]:
        image["file_name"] = f"absent/{image['file_name']}" if image["id"] == 3 else image["file_name"]
    json_file, images, split = dataset(content)
    (images / "1.png").unlink(), (images / "5.png").unlink()
    with pytest.raises(InputError, match="3 photos in .*images, 3 are missing") as caught:
        load_coco_subsets(json_file, images, split)
    assert "\n" not in str(caught.value)
    assert [record.message for record in caplog.records] == [
        f"missing folder with 1 photos: {images}/absent",
        f"missing photo: {images}/1.png",
        f"missing photo: {images}/5.png",
    ]


def test_what_is_wrong_with_the_files(dataset, tmp_path):
    json_file, images, split = dataset()
    with pytest.raises(InputError, match="nothing.json cannot be read"):
        load_coco_subsets(tmp_path / "nothing.json", images, split)
    with pytest.raises(InputError, match="folder of photos"):
        load_coco_subsets(json_file, tmp_path / "nowhere", split)
    for text, message in (("{", "not json"), ("[]", "object.*array"), ("\xff\xfe", "not json")):
        json_file.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=message):
            load_coco_subsets(json_file, images, split)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"base": ["cat"], "novel": ["unicorn"]}, "does not have: 'unicorn'"),
        ({"base": ["cats"]}, r"does not have: 'cats' \(near it: 'cat'\)"),
        ({"base": ["cat"], "novel": ["cat"]}, "more than once: cat"),
        ({"base": ["cat", "cat"]}, "more than once"),
        ({"base": ["cat"], "novel": ["Cat."]}, "more than once"),
        ({"novel": ["cat"]}, "at least one base"),
        ({"base": ["cat"], "rare": ["cow"]}, "'rare'"),
        ({"base": "cat"}, "`array`, got `str`"),
        ({"base": ["cat", " "]}, "list of class names"),
        ({"base": ["cat", 3]}, "`str`, got `int`"),
        (["cat"], "got `array`"),
    ],
)
def test_what_is_wrong_with_a_split(dataset, split, message):
    with pytest.raises(InputError, match=message):
        load_coco_subsets(*dataset(split=split))


def test_a_split_and_a_json_may_spell_a_class_in_two_ways(dataset):
    loaded = load_coco_subsets(
        *dataset(split={"base": ["CAT", "do\u200bg"], "novel": ["cow."], "ignored": ["hot_dog"]})
    )
    assert sorted(loaded.thing_classes) == ["cat", "dog"] and loaded.novel_classes == ["cow"]


@pytest.mark.parametrize("subsets", ["base", (), ("base", "base"), ("rare",)])
def test_what_is_wrong_with_subsets(dataset, subsets):
    with pytest.raises(InputError, match="subsets"):
        load_coco_subsets(*dataset(), subsets)


def test_a_subset_without_classes_or_photos(dataset):
    with pytest.raises(InputError, match="ignored"):
        load_coco_subsets(*dataset(split={"base": ["cat", "dog", "hot dog", "cow"]}), ("ignored",))
    content = {**make_content(), "annotations": []}
    with pytest.raises(InputError, match="images with annotations of base"):
        load_coco_subsets(*dataset(content))


def test_registration(dataset):
    arguments = dataset()
    assert register_coco_subsets("test_registration", *arguments) == "test_registration"
    first = DatasetCatalog.get("test_registration")
    register_coco_subsets("test_registration", *map(str, arguments), ListConfig(["base"]))
    assert DatasetCatalog.get("test_registration") == first and DatasetCatalog.get("test_registration") is not first
    metadata = MetadataCatalog.get("test_registration")
    assert metadata.thing_classes == ["cat", "dog"] and metadata.evaluator_type == "ovdet_coco"
    assert metadata.base_classes == ["cat", "dog"] and metadata.novel_classes == ["cow"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    assert (metadata.json_file, metadata.image_root) == (str(arguments[0]), str(arguments[1]))
    with pytest.raises(InputError, match="already registered"):
        register_coco_subsets("test_registration", *arguments, ("base", "novel"))


def test_a_name_that_detectron2_knows(dataset):
    with pytest.raises(InputError, match="already registered as another"):
        register_coco_subsets("coco_2017_val", *dataset())


def test_a_failed_registration_can_be_repeated(dataset, tmp_path):
    json_file, images, split = dataset()
    with pytest.raises(InputError):
        register_coco_subsets("test_repeated", json_file, tmp_path / "nowhere", split)
    register_coco_subsets("test_repeated", json_file, images, split)


def test_subsets_of_metadata_files():
    from pathlib import Path

    folder = Path(__file__).resolve().parents[2] / "datasets" / "metadata"
    coco = load_split(folder / "ov_coco.json")
    assert [len(coco[subset]) for subset in ("base", "novel", "ignored")] == [48, 17, 15]
    assert [len(load_split(folder / "ov_lvis_v1.json")[subset]) for subset in ("base", "novel")] == [866, 337]
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

    things = [category["name"] for category in COCO_CATEGORIES if category["isthing"]]
    assert set(things) == {name for names in coco.values() for name in names}
    lvis = load_split(folder / "ov_lvis_v1.json")
    assert lvis["novel"] == [category["name"] for category in LVIS_CATEGORIES if category["frequency"] == "r"]
    assert set(lvis["base"]) == {category["name"] for category in LVIS_CATEGORIES if category["frequency"] != "r"}


def test_real_photos(shared_data):
    pool = shared_data / "coco_pool"
    if not pool.is_dir():
        pytest.skip("coco_pool is not here")
    arguments = (pool / "images", pool / "ov_coco_split.json")
    training = load_coco_subsets(pool / "instances_train.json", *arguments, is_train=True)
    evaluation = load_coco_subsets(pool / "instances_val.json", *arguments, ("base", "novel"))
    assert (len(training.thing_classes), len(evaluation.thing_classes)) == (48, 65)
    assert training.dataset_id_to_contiguous_id[90] == 47 and evaluation.dataset_id_to_contiguous_id[5] == 4


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../secret.png", "{root}/secret.png", "{root}/images_more/1.png"]
)
def test_photos_outside_of_their_folder_are_not_read(dataset, tmp_path, name):
    (tmp_path / "images_more").mkdir()
    for file in ("secret.png", "images_more/1.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / file)
    content = make_content()
    content["images"][0]["file_name"] = name.format(root=tmp_path)
    with pytest.raises(InputError, match=r"expected photos of .*a\.json below .*images, got .*(secret|1)\.png"):
        load_coco_subsets(*dataset(content))


def test_other_ways_to_write_a_photo_of_the_folder(dataset, tmp_path):
    content = make_content()
    content["images"][0]["file_name"] = f"{tmp_path}/images/3.png"
    content["images"][1]["file_name"] = "./1.png"
    arguments = dataset(content)
    assert len(load_coco_subsets(*arguments).dicts) == 3
    for image in content["images"]:
        image["file_name"] = f"{tmp_path}/images/{image['id']}.png"
    json_file, _, split = dataset(content)
    assert len(load_coco_subsets(json_file, "/", split).dicts) == 3


@pytest.mark.parametrize(("in_json", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_a_name_composed_in_the_json_and_not_on_disk(dataset, tmp_path, in_json, on_disk):
    """As a Mac's files and the jsons of other tools have them."""
    content, name = make_content(), "caf\u00e9.png"
    content["images"][1]["file_name"] = unicodedata.normalize(in_json, name)
    arguments = dataset(content)
    file = tmp_path / "images" / unicodedata.normalize(on_disk, name)
    Image.new("RGB", (64, 48)).save(file)
    assert str(file) in [record["file_name"] for record in load_coco_subsets(*arguments).dicts]
