"""The facade: names once, then photos in any form."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image
from torchvision.ops import box_iou

from ovdet import ClassEmbeddings, InputError, OpenVocabPredictor, TextEmbeddings, Vocabulary, embed_vocabulary
from ovdet.class_embeddings import NEGATIVE
from ovdet.device import float32_by_default
from ovdet.inference.draw import draw_detections
from ovdet.inference.shown import default_threshold
from ovdet.modeling.postprocess import is_not_contained
from ovdet.text.classes import join_classes
from ovdet.text.embedder import NameEmbedder

ALL = {"class_agnostic_iou": 1, "max_containment": 1}  # every box above the threshold


@pytest.fixture(scope="module")
def predictor(trained):
    """The quick model after four steps; its score threshold is off, because it finds nothing yet. On the CPU: with
    such scores the order hangs on rounding, which on GPUs goes with the number of photos.
    """
    return OpenVocabPredictor.from_config(
        "configs/quick/vild.py",
        str(trained.output / "model_final.pth"),
        overrides=[*trained.overrides, "model.roi_heads.box_predictor.test_score_thresh=-1"],
        device="cpu",
    )


@pytest.fixture(scope="module")
def photo(trained):
    return sorted((trained.output.parent / "data/images").iterdir())[-1]


def same(first, second) -> bool:
    """Detections, as many as there are, the same."""
    assert len(first) > 0
    return first.labels == second.labels and np.allclose(first.boxes, second.boxes, atol=1e-3)


def test_names_are_needed(trained, photo):
    fresh = OpenVocabPredictor.from_pretrained(trained.output)
    with pytest.raises(InputError, match="names, classes, or set_vocabulary"):
        fresh(photo)


def test_file_pil_array_and_tensor_give_the_same(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel"])
    rgb = np.asarray(Image.open(photo).convert("RGB"))
    expected = predictor(photo, threshold=0)
    assert same(predictor(Image.open(photo), threshold=0), expected)
    assert same(predictor(rgb, threshold=0, channel_order="RGB"), expected)
    assert same(predictor(np.ascontiguousarray(rgb[:, :, ::-1]), threshold=0), expected)
    assert same(predictor(torch.tensor(rgb).permute(2, 0, 1), threshold=0), expected)
    assert not same(predictor(rgb, threshold=0), expected)  # taken for BGR


def test_a_folder_is_its_photos(predictor, photo, tmp_path, capsys):
    for name in ("b.png", "a.png"):
        Image.open(photo).crop((0, 0, 200 if name == "a.png" else 120, 150)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    predictor.set_vocabulary(["red square", "wheel"])
    found = list(predictor.detect_folder(tmp_path, threshold=0, class_agnostic_iou=0.0))
    assert [file for file, _ in found] == [tmp_path / "a.png", tmp_path / "b.png"]
    assert all(same(each, predictor(file, threshold=0, class_agnostic_iou=0.0)) for file, each in found)
    assert all(len(each) < len(predictor(file, threshold=0)) for file, each in found)
    captured = capsys.readouterr()
    assert "detecting" in captured.err and not captured.out
    (tmp_path / "._a.png").write_bytes(b"")  # of a Mac
    (tmp_path / "folder.png").mkdir()
    assert len(list(predictor.detect_folder(tmp_path))) == 2
    with pytest.raises(InputError, match="does not exist"):
        next(predictor.detect_folder(tmp_path / "none"))


def test_a_broken_photo_stops_no_folder(predictor, photo, tmp_path, caplog):
    predictor.set_vocabulary(["red square"])
    for name in ("a.png", "z.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="z.png is empty"):
        list(predictor.detect_folder(tmp_path))
    Image.open(photo).save(tmp_path / "b.png")
    caplog.clear()
    assert [file.name for file, _ in predictor.detect_folder(tmp_path)] == ["b.png"]
    assert [record.getMessage().count(".png is empty") for record in caplog.records] == [1, 1]
    with pytest.raises(InputError, match="threshold between 0 and 1"):
        next(predictor.detect_folder(tmp_path, threshold=2))


def test_detections_are_sorted_in_the_photo_and_plain(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel", "blue star"])
    found = predictor(photo, threshold=0)
    height, width = found.size
    assert len(found) > 3
    assert (found.boxes >= 0).all() and (found.boxes[:, [0, 2]] <= width).all() and (found.boxes[:, 3] <= height).all()
    rows = list(found)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {type(value) for row in rows for value in row.values()} == {list, float, str}


@pytest.mark.parametrize("number", [1, 65, pytest.param(1203, marks=pytest.mark.slow)])
def test_any_number_of_names(predictor, photo, number):
    predictor.set_vocabulary([f"thing {i}" for i in range(number)])
    assert len(predictor.names) == number
    labels = set(predictor(photo, threshold=0).labels)
    assert labels and labels <= set(predictor.names)


def test_a_broken_pil_image(predictor, photo, tmp_path):
    Image.open(photo).convert("RGB").resize((90, 60)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    predictor.set_vocabulary(["cat"])
    with pytest.raises(InputError, match="expected a readable image, got a broken one"):
        predictor(Image.open(tmp_path / "a.jpg"))


def test_threshold_and_class_agnostic_iou(predictor, photo):
    predictor.set_vocabulary(["red square", "red circle"])
    everything = predictor(photo, threshold=0)
    assert len(everything) > 3
    middle = float(np.median(everything.scores))
    assert len(predictor(photo, threshold=middle)) == (everything.scores >= middle).sum()
    assert 0 < len(predictor(photo, threshold=0, class_agnostic_iou=0.0)) < len(everything)


def test_boxes_within_better_ones_of_their_name_are_left_out(predictor, photo):
    predictor.set_vocabulary(["red square", "red circle"])
    everything = predictor(photo, threshold=0, **ALL)
    found = predictor(photo, threshold=0, class_agnostic_iou=1, max_containment=0.9)
    kept = is_not_contained(
        torch.tensor(everything.boxes), torch.tensor([label == "red square" for label in everything.labels]), 0.9
    )
    assert 0 < len(found) == kept.sum() < len(everything)
    assert np.array_equal(found.boxes, everything.boxes[kept.numpy()])


def test_ready_embeddings(predictor, photo, conse_teacher):
    vocabulary = Vocabulary(("wheel", "red square"))
    predictor.set_vocabulary(vocabulary, negatives=())
    expected = predictor(photo, threshold=0)
    predictor.set_vocabulary(embed_vocabulary(vocabulary, conse_teacher), negatives=())
    assert same(predictor(photo, threshold=0), expected)
    predictor.set_vocabulary(vocabulary)
    expected = predictor(photo, threshold=0)
    predictor.set_vocabulary(embed_vocabulary(vocabulary, conse_teacher))  # the same negatives beside them
    assert same(predictor(photo, threshold=0), expected)
    other = TextEmbeddings(torch.eye(384)[:1], ("wheel",), ("a {}",), "open_clip:ViT-B-32/openai", "")
    with pytest.raises(InputError, match="teacher 'conse', got teacher 'open_clip"):
        predictor.set_vocabulary(other)


def test_the_best_of_a_name_and_its_synonyms_counts(predictor, photo):
    """Beside the scores of all rows, the best of each class taken by hand."""
    classes = predictor.embed(Vocabulary(("wheel", "red square"), {"wheel": ("blue star",)}), negatives=())
    assert classes.class_ids.tolist() == [0, 1, 0] and classes.names == ("wheel", "red square")
    rows = ClassEmbeddings(classes.embeddings, torch.arange(3), ("wheel", "red square", "blue star"), classes.is_base)
    apart = predictor(photo, classes=rows, threshold=0, **ALL)
    found = predictor(photo, classes=classes, threshold=0, **ALL)
    owners = ["wheel" if label == "blue star" else label for label in apart.labels]
    overlaps = box_iou(torch.tensor(apart.boxes), torch.tensor(apart.boxes))
    kept: list[int] = []
    for index, owner in enumerate(owners):  # best first
        if not any(owners[other] == owner and overlaps[index, other] > 0.5 for other in kept):
            kept.append(index)
    assert len(set(apart.labels)) > 1 and 0 < len(kept) < len(apart)
    assert list(found.labels[: len(kept)]) == [owners[index] for index in kept]  # and more: a hundred in all
    assert np.allclose(found.scores[: len(kept)], apart.scores[kept])
    assert np.array_equal(found.boxes[: len(kept)], apart.boxes[kept])
    assert set(found.class_ids.tolist()) == {0, 1}
    assert tuple(classes.names[index] for index in found.class_ids) == found.labels


def test_names_of_one_call_leave_the_default_as_it_is(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel"])
    default = predictor(photo, threshold=0)
    found = predictor(photo, names=["blue star", "red circle"], threshold=0)
    assert (
        set(found.labels) <= {"blue star", "red circle"} and len(found) and predictor.names == ("red square", "wheel")
    )
    assert same(predictor(photo, threshold=0), default)
    classes = predictor.embed(["blue star", "red circle"])
    assert same(predictor(photo, classes=classes, threshold=0), found)
    assert predictor.embed(["blue star", "red circle"]) is classes  # remembered
    (batched,) = predictor.detect_batch([photo], ["blue star", "red circle"], threshold=0)
    assert same(batched, found)
    for options, message in (
        ({"names": ["a"], "classes": classes}, "names or classes, got both"),
        ({"negatives": ["a"]}, "negatives with names"),
        ({"classes": ["a"]}, "ClassEmbeddings, got list"),
        ({"classes": ClassEmbeddings.of(torch.eye(3), ["a", "b", "c"])}, "width 384, got width 3"),
        ({"names": "cat"}, "list"),
    ):
        with pytest.raises(InputError, match=message):
            predictor(photo, **options)


def test_threads_with_vocabularies_of_their_own(predictor, photo):
    """Eight threads on one predictor, a different vocabulary each: each gets what it gets alone."""
    vocabularies = [[f"{color} {shape}", "wheel", f"thing {i}"] for i, (color, shape) in enumerate(
        (color, shape) for color in ("red", "blue") for shape in ("square", "circle", "star", "ring"))]  # fmt: skip
    alone = [predictor(photo, names=names, threshold=0) for names in vocabularies]
    predictor._embed_vocabulary._kept.clear()
    barrier = threading.Barrier(len(vocabularies))

    def ask(names):
        barrier.wait()
        return [predictor(photo, names=names, threshold=0) for _ in range(3)]

    with ThreadPoolExecutor(len(vocabularies)) as pool:
        together = list(pool.map(ask, vocabularies))
    for expected, found in zip(alone, together, strict=True):
        assert all(same(each, expected) and np.array_equal(each.scores, expected.scores) for each in found)


def test_negatives_take_no_detection_s_place(trained, photo):
    """As many are found as there may be, and the same that a detector without a limit finds."""
    found = []
    for most in (5, 1000):
        predictor = OpenVocabPredictor.from_config(
            "configs/quick/vild.py",
            str(trained.output / "model_final.pth"),
            overrides=[
                *trained.overrides,
                *(f"model.roi_heads.box_predictor.test_{k}" for k in ("score_thresh=-1", f"topk_per_image={most}")),
            ],
            device="cpu",
        )
        predictor.set_vocabulary(["red square"], negatives=["wheel", "blue star", "green circle"])
        found.append(predictor(photo, threshold=0))
    few, many = found
    assert len(few) == 5 < len(many) and np.allclose(few.boxes, many.boxes[:5], atol=1e-3)


def test_a_picture_shows_what_was_found(predictor, photo, tmp_path):
    predictor.set_vocabulary(["red square", "wheel"])
    rgb = np.asarray(Image.open(photo).convert("RGB"))
    found = predictor(photo, threshold=0, class_agnostic_iou=0.3)
    assert len(found) > 0
    expected = draw_detections(rgb, found.boxes, found.labels, found.scores, names=("red square", "wheel"))
    assert np.array_equal(np.asarray(predictor.draw(photo, found)), expected)
    assert np.array_equal(np.asarray(predictor.draw(rgb, found, channel_order="RGB")), expected)
    assert not np.array_equal(np.asarray(predictor.draw(rgb, found)), expected)  # taken for BGR
    with pytest.raises(InputError, match="does not exist"):
        predictor.draw(tmp_path / "none.jpg", found)


def test_what_looks_more_like_a_negative_is_left_out(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel", "blue star"], negatives=())
    everything = predictor(photo, threshold=0)
    predictor.set_vocabulary(["red square"], negatives=["wheel", "blue star"])
    found = predictor(photo, threshold=0)
    asked = [index for index, label in enumerate(everything.labels) if label == "red square"]
    assert 0 < len(asked) < len(everything)
    assert set(found.labels) == {"red square"} and predictor.names == ("red square",)
    assert np.array_equal(found.scores[: len(asked)], everything.scores[asked])  # and more: a hundred in all
    assert np.array_equal(found.boxes[: len(asked)], everything.boxes[asked])
    assert same(predictor(photo, ["red square", "-wheel", "-blue star"], negatives=(), threshold=0), found)


def test_training_classes_are_known_as_base(predictor):
    classes = predictor.embed(["Red_Circle", "red square", "wheel"], negatives=())
    assert classes.is_base.tolist() == [True, False, False]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")]
)
def test_arrays_that_are_no_photos(predictor, image):
    predictor.set_vocabulary(["cat"])
    with pytest.raises(InputError, match=r"\(H, W, 3\) of uint8"):
        predictor(image)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (None, {}, r"an array or a tensor, got NoneType \(cv2.imread's answer"),
        (["a.jpg"], {}, r"an array or a tensor, got list \(of several photos: detect_batch\)"),
        ("photo.jpg", {"channel_order": "XYZ"}, "RGB or BGR, got 'XYZ'"),
        (Image.new("RGB", (0, 0)), {}, "at most 100 to 1, got 0 x 0 pixels"),
        ("photo.jpg", {"threshold": 5}, "threshold between 0 and 1, got 5"),
        ("photo.jpg", {"threshold": "0.3"}, "threshold between 0 and 1, got '0.3'"),
        ("photo.jpg", {"class_agnostic_iou": -1}, "class_agnostic_iou between 0 and 1, got -1"),
        ("photo.jpg", {"max_containment": 2}, "max_containment between 0 and 1, got 2"),
    ],
)
def test_what_else_is_refused(predictor, image, options, message):
    predictor.set_vocabulary(["cat"])
    with pytest.raises(InputError, match=message):
        predictor(image, **options)


def test_a_photo_that_is_too_thin_is_named(predictor, tmp_path):
    """In a folder of many it could be any; others of the folder go on."""
    Image.new("RGB", (303, 3)).save(tmp_path / "strip.png")
    Image.new("RGB", (60, 40)).save(tmp_path / "usual.png")
    predictor.set_vocabulary(["cat"])
    failures = []
    found = list(predictor.stream(tmp_path, on_failure=lambda _, error: failures.append(str(error))))
    assert [photo.source.name for photo in found] == ["usual.png"]
    assert failures == [f"expected a photo with sides of at most 100 to 1, got 303 x 3 pixels in {tmp_path}/strip.png"]


@pytest.mark.parametrize(
    "image", [torch.zeros(4, 5, 3, dtype=torch.uint8), torch.zeros(3, 4, 5), torch.zeros(3, 0, 5, dtype=torch.uint8)]
)
def test_tensors_that_are_no_photos(predictor, image):
    predictor.set_vocabulary(["cat"])
    with pytest.raises(InputError, match=r"\(3, H, W\) of uint8"):
        predictor(image)


def test_pil_images_are_converted_like_files(predictor, tmp_path):
    predictor.set_vocabulary(["cat"])
    gray = np.random.default_rng(0).integers(0, 65535, (40, 50), dtype=np.uint16)
    image = Image.fromarray(gray)
    image.save(tmp_path / "gray16.png")
    assert same(predictor(image, threshold=0), predictor(tmp_path / "gray16.png", threshold=0))


@pytest.mark.parametrize("photos", ["a.jpg", Image.new("RGB", (9, 9)), np.zeros((9, 9, 3), np.uint8)])
def test_one_photo_is_no_batch(predictor, photos):
    with pytest.raises(InputError, match="expected a list of photos, got one"):
        predictor.detect_batch(photos)


def test_one_string_is_no_list_of_names(predictor):
    with pytest.raises(InputError, match="list"):
        predictor.set_vocabulary("cat")
    with pytest.raises(InputError, match="negatives to be a list"):
        predictor.set_vocabulary(["cat"], negatives="dog")


def test_a_batch_is_its_photos(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel"])
    expected = predictor(photo, threshold=0)
    assert predictor.detect_batch([]) == []
    batch = predictor.detect_batch([photo, Image.open(photo)], threshold=0)
    assert len(batch) == 2 and all(same(found, expected) for found in batch)


class Scripted:
    """A model that finds boxes 10 pixels wide, of the classes in turn, with the scores and places it was given."""

    input_format = "RGB"
    masks = None

    def __init__(self, *scores: float, places=None) -> None:
        self.found = torch.tensor(scores)
        self.places = torch.arange(len(scores)) * 20.0 if places is None else torch.tensor(places)

    def __call__(self, inputs, *, classes):
        self.inputs = inputs
        instances = Instances((inputs[0]["height"], inputs[0]["width"]))
        left = self.places
        instances.pred_boxes = Boxes(torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1))
        instances.scores = self.found
        instances.pred_classes = torch.arange(len(self.found)) % len(classes.names)
        if self.masks is not None:
            instances.pred_masks = self.masks
        return [{"instances": instances}]


def scripted(*scores: float, places=None, training_classes=(), **embedder) -> OpenVocabPredictor:
    return OpenVocabPredictor(
        Scripted(*scores, places=places),
        NameEmbedder("conse", width=384, **embedder),
        resize=T.AugmentationList([]),
        training_classes=training_classes,
    )


def test_the_threshold_is_by_whether_a_name_was_trained():
    trained, other = default_threshold(True), default_threshold(False)
    assert trained > other
    predictor = scripted(trained - 0.01, trained - 0.01, trained + 0.01, other - 0.01, training_classes=["person"])
    predictor.set_vocabulary(["person", "red kite"], negatives=())
    image = np.zeros((10, 400, 3), np.uint8)  # classes take turns
    assert sorted(predictor(image).labels) == ["person", "red kite"]
    assert len(predictor(image, threshold=0)) == 4 and len(predictor(image, threshold=0.9)) == 0


def test_a_detector_that_does_not_say_what_it_was_trained_on_has_one_threshold():
    predictor = scripted(default_threshold(True) + 0.01, default_threshold(True) - 0.01)
    predictor.set_vocabulary(["person", "red kite"])
    assert predictor(np.zeros((10, 400, 3), np.uint8)).labels == ("person",)


CLASSES = ("person", "bicycle", "truck", "Kitten")


@pytest.mark.parametrize(
    ("asked", "negatives", "columns"),
    [
        (["man"], None, ("man", "bicycle", "truck", "Kitten")),  # a person may be a man
        (["kitten", "cup"], None, ("kitten", "cup", "person", "bicycle", "truck")),  # asked for itself
        (["man"], (), ("man",)),
        (["man"], ["sofa", "MAN", "sofa"], ("man", "sofa")),
    ],
)
def test_negatives_are_those_that_are_given_or_training_classes_unlike_the_names(asked, negatives, columns):
    predictor = scripted(*[0.9] * len(asked), training_classes=CLASSES)
    classes = predictor.embed(asked, negatives=negatives)
    assert torch.allclose(classes.embeddings, predictor.embed_names(columns), atol=1e-6)
    assert classes.class_ids.tolist() == [*range(len(asked)), *[NEGATIVE] * (len(columns) - len(asked))]
    trained = [name.casefold() in ("person", "bicycle", "truck", "kitten") for name in columns]
    assert classes.is_base.tolist() == trained
    found = predictor(np.zeros((10, 400, 3), np.uint8), asked, negatives=negatives)
    assert list(found.labels) == asked and found.boxes[:, 0].tolist() == [20.0 * k for k in range(len(asked))]


def test_a_model_that_says_nothing_of_its_training_has_no_negatives():
    classes = scripted().embed(["man"])
    assert classes.class_ids.tolist() == [0] and classes.is_base is None


def test_a_file_of_embeddings_gives_those_negatives_that_it_holds(tmp_path, conse_teacher):
    embed_vocabulary(Vocabulary(("man", "bicycle")), conse_teacher).save(tmp_path / "own.safetensors")
    predictor = scripted(training_classes=CLASSES, file=tmp_path / "own.safetensors")
    classes = predictor.embed(["man"])
    assert torch.allclose(classes.embeddings, predictor.embed_names(["man", "bicycle"]), atol=1e-6)
    assert classes.class_ids.tolist() == [0, NEGATIVE]
    with pytest.raises(InputError, match="truck"):
        predictor.set_vocabulary(["man"], negatives=["truck"])


@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
def test_the_network_gets_its_own_channel_order_and_the_teacher_rgb(input_format):
    predictor = scripted(0.9)
    predictor.model.input_format = input_format
    predictor.model.roi_heads = SimpleNamespace(region_teacher="looks at the photo")
    predictor.set_vocabulary(["man"])
    red = np.zeros((10, 400, 3), np.uint8)
    red[:, :, 2] = 200  # OpenCV's order
    predictor(red)
    (given,) = predictor.model.inputs
    assert given["image"][:, 0, 0].tolist() == ([200, 0, 0] if input_format == "RGB" else [0, 0, 200])
    assert given["image_orig"][:, 0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize(("iou", "other", "left"), [(0.4, 0.4, 1), (0.45, 0.4, 2), (0.4, 0.5, 2), (1, 0.4, 2)])
def test_a_far_surer_box_of_another_name_is_overlapped_up_to_what_is_asked(iou, other, left):
    """As a dog on a cat, and unlike a rider on a motorcycle."""
    predictor = scripted(0.9, other, places=[0.0, 4.0])  # 6 px of 14: an IoU of 0.43
    labels = predictor(np.zeros((10, 400, 3), np.uint8), ["man", "cup"], class_agnostic_iou=iou).labels
    assert labels == ("man", "cup")[:left]


def test_a_rider_is_found_on_the_motorcycle_by_default():
    found = scripted(0.9, 0.6, places=[0.0, 1.0])(np.zeros((10, 400, 3), np.uint8), ["motorcycle", "man"])
    assert found.labels == ("motorcycle", "man")
    found = scripted(0.9, 0.3, places=[0.0, 1.0])(np.zeros((10, 400, 3), np.uint8), ["cat", "dog"])
    assert found.labels == ("cat",)


def test_a_synonym_of_a_trained_name_is_as_good_as_trained():
    predictor = scripted(training_classes=["person"])
    classes = predictor.embed(Vocabulary(("person", "cup"), {"person": ("human",)}), negatives=())
    assert classes.is_base.tolist() == [True, False, True] and classes.is_base_class.tolist() == [True, False]


@pytest.mark.parametrize("spelling", ["Hot  Dog.", "hot\u200b dog", "\ufeffhot dog", "hot\u00ad_dog", "\uff48ot dog"])
def test_a_trained_name_may_be_spelt_in_any_way_that_reads_alike(spelling):
    predictor = scripted(training_classes=["hot_dog"])
    classes = predictor.embed([spelling, "dog"], negatives=())
    assert classes.is_base.tolist() == [True, False]
    assert torch.allclose(classes.embeddings, predictor.embed_names(["hot dog", "dog"]), atol=1e-6)


def test_detections_can_be_compared_and_kept_in_a_set():
    predictor = scripted(0.9)
    predictor.set_vocabulary(["man"])
    first, second = (predictor(np.zeros((10, 400, 3), np.uint8)) for _ in range(2))
    assert first == first and first != second and len({first, second}) == 2


def test_masks_go_with_their_boxes():
    predictor = scripted(0.9, 0.1, 0.8)
    predictor.model.masks = torch.arange(3)[:, None, None].expand(3, 10, 400) == 2
    predictor.set_vocabulary(["man"])
    image = np.zeros((10, 400, 3), np.uint8)
    assert [mask.all() for mask in predictor(image).masks] == [False, True]  # the second scores too low
    predictor.model.masks = None
    assert predictor(image).masks is None


def test_what_lies_just_below_its_threshold_is_said():
    image = np.zeros((10, 400, 3), np.uint8)
    predictor = scripted(0.2, 0.079, 0.06, training_classes=["person"])
    found = predictor(image, ["person", "red kite"], negatives=())
    assert len(found) == 0 and found.best_missed == ("person", pytest.approx(0.2))
    assert predictor(image, ["person", "red kite"], negatives=(), threshold=0.07).best_missed[0] == "person"
    assert predictor(image, ["person", "red kite"], negatives=(), threshold=0).best_missed is None
    assert scripted()(image, ["person"]).best_missed is None


def test_a_program_of_another_default_type_gets_the_same():
    """Detectors are built for float32; what the program has set comes back."""
    image, names = np.zeros((10, 400, 3), np.uint8), ["person", "red kite"]
    expected = scripted(0.9, 0.8, 0.7)(image, names)
    torch.set_default_dtype(torch.float64)
    try:
        predictor = scripted(0.9, 0.8, 0.7)
        classes, found = predictor.embed(names), predictor(image, names)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert classes.embeddings.dtype == torch.float32 and found.scores.dtype == np.float32
    assert np.allclose(found.boxes, expected.boxes) and found.labels == expected.labels


def test_threads_share_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda _: _default_type_within(), range(400)))
        assert set(seen) == {torch.float32} and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def _default_type_within() -> torch.dtype:
    with float32_by_default():
        return torch.get_default_dtype()


def test_thresholds_of_single_names(predictor, photo):
    names = ["red square", "wheel"]
    every = predictor(photo, names, threshold=0, **ALL)
    scores = sorted(d["score"] for d in every if d["label"] == "wheel")
    middle = scores[len(scores) // 2]
    found = predictor(photo, names, threshold={"red square": 0.0, "wheel": middle}, **ALL)
    expected = [d for d in every if d["label"] == "red square" or d["score"] >= middle]
    assert 0 < len(expected) < len(every) and abs(len(found) - len(expected)) <= 1  # scores are told rounded
    for wrong in ({"cow": 0.5}, {"wheel": 2}, {"wheel": "high"}):
        with pytest.raises(InputError, match="threshold"):
            predictor(photo, names, threshold=wrong)


def test_a_photo_that_was_embedded_answers_as_the_photo_itself(predictor, photo, monkeypatch):
    classes = predictor.embed(["cat", "wheel"], negatives=["dog"])
    learned = join_classes(classes, predictor.learn("mug", [(photo, [[5, 5, 60, 60]])]))
    seen = predictor.embed_photo(photo)
    assert 0 < seen.num_bytes < 20e6
    asked = [{"names": ["red square", "wheel"]}, {"classes": classes}, {"classes": learned}]
    expected = [predictor(photo, threshold=0, **each) for each in asked]
    monkeypatch.setattr(predictor.model.backbone, "forward", lambda images: pytest.fail("the backbone ran again"))
    for each, direct in zip(asked, expected, strict=True):
        assert same(predictor.detect_embedded(seen, threshold=0, **each), direct)
    with pytest.raises(InputError, match="class name"):
        predictor.detect_embedded(seen, [])
