"""Several data sets as one: common names, which set speaks of which, held-out photos, shares."""

import itertools
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from ovdet.data.mixture import (
    DataSet,
    MixtureMapper,
    MixtureSampler,
    common_name,
    load_mixture,
    load_synonyms,
    mixture_sampler,
    register_mixture,
)
from ovdet.engine.config import load_config
from ovdet.errors import InputError


@pytest.fixture
def make_set(tmp_path):
    """A set of photos 40 x 50 with a box of each name on each photo."""

    def make(name, names, num_photos=4, **options):
        (tmp_path / name).mkdir()
        for index in range(num_photos):
            Image.new("RGB", (50, 40), (index, 0, 0)).save(tmp_path / name / f"{index:03d}.png")
        content = {
            "images": [{"id": i, "file_name": f"{i:03d}.png", "width": 50, "height": 40} for i in range(num_photos)],
            "categories": [{"id": 7 + i, "name": each} for i, each in enumerate(names)],
            "annotations": [
                {"id": 100 * i + j, "image_id": i, "category_id": 7 + j, "bbox": [2, 2, 20, 20], "area": 400}
                for i in range(num_photos)
                for j in range(len(names))
            ],
        }
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content))
        return DataSet(name, str(file), str(tmp_path / name), **options)

    return make


def test_names_that_mean_the_same_are_one_class(make_set):
    mixture = load_mixture([make_set("a", ["couch", "TV", "dog"]), make_set("b", ["sofa", "cat", "television"])])
    assert mixture.names == ["couch", "tv", "dog", "cat"]
    assert mixture.spoken.tolist() == [[True, True, True, False], [True, True, False, True]]
    classes = [sorted({each["category_id"] for each in record["annotations"]}) for record in mixture.dicts]
    assert classes == [[0, 1, 2]] * 4 + [[0, 1, 3]] * 4
    assert [record["set_index"] for record in mixture.dicts] == [0] * 4 + [1] * 4
    assert len({record["image_id"] for record in mixture.dicts}) == 8


def test_own_data_with_base_data_mixed_in(make_set, tmp_path):
    for name, names in (("own", ["M8 bolt", "dog"]), ("base", ["dog", "cat"])):
        made, folder = make_set(name, names), tmp_path / f"{name}_root"
        folder.mkdir()
        Path(made.json_file).rename(folder / "instances_train.json")
        Path(made.image_root).rename(folder / "images")
    given = [f"dataset.root={tmp_path}/own_root", f"dataset.base={tmp_path}/base_root", "dataset.base_share=3"]
    config = load_config("configs/lite/own_data_mixed.py", given)
    name = instantiate(config.dataloader.train.dataset.names)
    mixture = MetadataCatalog.get(name).mixture
    assert mixture.names == ["m8 bolt", "dog", "cat"] and len(mixture.dicts) == 8  # none is held out
    assert mixture.spoken.tolist() == [[True, True, False], [False, True, True]]
    sampler = instantiate(config.dataloader.train.sampler)(mixture.dicts, seed=0)
    drawn = list(itertools.islice(sampler, 400))
    assert sum(mixture.dicts[place]["set_index"] for place in drawn) / 400 == pytest.approx(0.75, abs=0.07)
    assert config.model.roi_heads.frozen is None and config.train.init_checkpoint == "ovdet-lite-base48"
    for registered in (DatasetCatalog, MetadataCatalog):
        registered.remove(name)


def test_common_name():
    synonyms = load_synonyms()
    assert common_name("Dining_Table", synonyms) == common_name("diningtable", synonyms) == "dining table"
    assert common_name("unheard of", synonyms) == "unheard of"


def test_synonyms_point_to_names_that_are_none_themselves():
    synonyms = load_synonyms()
    assert not set(synonyms) & set(synonyms.values())


def test_each_nth_photo_is_held_out(make_set):
    mixture = load_mixture([make_set("a", ["dog"], num_photos=12, hold_out=5)])
    held = {"000.png", "005.png", "010.png"}
    assert {record["file_name"][-7:] for record in mixture.dicts} == {f"{i:03d}.png" for i in range(12)} - held
    with pytest.raises(InputError, match="all 1"):
        load_mixture([make_set("b", ["dog"], num_photos=1, hold_out=5)])


def test_photos_that_a_json_names_by_address_alone(make_set):
    """LVIS: no file_name, but the end of coco_url."""
    chosen = make_set("a", ["dog"], num_photos=6, hold_out=5)
    file = Path(chosen.json_file)
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/a/{image.pop('file_name')}"
    file.write_text(json.dumps(content))
    chosen = replace(chosen, image_root=str(file.parent))
    kept = {Path(record["file_name"]).name for record in load_mixture([chosen]).dicts}
    assert kept == {f"{i:03d}.png" for i in range(1, 5)}
    assert len(load_mixture([replace(chosen, hold_out=0)]).dicts) == 6


def test_a_photo_is_held_out_however_the_disk_spells_it(make_set):
    """Composed in the json, decomposed in the folder."""
    chosen = make_set("a", ["dog"], num_photos=6, hold_out=5)
    folder, file = Path(chosen.image_root), Path(chosen.json_file)
    (folder / "000.png").rename(folder / unicodedata.normalize("NFD", "00\u00e9.png"))
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "00\u00e9.png"
    file.write_text(json.dumps(content))
    held = sorted(image["file_name"] for image in content["images"])[::5]
    assert held == ["001.png", "00\u00e9.png"]
    assert {Path(record["file_name"]).name for record in load_mixture([chosen]).dicts} == {
        f"{i:03d}.png" for i in range(2, 6)
    }


def test_registered_once(make_set):
    sets = [make_set("a", ["dog"], num_photos=3), make_set("b", ["cat", "dog"], num_photos=2)]
    try:
        assert register_mixture("two sets", sets, least_boxes=3) == register_mixture("two sets", sets) == "two sets"
        metadata = MetadataCatalog.get("two sets")
        assert metadata.thing_classes == ["dog", "cat"] and metadata.well_known == ["dog"]
        with pytest.raises(InputError, match="two sets"):
            register_mixture("two sets", sets[:1])
        drawn = list(itertools.islice(mixture_sampler("two sets")(DatasetCatalog.get("two sets")), 10))
        assert set(drawn) <= set(range(5))
    finally:
        DatasetCatalog.remove("two sets")
        MetadataCatalog.remove("two sets")


def test_shares_and_rounds():
    sets = np.array([0] * 90 + [1] * 10)
    drawn = list(itertools.islice(MixtureSampler(sets, [1, 3], np.ones(100)), 4000))
    assert 0.7 < sets[drawn].mean() < 0.8
    first = [photo for photo in drawn if photo < 90][:90]
    assert sorted(first) == list(range(90))  # each once before any comes again
    assert drawn == list(itertools.islice(MixtureSampler(sets, [1, 3], np.ones(100)), 4000))
    assert set(sets[list(itertools.islice(MixtureSampler(sets, [0, 1], np.ones(100)), 50))]) == {1}
    with pytest.raises(InputError):
        MixtureSampler(sets, [0, 0], np.ones(100))


def test_repeat_factors_within_a_set():
    sampler = MixtureSampler([0, 0], [1], [1.0, 3.0])
    drawn = list(itertools.islice(sampler, 400))
    assert drawn.count(1) == 3 * drawn.count(0)


def test_objects_know_their_set(make_set):
    record = load_mixture([make_set("a", ["dog"]), make_set("b", ["cat"])]).dicts[-1]
    mapped = MixtureMapper(is_train=True, augmentations=[T.RandomFlip(prob=1.0)], image_format="RGB")(record)
    assert mapped["instances"].gt_set.tolist() == [1] and mapped["instances"].gt_set.dtype == torch.int64
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[28, 2, 48, 22]]
    test = MixtureMapper(is_train=False, augmentations=[], image_format="RGB")(record)
    assert "instances" not in test


def with_scores(data_set, name_place, score=0.4):
    """The boxes of one of a set's names become pseudo-labels."""
    content = json.loads(Path(data_set.json_file).read_text())
    for each in content["annotations"]:
        if each["category_id"] == 7 + name_place:
            each["score"] = score
    Path(data_set.json_file).write_text(json.dumps(content))
    return data_set


def test_a_set_does_not_speak_of_names_with_pseudo_labels_alone(make_set):
    mixture = load_mixture([with_scores(make_set("a", ["dog", "cat"]), 1), make_set("b", ["cat"])])
    assert mixture.spoken.tolist() == [[True, False], [False, True]]
    alone = load_mixture([with_scores(make_set("c", ["dog"]), 0)])  # photos that nobody annotated
    assert not alone.spoken.any()


def test_the_mapper_keeps_the_scores_of_pseudo_labels(make_set):
    mixture = load_mixture([with_scores(make_set("a", ["dog", "cat"]), 1, 0.25)])
    mapped = MixtureMapper(is_train=True, augmentations=[], image_format="RGB")(mixture.dicts[0])
    by_class = dict(zip(mapped["instances"].gt_classes.tolist(), mapped["instances"].gt_scores.tolist(), strict=True))
    assert by_class == {0: 1.0, 1: 0.25}


def test_a_score_that_is_none_is_refused(make_set):
    with pytest.raises(InputError, match="score"):
        load_mixture([with_scores(make_set("a", ["dog"]), 0, 1.5)])
