"""`ovdet label` as a user runs it: formats, thresholds by name, going on after a kill, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from ovdet.cli.label import parse_thresholds
from ovdet.errors import InputError
from ovdet.inference.label_formats import FORMATS
from ovdet.inference.labels import JOURNAL, Box, LabeledPhoto, Labels
from ovdet.inference.mask_formats import to_run_lengths
from ovdet.inference.pseudo_labels import add_pseudo_labels

# a detector that costs nothing (its time is that of `--half`), in a process of its own
SPY = """
import sys, time
import numpy as np
from ovdet.inference import load
from ovdet.inference.detections import Detections
from ovdet.inference.stream import stream_photos
from ovdet.class_embeddings import ClassEmbeddings
import torch

class Spy:
    names, training_classes = ("dog", "red kite"), ()
    classes = ClassEmbeddings(torch.eye(2), torch.arange(2), names)
    def set_vocabulary(self, vocabulary, negatives): assert vocabulary.names == self.names
    def stream(self, photos, *, batch_size, on_failure, threshold, **shown):
        def detect(batch): return [self(image, threshold) for image in batch]
        return stream_photos(photos, lambda rgb: rgb, detect, batch_size=batch_size, on_failure=on_failure)
    def __call__(self, image, threshold):
        time.sleep(PAUSE)
        scores = np.float32([0.6, 0.3, 0.2])
        labels = ("dog", "dog", "red kite")
        keep = [i for i in range(3) if scores[i] >= threshold[labels[i]]]
        boxes = np.float32([[1, 2, 30, 40], [5, 5, 20, 20], [0, 0, 9, 9]])
        ids, labels = np.array([0, 0, 1])[keep], tuple(labels[i] for i in keep)
        return Detections(boxes[keep], scores[keep], ids, labels, image.shape[:2])

load.load_predictor = lambda **chosen: Spy()
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(np.full((60, 80, 3), number, np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def label(photos, ovdet, tmp_path, monkeypatch):
    """Run it in this process -> exit code, stdout, stderr."""
    from ovdet.inference import load

    monkeypatch.setattr(load, "load_predictor", load.load_predictor)  # given back afterwards
    exec(SPY.replace("PAUSE", "0"), {})

    def label(*more, folder=photos, names="dog, red kite"):
        return ovdet("label", folder, "--names", names, "--output", tmp_path / "out", *more)

    return label


def test_formats_and_thresholds(label, tmp_path):
    formats = ("coco", "yolo", "voc", "labelstudio", "cvat", "csv")
    more = ("--threshold", "0.1", "--thresholds", "Dog=0.5", "--format", *formats, "--json")
    code, out, err = label(*more)
    assert code == 0, err
    said = json.loads(out)
    assert said["photos"] == 8 and said["boxes"] == 16 and said["left_out"] == 0 and len(said["files"]) == 7
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [each["score"] for each in coco["annotations"][:2]] == [0.6, 0.2]
    assert (tmp_path / "out/review.html").is_file() and len(list((tmp_path / "out/voc").iterdir())) == 8
    # a second run has nothing to do, and another question gets another folder
    code, out, err = label(*more[:-1])
    assert code == 0 and "16 boxes on 8 photos, 0 of them new" in out, err
    code, _, err = label("--threshold", "0.2", "--thresholds", "dog=0.5")
    assert code == 2 and "expected the thresholds that" in err and "another --output" in err


def test_a_photo_that_has_gone_since_is_in_no_label_and_no_count(label, photos, tmp_path):
    assert label()[0] == 0
    (photos / "3.png").unlink()
    code, out, err = label("--format", "csv")
    assert code == 0 and "on 7 photos, 0 of them new" in out, err
    assert "3.png" not in (tmp_path / "out/labels.csv").read_text()


def test_a_broken_photo_is_told_and_the_others_are_labeled(label, photos, tmp_path):
    (photos / "3.png").write_bytes(b"broken")
    code, _, err = label()
    assert code == 2 and "3.png" in err and "Traceback" not in err
    assert len(json.loads((tmp_path / "out/coco.json").read_text())["images"]) == 7


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--thresholds", "dog"), "dog=0.5"),
        (("--thresholds", "dog=2"), "dog=2"),
        (("--thresholds", "cow=0.5"), "'cow'"),
        (("--threshold", "7"), "--threshold"),
        (("--processes", "2"), "--processes"),
        (("--engine", "ray", "--processes", "-1"), "--processes"),
    ],
)
def test_bad_options_write_nothing(label, tmp_path, more, message):
    code, _, err = label(*more)
    assert code == 2 and message in err.splitlines()[-1] and not (tmp_path / "out").exists()


def test_without_ray_nothing_is_written(label, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = label("--engine", "ray")
    assert code == 2 and 'pip install "ray[data]"' in err and not (tmp_path / "out").exists()


def test_bad_folders(label, photos, tmp_path):
    for folder, message in ((photos / "0.png", "folder"), (tmp_path / "none", "none"), (tmp_path, "got photos")):
        code, _, err = label(folder=folder)
        assert code == 2 and "expected" in err and not (tmp_path / "out").exists(), message
    code, _, err = label("--output", photos)
    assert code == 2 and "another folder" in err and not (photos / JOURNAL).exists()


def test_thresholds_as_text():
    assert parse_thresholds("dog=0.5, red kite = 0.1") == {"dog": 0.5, "red kite": 0.1} and parse_thresholds(None) == {}
    with pytest.raises(InputError):
        parse_thresholds("=0.5")


@pytest.mark.slow
def test_killed_at_ten_moments(photos, tmp_path):
    """By SIGKILL, for real; the labels are those of a run that nobody disturbed."""
    script = tmp_path / "spy.py"
    script.write_text(SPY.replace("PAUSE", "0.3") + "\nfrom ovdet.cli.main import main\nmain()\n")

    def run(output):
        words = ["label", photos, "--names", "dog, red kite", "--format", "coco", "--output", output]
        return subprocess.Popen([sys.executable, script, *words], stderr=subprocess.PIPE, env={**os.environ})

    undisturbed = run(tmp_path / "whole")
    assert undisturbed.wait() == 0, undisturbed.stderr.read()
    for moment in range(10):
        process = run(tmp_path / "killed")
        time.sleep(0.2)
        journal = tmp_path / "killed" / JOURNAL
        while not journal.exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.1 + 0.13 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = run(tmp_path / "killed")
    assert last.wait() == 0, last.stderr.read()
    for name in ("coco.json", JOURNAL):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def make_json(photos, names=("dog",), first="0.png"):
    """A json of all photos, on the first one a dog where the spy sees one."""
    return {
        "info": {"description": "mine"},
        "images": [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in range(8)],
        "annotations": [{"id": 5, "image_id": 0, "category_id": 3, "bbox": [1, 2, 29, 38], "area": 1102, "iscrowd": 0}],
        "categories": [{"id": 3 + place, "name": name} for place, name in enumerate(names)],
    }


def test_missing_names_are_labeled_beside_a_jsons_own(label, photos, tmp_path):
    own = make_json(photos)
    (tmp_path / "own.json").write_text(json.dumps(own))
    code, out, err = label("--missing", tmp_path / "own.json", "--threshold", "0.1")
    assert code == 0 and "coco.json" in out, err
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert coco["info"] == own["info"] and coco["images"] == own["images"]
    assert coco["categories"] == [{"id": 3, "name": "dog"}, {"id": 4, "name": "red kite"}]
    assert coco["annotations"][0] == own["annotations"][0]
    kites = coco["annotations"][1:]
    assert [(each["image_id"], each["category_id"], each["score"]) for each in kites] == [(n, 4, 0.2) for n in range(8)]
    assert kites[0]["bbox"] == [0, 0, 9, 9] and len({each["id"] for each in coco["annotations"]}) == 9


def test_missing_leaves_out_what_has_a_box(label, photos, tmp_path):
    own = make_json(photos, names=("rat", "mouse"))  # the spy's first dog is a rat
    (tmp_path / "own.json").write_text(json.dumps(own))
    code, _, err = label("--missing", tmp_path / "own.json", "--threshold", "0.1", "--thresholds", "dog=0.5")
    assert code == 0, err
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    new = [each for each in coco["annotations"] if "score" in each]
    assert {each["category_id"] for each in new if each["image_id"] == 0} == {6}  # the kite
    assert {each["category_id"] for each in new if each["image_id"] == 1} == {5, 6}


@pytest.mark.parametrize(
    ("change", "more", "expected"),
    [
        (lambda own: own, ("--format", "yolo"), "--format coco with --missing"),
        (lambda own: {**own, "images": [{**own["images"][0], "file_name": "gone.png"}]}, (), "gone.png"),
        (lambda own: {**own, "images": [{**own["images"][0], "file_name": "../0.png"}]}, (), "below"),
        (lambda own: {"images": []}, (), "COCO-format json"),
        (lambda own: {**own, "images": [{**own["images"][0], "width": 160}]}, (), "0.png to be 160 x 60 pixels as its"),
    ],
)
def test_a_json_that_does_not_fit_is_refused(label, photos, tmp_path, change, more, expected):
    own = change(make_json(photos))
    own = {**own, "annotations": []} if "annotations" in own else own
    (tmp_path / "own.json").write_text(json.dumps(own))
    code, _, err = label("--missing", tmp_path / "own.json", *more)
    assert code == 2 and expected in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_word_for_a_name_of_the_json_is_not_missing():
    content = {
        "images": [{"id": "a", "file_name": "a.png"}],
        "annotations": [],
        "categories": [{"id": 0, "name": "sofa"}],
    }
    photo = LabeledPhoto("a.png", 9, 9, tuple(Box((0, 0, 5, 5), 0.5, label) for label in ("couch", "Sofa", "dog")))
    added = add_pseudo_labels(content, {"a.png": photo})
    assert [each["name"] for each in added["categories"]] == ["sofa", "dog"]
    assert [each["category_id"] for each in added["annotations"]] == [1]
    assert add_pseudo_labels(content, {}) == content


def test_masks_of_pseudo_labels_are_those_of_coco(tmp_path):
    mask = np.zeros((9, 9), bool)
    mask[2:4, 1:6] = True
    photo = LabeledPhoto("a.png", 9, 9, (Box((1, 2, 6, 4), 0.5, "dog", to_run_lengths(mask)),))
    content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [], "categories": []}
    (pseudo,) = add_pseudo_labels(content, {"a.png": photo})["annotations"]
    written = json.loads(FORMATS["coco"](Labels(tmp_path, ("dog",), (photo,), "m"), tmp_path).read_text())
    assert pseudo == {**written["annotations"][0], "image_id": 7} and pseudo["area"] == 10
    assert np.array_equal(coco_masks.decode(pseudo["segmentation"]), mask)
