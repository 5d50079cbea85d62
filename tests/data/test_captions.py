"""Captions as words: which words count, both kinds of json, and what is no such json."""

import json
import logging

import pytest
import torch

from ovdet.data.captions import CaptionSentences, CaptionWords, content_words, read_captions
from ovdet.errors import InputError


def embed(words: list[str]) -> torch.Tensor:
    return torch.eye(len(words))


def test_words_that_may_name_something():
    caption = "A man's red fire-hydrant is next to the Fire station, and the 2 dogs on a café's table."
    assert content_words(caption) == ["man's", "red", "fire-hydrant", "fire", "station", "dogs", "café's", "table"]
    assert content_words("") == content_words("There is a view of it.") == []


@pytest.mark.parametrize(
    "content",
    [
        {"annotations": [{"image_id": 7, "caption": "a dog"}, {"image_id": "b/8", "caption": "x"}], "images": []},
        {"captions": {"7": ["a dog"], "b/8": ["x"]}, "license": "any"},
    ],
)
def test_both_kinds_of_json(tmp_path, content):
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert read_captions(tmp_path / "c.json") == {"7": ["a dog"], "b/8": ["x"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "captions"),
        ("{", "is not json"),
        ("{}", "annotations"),
        ('{"annotations": [{"image_id": 1}]}', r"caption.*annotations\[0\]"),
        ('{"captions": {"1": "a dog"}}', "captions"),
        ('{"captions": {"1": []}}', "has none"),
    ],
)
def test_other_files_are_one_line(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_captions(tmp_path / "c.json")
    assert str(tmp_path / "c.json") in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_captions(tmp_path / "none.json")


def test_a_caption_of_an_image_as_rows():
    words = CaptionWords({"1": ["A dog and a cat.", "a dog"], "2": ["It is."], "3": []}, embed)
    found = {tuple(words(1).argmax(1).tolist()) for _ in range(20)}
    assert found == {(0, 1), (0,)}  # either of its captions
    assert all(words(other).shape == (0, 2) for other in (2, 3, 99))
    with pytest.raises(InputError, match="captions with words, got none in 1 images"):
        CaptionWords({"1": ["It is."]}, embed)


@pytest.mark.parametrize("kind", [CaptionWords, CaptionSentences])
def test_captions_of_other_images_are_refused(kind, caplog, monkeypatch):
    read = kind({"1": ["a dog"], "2": ["."], "coco/3": ["a cat"]}, embed)
    monkeypatch.setattr(logging.getLogger("ovdet"), "propagate", True)  # a command run here before turns it off
    with caplog.at_level(logging.INFO):
        read.check([1, 2, 7])
    assert "captions of 1 of the 3 photos" in caplog.text
    for others in ([2], [3], []):
        with pytest.raises(InputError, match="captions of the training set's images .*, got some of .*1"):
            read.check(others)


def test_a_caption_of_an_image_as_a_sentence():
    read = CaptionSentences({"1": ["A dog.", "a cat"], "2": ["a Dog"], "3": ["."], "4": []}, embed)
    found = {read(1)[0]: read(1)[1] for _ in range(20)}
    assert set(found) <= {"a dog", "a cat"}
    text, embedding = read("2")
    assert text == "a dog" and embedding.tolist() == [1, 0]  # embedded once
    for other in (3, 4, 99):
        text, embedding = read(other)
        assert text == "" and embedding.tolist() == [0, 0]
    with pytest.raises(InputError, match="captions with words, got none in 1 images"):
        CaptionSentences({"1": ["."]}, embed)
