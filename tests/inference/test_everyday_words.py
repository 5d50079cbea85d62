"""Words that people use for what a detector was trained on."""

from __future__ import annotations

import pytest

from ovdet.data.mixture import load_synonyms
from ovdet.inference.everyday_words import _load, same_or_narrower, with_trained_words
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.text.class_names import normalize_class_name
from ovdet.text.embedder import NameEmbedder
from ovdet.text.vocabulary import Vocabulary

TRAINED = ("person", "couch", "tv", "Bicycle", "dog", "sandwich", "sheep", "knife", "berry", "cat", "motorcycle")


@pytest.mark.parametrize(
    ("word", "trained"),
    [
        ("people", "person"), ("persons", "person"), ("People", "person"), ("sofa", "couch"), ("sofas", "couch"),
        ("television", "tv"), ("TVs", "tv"), ("bikes", "Bicycle"), ("sandwiches", "sandwich"), ("knives", "knife"),
        ("berries", "berry"), ("motorbike", "motorcycle"),
    ],
)  # fmt: skip
def test_words_that_mean_the_same_become_rows_of_the_class(word, trained):
    found, told = with_trained_words(Vocabulary((word, "red kite")), TRAINED)
    assert found.names == (word, "red kite") and found.synonyms == {word: (trained,)}
    assert len(told) == 1 and word in told[0] and repr(trained) in told[0]


@pytest.mark.parametrize(
    ("word", "trained"),
    [("man", "person"), ("women", "person"), ("puppy", "dog"), ("puppies", "dog"), ("bycicle", "Bicycle")],
)
def test_narrower_and_misspelt_words_are_told(word, trained):
    found, told = with_trained_words(Vocabulary((word,)), TRAINED)
    assert not found.synonyms and len(told) == 1 and word in told[0] and repr(trained) in told[0]


@pytest.mark.parametrize("word", ["peanut", "cracker"])
def test_other_words_are_not_taken_for_misspelt_ones(word):
    assert with_trained_words(Vocabulary((word,)), ("pants", "cake", "potted plant")) == (Vocabulary((word,)), [])


@pytest.mark.parametrize(("word", "trained"), [("elefant", "elephant"), ("bottel", "bottle"), ("umbrela", "umbrella")])
def test_misspelt_words_of_many_kinds(word, trained):
    _, told = with_trained_words(Vocabulary((word,)), ("elephant", "bottle", "umbrella", "bowl"))
    assert len(told) == 1 and repr(trained) in told[0]


def test_of_wider_words_all_that_was_trained_become_rows():
    found, told = with_trained_words(Vocabulary(("animals", "pet")), TRAINED)
    assert found.synonyms == {"animals": ("dog", "sheep", "cat"), "pet": ("dog", "cat")}
    assert "'dog', 'sheep', 'cat'" in told[0] and "pet" in told[1] and len(told) == 2
    both, _ = with_trained_words(Vocabulary(("luggage",)), ("handbag", "purse"))  # which mean the same
    assert both.synonyms == {"luggage": ("handbag", "purse")}


def test_kinds_that_are_asked_for_by_themselves_are_no_other_names():
    asked = Vocabulary(("animal", "dog", "couch"), {"couch": ("sheep",)}, negatives=("cat",))
    assert with_trained_words(asked, TRAINED) == (asked, [])
    found, _ = with_trained_words(Vocabulary(("animal", "dog")), TRAINED)
    assert found.synonyms == {"animal": ("sheep", "cat")}


def test_a_wider_word_that_was_trained_has_its_kinds_too():
    found, told = with_trained_words(Vocabulary(("fruit",)), ("fruit", "apple", "dog"))
    assert found.synonyms == {"fruit": ("apple",)} and len(told) == 1


def test_what_stays_as_it_is():
    asked = Vocabulary(("person", "wheel", "cart", "tyre"), {"wheel": ("couch",)})
    assert with_trained_words(asked, TRAINED) == (asked, [])
    both = Vocabulary(("people", "person"))  # the trained name is asked for by itself
    assert with_trained_words(both, TRAINED) == (both, [])
    assert with_trained_words(Vocabulary(("couch",)), ("sofa",))[0].synonyms == {"couch": ("sofa",)}
    assert with_trained_words(Vocabulary(("people",)), ())[0].synonyms == {}


def test_words_that_mean_the_same_or_less():
    assert {"people", "man", "toddler"} <= set(same_or_narrower("person"))
    assert {"sofa"} <= set(same_or_narrower("couch")) and same_or_narrower("anvil") == []
    for name in ("car", "bird", "cup"):
        words = same_or_narrower(name)
        assert len(set(words)) == len(words) > 2 and name not in words


def test_the_files_words_are_in_normal_form_and_mean_one_thing():
    words = _load()
    same = {**words["same"], **load_synonyms()}
    for word in (*same, *words["kinds"], *words["groups"], *same.values()):
        assert normalize_class_name(word) == word
    assert not set(same) & set(words["kinds"]) and not set(same) & set(same.values())
    for names in (*words["kinds"].values(), *words["groups"].values()):
        assert not set(names) & set(same), "common words alone"


def test_the_predictor_takes_them_and_says_so_once(tiny_teacher, caplog):
    embed_names = NameEmbedder(tiny_teacher, width=24)
    predictor = OpenVocabPredictor(None, embed_names, resize=None, training_classes=("person", "dog"))
    for _ in range(2):
        classes = predictor.embed(["people", "red kite", "puppy"], negatives=())
    assert caplog.text.count("'person'") == caplog.text.count("'dog'") == 1
    assert classes.names == ("people", "red kite", "puppy") and classes.is_base_class.tolist() == [True, False, False]
    own = predictor.embed(["person"], negatives=()).embeddings[0]
    assert classes.class_ids.tolist() == [0, 1, 2, 0] and classes.embeddings[3].allclose(own)
