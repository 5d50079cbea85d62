"""The facade: names once, then photos in any form."""

import numpy as np
import pytest
import torch
from PIL import Image

from ovdet import InputError, OpenVocabPredictor, TextEmbeddings, Vocabulary, embed_vocabulary


@pytest.fixture(scope="module")
def predictor(trained):
    """The quick model after four steps; its score threshold is off, because it finds nothing yet."""
    return OpenVocabPredictor.from_config(
        "configs/quick/vild.py",
        str(trained.output / "model_final.pth"),
        overrides=["model.roi_heads.box_predictor.test_score_thresh=-1"],
    )


@pytest.fixture(scope="module")
def photo(trained):
    return sorted((trained.output.parent / "data/images").iterdir())[-1]


def same(first, second) -> bool:
    return first.labels == second.labels and np.allclose(first.boxes, second.boxes, atol=1e-3)


def test_a_vocabulary_comes_first(trained, photo):
    fresh = OpenVocabPredictor.from_config("configs/quick/vild.py", str(trained.output / "model_final.pth"))
    with pytest.raises(InputError, match="set_vocabulary"):
        fresh(photo)


def test_file_pil_and_array_give_the_same(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel"])
    rgb = np.asarray(Image.open(photo).convert("RGB"))
    expected = predictor(photo)
    assert len(expected) > 0
    assert same(predictor(Image.open(photo)), expected)
    assert same(predictor(rgb, channel_order="RGB"), expected)
    assert same(predictor(np.ascontiguousarray(rgb[:, :, ::-1])), expected)
    assert not same(predictor(rgb), expected)  # taken for BGR


def test_detections_are_sorted_in_the_photo_and_plain(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel", "blue star"])
    found = predictor(photo)
    height, width = found.size
    assert (found.boxes >= 0).all() and (found.boxes[:, [0, 2]] <= width).all() and (found.boxes[:, 3] <= height).all()
    rows = list(found)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {type(value) for row in rows for value in row.values()} == {list, float, str}


@pytest.mark.parametrize("number", [1, 65, 1203])
def test_any_number_of_names(predictor, photo, number):
    predictor.set_vocabulary([f"thing {i}" for i in range(number)])
    assert len(predictor.names) == number
    assert set(predictor(photo).labels) <= set(predictor.names)


def test_threshold_and_overlap(predictor, photo):
    predictor.set_vocabulary(["red square", "red circle"])
    everything = predictor(photo)
    middle = float(np.median(everything.scores))
    assert len(predictor(photo, threshold=middle)) == (everything.scores >= middle).sum()
    assert len(predictor(photo, overlap=0.0)) < len(everything)


def test_ready_embeddings_and_synonyms(predictor, photo, conse_teacher):
    vocabulary = Vocabulary(("wheel",), {"wheel": ("tyre", "rim")})
    predictor.set_vocabulary(vocabulary)
    expected = predictor(photo)
    predictor.set_vocabulary(embed_vocabulary(vocabulary, conse_teacher))
    assert same(predictor(photo), expected)
    other = TextEmbeddings(torch.eye(384)[:1], ("wheel",), ("a {}",), "open_clip:ViT-B-32/openai", "")
    with pytest.raises(InputError, match="teacher 'conse', got teacher 'open_clip"):
        predictor.set_vocabulary(other)


def test_training_classes_are_known_as_base(predictor):
    predictor.set_vocabulary(["Red Circle", "red square", "wheel"])
    assert predictor.model.roi_heads.is_base.tolist() == [True, False, False]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")]
)
def test_arrays_that_are_no_photos(predictor, image):
    predictor.set_vocabulary(["cat"])
    with pytest.raises(InputError, match=r"\(H, W, 3\) of uint8"):
        predictor(image)


def test_pil_images_are_converted_like_files(predictor, tmp_path):
    predictor.set_vocabulary(["cat"])
    grey = np.random.default_rng(0).integers(0, 65535, (40, 50), dtype=np.uint16)
    image = Image.fromarray(grey)
    image.save(tmp_path / "grey16.png")
    assert same(predictor(image), predictor(tmp_path / "grey16.png"))


def test_one_string_is_no_list_of_names(predictor):
    with pytest.raises(InputError, match="list"):
        predictor.set_vocabulary("cat")


def test_a_batch_is_its_photos(predictor, photo):
    predictor.set_vocabulary(["red square", "wheel"])
    expected = predictor(photo)
    assert predictor.detect_batch([]) == []
    batch = predictor.detect_batch([photo, Image.open(photo)])
    assert len(batch) == 2 and all(same(found, expected) for found in batch)
