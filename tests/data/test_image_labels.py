"""Photos with labels and no boxes: folders by class, jsons of labels by photo, and their place in a mixture."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ovdet.data.image_labels import LabeledPhotos
from ovdet.data.images import photo_size, read_image
from ovdet.data.mixture import DataSet, MixtureMapper, MixtureSampler, load_mixture
from ovdet.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two photos of a cat and one of a sofa, 30 x 20; the sofa's EXIF data turns it."""
    for name, numbers in (("Cat", (1, 2)), ("sofa", (1,))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in numbers:
            image, exif = Image.new("RGB", (30, 20), (number, 0, 0)), Image.Exif()
            exif[0x0112] = 6 if name == "sofa" else 1
            image.save(tmp_path / "photos" / name / f"{number}.jpg", exif=exif)
    return tmp_path / "photos"


def test_a_folder_by_class(folder):
    names, dicts = LabeledPhotos("own", str(folder)).load()
    assert names == ["Cat", "sofa"]
    assert [(each["image_id"], each["image_labels"]) for each in dicts] == [
        ("Cat/1.jpg", [0]),
        ("Cat/2.jpg", [0]),
        ("sofa/1.jpg", [1]),
    ]
    assert [(each["height"], each["width"]) for each in dicts] == [(20, 30), (20, 30), (30, 20)]
    for each in dicts:
        assert photo_size(each["file_name"]) == read_image(each["file_name"]).shape[:2]


def test_labels_by_photo(folder, tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"Cat/1.jpg": ["dog", "cat", "Dog"], "sofa/1.jpg": ["cat"], "Cat/2.jpg": []}))
    names, dicts = LabeledPhotos("own", str(folder), str(file)).load()
    assert names == ["Dog", "cat"]
    assert [(each["image_id"], each["image_labels"]) for each in dicts] == [("Cat/1.jpg", [0, 1]), ("sofa/1.jpg", [1])]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"Cat/9.jpg": ["cat"]}', "9.jpg"),
        ('{"../x.jpg": ["cat"]}', "below"),
        ('{"Cat/1.jpg": "cat"}', "array"),
        ('{"Cat/1.jpg": []}', "none"),
        ("[", "not json"),
        (None, "No such file"),
    ],
)
def test_bad_labels_are_refused(folder, tmp_path, content, told):
    file = tmp_path / "labels.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=told):
        LabeledPhotos("own", str(folder), str(file)).load()


def test_bad_folders_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        LabeledPhotos("own", str(tmp_path / "nowhere")).load()
    with pytest.raises(InputError, match="no sub-folders"):
        LabeledPhotos("own", str(folder / "Cat")).load()
    (folder / "cat").mkdir()
    (folder / "cat/1.jpg").write_bytes((folder / "Cat/1.jpg").read_bytes())
    with pytest.raises(InputError, match="[Cc]at"):
        LabeledPhotos("own", str(folder)).load()


def test_beside_boxes(folder, tmp_path):
    """Names are joined with the boxes'; a photo speaks of its set's names; photos come by their sets' shares."""
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 30, "height": 20} for number in (1, 2)],
        "categories": [{"id": 3, "name": "couch"}, {"id": 4, "name": "lamp"}],
        "annotations": [
            {"id": 9 + number, "image_id": number, "category_id": 4, "bbox": [2, 2, 9, 9], "area": 81}
            for number in (1, 2)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    boxed = DataSet("boxed", str(tmp_path / "boxes.json"), str(folder / "Cat"), share=3)
    mixture = load_mixture([boxed, LabeledPhotos("own", str(folder), share=1, hold_out=2)])
    assert mixture.names == ["couch", "lamp", "cat"]
    assert mixture.spoken.tolist() == [[True, True, False], [True, False, True]]
    labeled = [each for each in mixture.dicts if "image_labels" in each]
    assert [(each["image_id"], each["image_labels"]) for each in labeled] == [("own/Cat/2.jpg", [2])]
    mapper = MixtureMapper(is_train=True, augmentations=[], image_format="RGB")
    mapped = mapper(labeled[0])
    assert mapped["image_labels"].tolist() == [2] and mapped["set_index"] == 1 and not len(mapped["instances"])
    assert "image_labels" not in mapper(mixture.dicts[0]) and len(mapper(mixture.dicts[0])["instances"]) == 1
    sampler = MixtureSampler([each["set_index"] for each in mixture.dicts], [3, 1], np.ones(3))
    drawn = Counter(mixture.dicts[place]["set_index"] for place in itertools.islice(sampler, 4000))
    assert drawn[0] / 4000 == pytest.approx(0.75, abs=0.03)
