"""Photos by class and boxes: reading, sampling, dealing into parts."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from ovdet.errors import InputError
from ovdet.teacher_lab.labeled import draw_objects, read_class_folders, read_coco_boxes, split_photos, with_classes


@pytest.fixture
def folder(tmp_path):
    for name, photos in (("dog", 2), ("hot_dog", 1)):
        (tmp_path / name).mkdir()
        for number in range(photos):
            Image.new("RGB", (9, 7)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_sub_folders_are_classes(folder):
    (folder / ".cache").mkdir()
    (folder / "notes.txt").touch()
    data = read_class_folders(folder)
    assert data.names == ("dog", "hot_dog") and data.labels.tolist() == [0, 0, 1]
    assert data.photo_of_object.tolist() == [0, 1, 2] and not data.has_boxes
    assert [photo.file.name for photo in data.photos] == ["0.png", "1.png", "0.png"]


@pytest.mark.parametrize(
    ("make", "where", "told"),
    [
        (lambda folder: None, "nowhere", "nowhere does not exist"),
        (lambda folder: (folder / "file").touch(), "file", "file is a file"),
        (lambda folder: (folder / "empty").mkdir(), "empty", "has no sub-folders"),
        (lambda folder: None, "dog", "has no sub-folders"),  # the photos of one class
        (lambda folder: (folder / "cat").mkdir(), ".", "cat, got none"),  # a class without photos
        (lambda folder: (folder / "hot dog").mkdir(), ".", "'hot dog' and 'hot_dog', which read alike"),
    ],
)
def test_what_is_no_folder_of_classes(folder, make, where, told):
    make(folder)
    with pytest.raises(InputError) as error:
        read_class_folders(folder / where)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_boxes_with_a_split(tmp_path):
    Image.new("RGB", (90, 40)).save(tmp_path / "photo.png")
    boxes = ([4, 4, 10, 30], [20, 0, 5, 6], [50, 0, 9, 9])
    content = {
        "images": [{"id": 7, "file_name": "photo.png", "height": 40, "width": 90}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "elk"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": category, "bbox": box}
            for i, (category, box) in enumerate(zip((9, 3, 5), boxes, strict=True))
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "split.json").write_text(json.dumps({"base": ["cat"], "novel": ["elk"], "ignored": ["dog"]}))
    data = read_coco_boxes(tmp_path / "truth.json", tmp_path, tmp_path / "split.json")
    assert data.names == ("cat", "elk") and data.novel == {"elk"} and data.has_boxes
    (photo,) = data.photos
    assert photo.boxes.tolist() == [[4, 4, 14, 34], [20, 0, 25, 6]] and photo.labels.tolist() == [1, 0]
    assert len(read_coco_boxes(tmp_path / "truth.json", tmp_path).labels) == 3


def test_objects_are_drawn_by_class_the_same_each_time(made_set):
    data = made_set([[0, 0, 1], [0], [1], [2]], "abc")
    drawn = draw_objects(data, per_class=1)
    assert sorted(drawn.labels.tolist()) == [0, 1, 2]
    assert [photo.file for photo in drawn.photos] == [photo.file for photo in draw_objects(data, per_class=1).photos]
    assert len(draw_objects(data, 4).labels) == 4 and len(draw_objects(data, 4, per_class=1).labels) == 3
    assert draw_objects(data).labels.tolist() == data.labels.tolist()
    assert len(data.take([]).photos) == 0 and len(data.take([]).labels) == 0
    for given in ({"number": 0}, {"per_class": 0}):
        with pytest.raises(InputError, match="at least 1 object"):
            draw_objects(data, **given)


def test_no_photo_is_in_two_parts_and_each_part_sees_each_class(made_set):
    labels = [[0]] * 10 + [[0, 1], [1], [1, 1]] + [[2]] * 2 + [[3]]
    data = made_set(labels, "abcd")
    for seed in range(4):
        parts = split_photos(data, (0.5, 0.2, 0.3), seed)
        assert torch.cat(parts).sort().values.tolist() == list(range(len(data.labels)))
        photos = [set(data.photo_of_object[part].tolist()) for part in parts]
        assert not (photos[0] & photos[1] or photos[0] & photos[2] or photos[1] & photos[2])
        classes = [set(data.labels[part].tolist()) for part in parts]
        assert all({0, 1} <= each for each in classes)
        assert 2 in classes[0] and 2 in classes[1] and 2 not in classes[2]  # two photos: to learn and to validate
        assert 3 in classes[0]
        assert [len(each & set(range(10))) for each in photos] == [5, 2, 3]
    others = [split_photos(data, (0.5, 0.5), seed)[0].tolist() for seed in range(4)]
    assert others[0] == split_photos(data, (0.5, 0.5), 0)[0].tolist() and any(each != others[0] for each in others)


def test_some_classes_in_another_order(made_set):
    data = made_set([[0, 2], [1], [2]], ("hot_dog", "cat", "elk"))
    found, objects = with_classes(data, ("Elk", "dog", "hot dog"))
    assert found.names == ("Elk", "dog", "hot dog")
    assert found.labels.tolist() == [2, 0, 0] and objects.tolist() == [0, 1, 3]
    nothing, objects = with_classes(data, ("dog",))
    assert len(nothing.labels) == len(objects) == 0
