"""Labels of a folder: a journal that survives any interruption, and formats that other readers read alike."""

import json
import types
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision
import yaml
from PIL import Image
from pycocotools.coco import COCO
from streaming import stream_of

from ovdet.errors import InputError
from ovdet.inference import label_formats
from ovdet.inference.cluster_stream import StreamWorker, unpack
from ovdet.inference.detections import Detections
from ovdet.inference.label_formats import FORMATS
from ovdet.inference.labels import JOURNAL, Box, Journal, LabeledPhoto, Labels, label_photos, labeled_photo
from ovdet.inference.mask_formats import to_brush_run_lengths, to_run_lengths
from ovdet.inference.review import least_sure, write_review

NAMES = ("dog", 'red "kite" & co', "Straße")
ASKED = {"names": list(NAMES), "thresholds": {name: 0.1 for name in NAMES}}


def detect(rgb):
    """Boxes that hang on the photo alone; every fourth one shows nothing."""
    height, width = rgb.shape[:2]
    seed = int(rgb[0, 0, 0])
    generator = np.random.default_rng(seed)
    number = seed % 4
    corners = np.sort(generator.uniform(0, 1, (number, 2, 2)), axis=1) * [width, height]
    ids = generator.integers(0, len(NAMES), number)
    scores = np.sort(generator.uniform(0.1, 1, number).astype(np.float32))[::-1]
    boxes = corners.reshape(-1, 4).astype(np.float32)
    return Detections(boxes, scores, ids, tuple(NAMES[index] for index in ids), (height, width))


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    folder = tmp_path / "photos & more"
    folder.mkdir()
    for number in range(12):
        size = (60 + 2 * number, 90 - number, 3)
        Image.fromarray(np.full(size, 21 * number, np.uint8)).save(folder / f"{number:02}.png")
    Image.open(folder / "03.png").save(folder / "03.jpg", quality=100)  # a stem that is taken
    return sorted(folder.iterdir())


def labels_of(photos, output, detect=detect) -> Labels:
    journal = Journal(output, ASKED)
    list(label_photos(partial(stream_of, detect), photos, journal, pytest.fail))
    return Labels(photos[0].parent, NAMES, tuple(journal.done[photo.name] for photo in photos), "ovdet-lite")


@pytest.fixture
def labels(photos, tmp_path) -> Labels:
    labels = labels_of(photos, tmp_path / "labels")
    assert len({len(photo.detections) for photo in labels.photos}) == 4  # 0 to 3 boxes
    return labels


@pytest.mark.parametrize("moment", range(10))
def test_killed_at_any_moment_nothing_is_lost_or_doubled(photos, labels, tmp_path, moment):
    whole = (tmp_path / "labels" / JOURNAL).read_bytes()
    (tmp_path / "killed").mkdir()
    cut = len(whole) * moment // 10  # within a line, mostly
    (tmp_path / "killed" / JOURNAL).write_bytes(whole[:cut])
    asked = []
    again = labels_of(photos, tmp_path / "killed", lambda rgb: asked.append(1) or detect(rgb))
    assert again == labels and (tmp_path / "killed" / JOURNAL).read_bytes() == whole
    assert len(asked) == len(photos) - max(whole[:cut].count(b"\n") - 1, 0)


def test_a_journal_of_another_question_is_kept_and_refused(photos, labels, tmp_path):
    before = (tmp_path / "labels" / JOURNAL).read_bytes()
    with pytest.raises(InputError, match=r"thresholds.*0.1.*0.5.*another --output"):
        Journal(tmp_path / "labels", {**ASKED, "thresholds": {"dog": 0.5}})
    assert (tmp_path / "labels" / JOURNAL).read_bytes() == before
    (tmp_path / "labels" / JOURNAL).write_text("shopping\nlist\n")
    with pytest.raises(InputError, match="journal of labels"):
        Journal(tmp_path / "labels", ASKED)


def test_a_broken_photo_does_not_stop_the_others_and_is_tried_again(photos, tmp_path):
    good = photos[0].read_bytes()
    photos[0].write_bytes(b"broken")
    journal = Journal(tmp_path / "labels", ASKED)
    failed = []

    def leave_out(photo, error):
        failed.append((photo, type(error)))

    results = list(label_photos(partial(stream_of, detect), photos, journal, leave_out))
    assert failed == [(photos[0], InputError)] and [photo for photo, _ in results] == photos[1:]
    assert len(journal.done) == 12
    photos[0].write_bytes(good)
    results = list(label_photos(partial(stream_of, detect), photos, Journal(tmp_path / "labels", ASKED), leave_out))
    assert [photo for photo, _ in results] == photos[:1] and len(failed) == 1


def test_boxes_lie_within_their_photo():
    boxes = np.float32([[-5, 2, 300, 20], [10, 10, 10.001, 50]])
    found = Detections(boxes, np.float32([0.9, 0.8]), np.array([0, 0]), ("dog", "dog"), (50, 100))
    assert labeled_photo("a", found).detections == (Box((0, 2, 100, 20), 0.9, "dog"),)


def expected(labels) -> dict[str, list]:
    """Boxes and names by photo."""
    return {photo.image: [(box.label, box.box) for box in photo.detections] for photo in labels.photos}


def assert_same(found, labels, tolerance):
    assert found.keys() == expected(labels).keys()
    for image, rows in expected(labels).items():
        assert [label for label, _ in found[image]] == [label for label, _ in rows]
        assert all(np.allclose(a, b, atol=tolerance) for (_, a), (_, b) in zip(found[image], rows, strict=True))


def test_coco_as_pycocotools_reads_it(labels, tmp_path, capsys):
    read = COCO(FORMATS["coco"](labels, tmp_path / "labels"))
    names = {category["id"]: category["name"] for category in read.loadCats(read.getCatIds())}
    assert tuple(names.values()) == NAMES
    found = {
        image["file_name"]: [
            (names[each["category_id"]], (x, y, x + w, y + h))
            for each in read.loadAnns(read.getAnnIds([image["id"]]))
            for x, y, w, h in [each["bbox"]]
        ]
        for image in read.loadImgs(read.getImgIds())
    }
    assert_same(found, labels, 0.02)


def by_file(dataset, labels, names):
    return {
        names[Path(path).name]: [
            (str(dataset.classes[index]), tuple(box)) for box, index in zip(each.xyxy, each.class_id, strict=True)
        ]
        for path, _, each in dataset
    }


def test_yolo_as_supervision_reads_it(labels, tmp_path):
    config = FORMATS["yolo"](labels, tmp_path / "labels")
    content, root = yaml.safe_load(config.read_text()), config.parent
    assert content["path"] == str(root) and tuple(content["names"].values()) == NAMES
    found, parts = {}, Counter()
    names = {photo.image: photo.image for photo in labels.photos} | {"03_png.png": "03.png"}
    for part in ("train", "val"):
        listed = tmp_path / f"{part}.yaml"  # supervision wants the names as a list
        listed.write_text(yaml.safe_dump({"names": list(NAMES)}))
        folders = (str(root / content[part]), str(root / "labels" / part))
        dataset = supervision.DetectionDataset.from_yolo(*folders, data_yaml_path=str(listed))
        parts[part] = len(dataset)
        found.update(by_file(dataset, labels, names))
    assert_same(found, labels, 0.02)
    assert parts["train"] + parts["val"] == len(labels.photos) and parts["val"]
    assert (root / "images/train/03_png.png").exists() or (root / "images/val/03_png.png").exists()


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_each_photo_has_a_file_of_labels_of_its_own(tmp_path, name):
    """Whatever the photos are called: a.png is a_png beside a.jpg, and so may another photo be."""
    names = ("a.jpg", "a.png", "a_png.jpg", "a_png.png", "a_png_png.webp", "b.c.jpg", "b.c.png")
    for each in names:
        Image.new("RGB", (20, 20)).save(tmp_path / each)
    photos = tuple(LabeledPhoto(each, 20, 20, (Box((1.0, 2.0, 3.0, 4.0), 0.5, "dog"),)) for each in names)
    FORMATS[name](Labels(tmp_path, NAMES, photos, "ovdet-lite"), tmp_path / "labels")
    kinds = ("*.xml",) if name == "voc" else ("labels/*/*.txt", "images/*/*.*")
    for kind in kinds:
        written = [each.relative_to(tmp_path) for each in (tmp_path / "labels" / name).glob(kind)]
        assert len({each.stem for each in written}) == len(names), written


def test_voc_as_supervision_reads_it(labels, tmp_path):
    folder = FORMATS["voc"](labels, tmp_path / "labels")
    read = {}
    for file in folder.glob("*.xml"):
        root = ElementTree.parse(file).getroot()
        objects = root.findall("object")
        corners = [
            [float(item.find("bndbox").find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")]
            for item in objects
        ]
        shifted = [(x1 - 1, y1 - 1, x2, y2) for x1, y1, x2, y2 in corners]
        names = [item.find("name").text for item in objects]
        read[root.find("filename").text] = list(zip(names, shifted, strict=True))
    assert_same(read, labels, 0.501)


def test_label_studio_in_percent(labels, tmp_path):
    tasks = json.loads(FORMATS["labelstudio"](labels, tmp_path / "labels").read_text())
    root = ElementTree.parse(tmp_path / "labels/label_studio.xml").getroot()
    assert [label.get("value") for label in root.iter("Label")] == list(NAMES)
    control, image = root.find("RectangleLabels"), root.find("Image")
    found = {}
    for task, photo in zip(tasks, labels.photos, strict=True):
        assert task["data"]["image"] == f"/data/local-files/?d=photos%20%26%20more/{photo.image}"
        found[photo.image] = rows = []
        for result in task["predictions"][0]["result"]:
            assert result["from_name"] == control.get("name") and result["to_name"] == image.get("name")
            value = result["value"]
            x, y = value["x"] * photo.width / 100, value["y"] * photo.height / 100
            w, h = value["width"] * photo.width / 100, value["height"] * photo.height / 100
            rows.append((value["rectanglelabels"][0], (x, y, x + w, y + h)))
    assert_same(found, labels, 0.02)


def test_cvat(labels, tmp_path):
    root = ElementTree.parse(FORMATS["cvat"](labels, tmp_path / "labels")).getroot()
    assert root.find("version").text == "1.1"
    assert [name.text for name in root.findall("meta/task/labels/label/name")] == list(NAMES)
    sides = ("xtl", "ytl", "xbr", "ybr")
    found = {
        image.get("name"): [(box.get("label"), tuple(float(box.get(side)) for side in sides)) for box in image]
        for image in root.findall("image")
    }
    assert_same(found, labels, 0.001)


def test_csv(labels, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(FORMATS["csv"](labels, tmp_path / "labels"))
    assert len(frame) == sum(len(photo.detections) for photo in labels.photos)
    first = next(photo for photo in labels.photos if photo.detections)
    row, box = frame[frame.image == first.image].iloc[0], first.detections[0]
    assert (row.label, row.score, row.xmin, row.ymax) == (box.label, box.score, box.box[0], box.box[3])


def detect_masks(rgb):
    """As `detect`, with masks: of each box its ellipse with a hole and, of two, a piece apart from it."""
    found = detect(rgb)
    height, width = found.size
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((len(found), height, width), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, found.boxes, strict=True):
        distance = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2
        mask |= (0.1 <= distance) & (distance <= 1)
        mask[0, :3] = len(masks) == 2
    return replace(found, masks=masks)


@pytest.fixture
def masked(photos, tmp_path) -> tuple[Labels, list[np.ndarray]]:
    """Labels with masks, and the masks as they were found, in the order of all detections."""
    labels = labels_of(photos, tmp_path / "masked", detect_masks)
    found = [detect_masks(np.asarray(Image.open(photo).convert("RGB"))) for photo in photos]
    masks = [mask for each in found for mask in each.masks]
    boxes = [box for photo in labels.photos for box in photo.detections]
    assert len(boxes) == len(masks) > 10 and all(mask.any() for mask in masks)
    return labels, masks


def test_masks_last_in_the_journal(photos, masked, tmp_path):
    labels, _ = masked
    journal = Journal(tmp_path / "masked", ASKED)
    assert tuple(journal.done[photo.name] for photo in photos) == labels.photos
    assert "mask" not in (labels_of(photos, tmp_path / "plain") and (tmp_path / "plain" / JOURNAL).read_text())


def test_masks_come_from_a_cluster_too(photos):
    """What a worker sends, without Ray."""
    predictor = types.SimpleNamespace(stream=partial(stream_of, detect_masks))
    worker = StreamWorker(lambda: predictor, {})
    sent = worker({"photos": [json.dumps([str(photo) for photo in photos])]})
    assert sent["photo"] == [str(photo) for photo in photos] and not any(sent["error"])
    for photo, packed in zip(photos, sent["found"], strict=True):
        expected, found = detect_masks(np.asarray(Image.open(photo).convert("RGB"))), unpack(packed)
        assert list(found) == list(expected) and np.array_equal(found.masks, expected.masks)
        assert len(packed) < 2000 + expected.masks.size / 8


def test_masks_in_coco(masked, tmp_path, capsys):
    labels, masks = masked
    read = COCO(FORMATS["coco"](labels, tmp_path))
    for row, mask in zip(read.loadAnns(sorted(read.getAnnIds())), masks, strict=True):
        assert np.array_equal(read.annToMask(row), mask) and row["area"] == mask.sum()


def test_masks_in_cvat(masked, tmp_path):
    """Run lengths by their definition: zeros first, row by row, within the mask's own box."""
    labels, masks = masked
    root = ElementTree.parse(FORMATS["cvat"](labels, tmp_path)).getroot()
    shapes = [(shape, image) for image in root.iter("image") for shape in image]
    for (shape, image), mask in zip(shapes, masks, strict=True):
        left, top, width, height = (int(shape.get(key)) for key in ("left", "top", "width", "height"))
        lengths = [int(number) for number in shape.get("rle").split(",")]
        part = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(height, width).astype(bool)
        again = np.zeros((int(image.get("height")), int(image.get("width"))), bool)
        again[top : top + height, left : left + width] = part
        assert shape.tag == "mask" and np.array_equal(again, mask)


@pytest.mark.slow
def test_masks_in_cvat_as_its_sdk_reads_them(masked, tmp_path):
    decode_mask = pytest.importorskip("cvat_sdk.masks").decode_mask
    labels, masks = masked
    root = ElementTree.parse(FORMATS["cvat"](labels, tmp_path)).getroot()
    shapes = [(shape, image) for image in root.iter("image") for shape in image]
    for (shape, image), mask in zip(shapes, masks, strict=True):
        left, top, width, height = (int(shape.get(key)) for key in ("left", "top", "width", "height"))
        numbers = [int(number) for number in shape.get("rle").split(",")]
        size = {"image_width": int(image.get("width")), "image_height": int(image.get("height"))}
        again = decode_mask([*numbers, left, top, left + width - 1, top + height - 1], **size)
        assert shape.tag == "mask" and np.array_equal(again, mask)


def brush_pixels(rle):
    """Values of a brush region's image, by the description of the npm package @thi.ng/rle-pack."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(width):
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < number:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == number and "1" not in bits[place:] and len(bits) - place < 8
    return np.array(values)


def test_a_brush_region_bit_by_bit():
    header = "0" * 28 + "1000" + "00111" + "1111" * 4  # 2 pixels of 4 values, 8 bits a value, 16 a length
    runs = "111" + "0" * 14 + "11" + "0" * 8 + "111" + "0" * 14 + "11" + "1" * 8  # 4 zeros, 4 times 255
    bits = header + runs + "0" * 5
    expected = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert to_brush_run_lengths(np.array([[False, True]])) == expected
    assert to_brush_run_lengths(np.zeros((2, 3), bool)) is None


@pytest.mark.parametrize("pixels", [1, 1 << 14, (1 << 14) + 1, 100_000])
def test_long_runs_of_a_brush_region(pixels):
    mask = np.ones((2, pixels), bool)
    mask[0, 0] = False
    assert np.array_equal(brush_pixels(to_brush_run_lengths(mask)), np.repeat(255 * mask.ravel(), 4))


def brush_results(labels, folder):
    """Results of label_studio.json, all of them brush regions of the label config."""
    tasks = json.loads(FORMATS["labelstudio"](labels, folder).read_text())
    root = ElementTree.fromstring((folder / "label_studio.xml").read_text())
    control = root.find("BrushLabels")
    assert [label.get("value") for label in control.iter("Label")] == list(NAMES)
    results = [result for task in tasks for result in task["predictions"][0]["result"]]
    boxes = [box for photo in labels.photos for box in photo.detections]
    for result, box in zip(results, boxes, strict=True):
        assert (result["from_name"], result["type"]) == (control.get("name"), "brushlabels")
        assert result["value"]["brushlabels"] == [box.label] and result["value"]["format"] == "rle"
    return results


def test_masks_in_label_studio(masked, tmp_path):
    """Holes and pieces apart too: of the image's four channels, each is the mask."""
    labels, masks = masked
    for result, mask in zip(brush_results(labels, tmp_path), masks, strict=True):
        assert (result["original_height"], result["original_width"]) == mask.shape
        image = brush_pixels(result["value"]["rle"]).reshape(*mask.shape, 4)
        assert np.array_equal(image, np.repeat(255 * mask[..., None], 4, axis=2))


@pytest.mark.slow
def test_masks_in_label_studio_as_its_sdk_reads_them(masked, tmp_path):
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    decode_rle = pytest.importorskip("label_studio_sdk.converter.brush").decode_rle
    labels, masks = masked
    for result, mask in zip(brush_results(labels, tmp_path), masks, strict=True):
        image = decode_rle(result["value"]["rle"]).reshape(*mask.shape, 4)
        assert np.array_equal(image[..., 3] > 0, mask)
    config = interface((tmp_path / "label_studio.xml").read_text())
    for task in json.loads((tmp_path / "label_studio.json").read_text()):
        assert config.validate_prediction(task["predictions"][0], return_errors=True) == []


@pytest.mark.parametrize("name", ["cvat", "labelstudio"])
def test_an_empty_mask_leaves_its_box(name, photos, tmp_path):
    empty = to_run_lengths(np.zeros((60, 90), bool))
    photo = LabeledPhoto(photos[0].name, 90, 60, (Box((1, 2, 30, 40), 0.5, NAMES[0], empty),))
    text = FORMATS[name](Labels(photos[0].parent, NAMES, (photo,), "m"), tmp_path / "labels").read_text()
    assert 'xtl="1"' in text or '"rectanglelabels"' in text


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_found_at_all(name, photos, tmp_path):
    photo = LabeledPhoto(photos[0].name, 90, 60, ())
    assert FORMATS[name](Labels(photos[0].parent, NAMES, (photo,), "m"), tmp_path / "labels").exists()


def test_the_review_shows_the_least_sure(labels, tmp_path):
    thresholds = {"dog": 0.1, NAMES[1]: 0.01, NAMES[2]: 0.05}
    chosen = least_sure(labels, thresholds, 3)
    margins = [box.score / thresholds[box.label] for _, box in chosen]
    every = sorted(box.score / thresholds[box.label] for photo in labels.photos for box in photo.detections)
    assert margins == every[:3]
    page = write_review(labels, thresholds, tmp_path / "labels", number=3).read_text()
    assert page.count("<figure>") == page.count("data:image/jpeg;base64,") == 3
    assert "<kite" not in page and 'red "kite" & co' not in page


def test_a_disk_without_links_gets_copies(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(18, "Invalid cross-device link")

    (tmp_path / "a.png").write_bytes(b"photo")
    monkeypatch.setattr(label_formats.os, "link", fail)
    label_formats._link(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == b"photo"
    with pytest.raises(InputError, match="expected a photo, .*gone.png cannot be copied: No such file"):
        label_formats._link(tmp_path / "gone.png", tmp_path / "c.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_photo_whose_name_has_signs_that_nobody_can_write(tmp_path):
    """It is left out with a line, and the others are labeled."""
    folder, refused = tmp_path / "photos", []
    folder.mkdir()
    for name in ("a\nb.png", "c.png"):
        Image.new("RGB", (20, 10)).save(folder / name)
    journal = Journal(tmp_path / "out", ASKED)
    done = label_photos(
        partial(stream_of, detect), sorted(folder.iterdir()), journal, lambda photo, error: refused.append(str(error))
    )
    assert [labeled.image for _, labeled in done] == ["c.png"] and list(journal.done) == ["c.png"]
    assert refused == ["expected a photo with a name of ordinary characters, got 'a\\nb.png'"]


def test_a_journal_that_cannot_be_written_to(tmp_path):
    journal = Journal(tmp_path / "out", ASKED)
    journal.path.unlink()
    journal.path.mkdir()
    with pytest.raises(InputError, match="expected a place to write to, got .*: Is a directory"):
        journal.add(LabeledPhoto("a.png", 20, 10, ()))
    assert not journal.done
