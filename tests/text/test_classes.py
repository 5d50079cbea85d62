"""From a vocabulary to rows: which texts, whose they are, which are base, which negatives are too near to a class."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovdet.class_embeddings import NEGATIVE
from ovdet.errors import InputError
from ovdet.text.classes import NEAR, base_rows, build_classes, rows_of, unknown_names, unlike
from ovdet.text.coverage import Concepts
from ovdet.text.embeddings import TextEmbeddings
from ovdet.text.vocabulary import Vocabulary


class BagOfLetters:
    """Stands in for a NameEmbedder: a name is the letters in it."""

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self.known = known  # () for any name
        self.asked: list[str] = []

    def __call__(self, names) -> torch.Tensor:
        self.asked += names
        rows = [[float(name.casefold().count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"] for name in names]
        return F.normalize(torch.tensor(rows), dim=1)

    def check(self, embeddings: TextEmbeddings) -> None:
        if embeddings.teacher != "letters":
            raise InputError(f"expected letters, got {embeddings.teacher}")

    def known_of(self, names) -> tuple[str, ...]:
        return tuple(name for name in names if not self.known or name in self.known)


def letters(*names: str) -> torch.Tensor:
    return BagOfLetters()(list(names))


def test_names_come_first_then_synonyms_then_negatives():
    vocabulary = Vocabulary(("cat", "Fire_Truck"), {"cat": ("kitten", "kitty"), "Fire_Truck": ("fire engine",)})
    texts = ["cat", "Fire_Truck", "kitten", "kitty", "fire engine"]
    assert rows_of(vocabulary) == (texts, [0, 1, 0, 0, 1])
    embed = BagOfLetters()
    classes = build_classes(vocabulary, embed, negatives=["dog", "bus"])
    assert embed.asked == [*texts, "dog", "bus"]  # each once
    assert classes.class_ids.tolist() == [0, 1, 0, 0, 1, NEGATIVE, NEGATIVE]
    assert classes.names == ("cat", "Fire_Truck") and classes.is_base is None
    torch.testing.assert_close(classes.embeddings, letters(*texts, "dog", "bus"))


def test_names_alone_are_a_row_each():
    assert rows_of(Vocabulary(("b", "a"))) == (["b", "a"], [0, 1])
    classes = build_classes(["b", "a"], BagOfLetters())
    assert classes.has_one_row_each and classes.names == ("b", "a") and len(classes.class_ids) == 2
    torch.testing.assert_close(classes.embeddings, letters("b", "a"))


@pytest.mark.parametrize(
    ("synonyms", "negatives", "texts", "class_ids"),
    [
        ({"cat": ("Cat", "dog", "kitten", "KITTEN")}, (), ["cat", "dog", "kitten"], [0, 1, 0]),  # a name is no synonym
        ({"cat": ("pet",), "dog": ("pet",)}, (), ["cat", "dog", "pet"], [0, 1, 0]),  # of the first
        ({"cat": ("kitten",)}, ("DOG", "kitten.", "bus_stop", "bus stop"), ["cat", "dog", "kitten", "bus_stop"],
         [0, 1, 0, NEGATIVE]),  # who asks for a thing gets it
    ],
)  # fmt: skip
def test_a_text_that_comes_twice_belongs_to_its_first_class(synonyms, negatives, texts, class_ids):
    embed = BagOfLetters()
    classes = build_classes(Vocabulary(("cat", "dog"), synonyms), embed, negatives=negatives)
    assert embed.asked == texts and classes.class_ids.tolist() == class_ids


@pytest.mark.parametrize(
    ("base_classes", "expected"),
    [
        (["cat"], [True, False, True, False, False]),  # with its synonym
        (["Kitten."], [True, False, True, False, False]),  # by a synonym of it
        (["bus"], [False, False, False, True, False]),  # a negative is base alone
        (["cat", "fire truck", "bus", "car"], [True, True, True, True, True]),
        (["zebra"], [False] * 5),
    ],
)
def test_rows_that_a_detector_was_trained_on(base_classes, expected):
    texts, class_ids = ["cat", "Fire_Truck", "kitten", "bus", "car"], [0, 1, 0, NEGATIVE, NEGATIVE]
    assert base_rows(texts, class_ids, base_classes).tolist() == expected
    vocabulary = Vocabulary(("cat", "Fire_Truck"), {"cat": ("kitten",)})
    classes = build_classes(vocabulary, BagOfLetters(), base_classes=base_classes, negatives=["bus", "car"])
    assert classes.is_base.tolist() == expected


def test_without_base_classes_none_are_told_apart():
    assert base_rows(["cat"], [0], []) is None


def test_negatives_of_none_are_the_base_classes_unlike_all_classes():
    embed = BagOfLetters(known=("act", "dog", "big dog", "pub"))  # "act" has the letters of "cat"
    vocabulary = Vocabulary(("cat",), {"cat": ("pub",)})
    base = ["act", "dog", "unknown", "big dog", "pub"]
    classes = build_classes(vocabulary, embed, base_classes=base, negatives=None)
    assert classes.class_ids.tolist() == [0, 0, NEGATIVE, NEGATIVE]
    torch.testing.assert_close(classes.embeddings, letters("cat", "pub", "dog", "big dog"))
    assert classes.is_base.tolist() == [True] * 4
    assert build_classes(["cat"], BagOfLetters(), negatives=None).class_ids.tolist() == [0]


def test_ready_embeddings_are_rows_as_they_are():
    embed = BagOfLetters()
    ready = TextEmbeddings(letters("b", "a"), ("cat", "dog"), ("{}",), "letters", "")
    classes = build_classes(ready, embed, base_classes=["Dog"], negatives=["bus", "CAT"])
    assert embed.asked == ["bus"] and classes.names == ("cat", "dog")
    assert classes.class_ids.tolist() == [0, 1, NEGATIVE] and classes.is_base.tolist() == [False, True, False]
    torch.testing.assert_close(classes.embeddings, letters("b", "a", "bus"))
    with pytest.raises(InputError, match="words"):
        build_classes(TextEmbeddings(letters("b"), ("cat",), ("{}",), "words", ""), embed)


@pytest.mark.parametrize(
    ("vocabulary", "negatives", "message"),
    [("cat", (), "'cat'"), (b"cat", (), "b'cat'"), (["cat"], "dog", "'dog'"), ([], (), "name"), (["."], (), "name")],
)
def test_what_is_no_list_of_names_is_refused(vocabulary, negatives, message):
    with pytest.raises(InputError, match=message):
        build_classes(vocabulary, BagOfLetters(), negatives=negatives)


def test_unlike_is_below_the_cosine_with_every_class():
    classes = torch.eye(3)[:2]
    directions = torch.tensor([[0.0, 0, 1], [0.2, 0.2, 1], [0, 0.9, 1], [0.9, 0, 1], [-1, 0, 0]])
    assert unlike(F.normalize(directions, dim=1), classes) == [True, True, False, False, True]
    edge = torch.tensor([[NEAR - 0.01, 0, 0], [NEAR + 0.01, 0, 0]])
    assert unlike(edge, classes) == [True, False]
    assert unlike(edge, classes, near=0.5) == [True, True]
    assert unlike(torch.zeros(0, 3), classes) == []


def test_of_the_embedded_teachers_names_kinds_of_one_thing_are_near(conse_teacher):
    """What the default is for: "person" beside "man", and nothing else, is as good as asked for."""
    asked = conse_teacher.encode_text(["a man", "a kitten"])
    others = conse_teacher.encode_text(["a person", "a cat", "a bicycle", "an umbrella", "a truck"])
    assert unlike(others, asked) == [False, False, True, True, True]


class TwoConcepts:
    """An embedder whose teacher knows two concepts, and which counts how often it is asked for them."""

    width, times_asked = 3, 0
    rows = {
        "dog": (1.0, 0, 0),
        "hound": (0.8, 0.6, 0),
        "kite": (0, 1.0, 0),
        "flux": (-0.8, 0, 0.6),
        "puppy": (0, 0, 1.0),
    }

    def known_of(self, names):
        return tuple(names)

    def __call__(self, names):
        return torch.tensor([self.rows[name] for name in names])

    def imagenet_concepts(self):
        self.times_asked += 1
        return Concepts(("bird", "plane"), (torch.tensor([[0, 1.0, 0], [0, 0.8, 0.6]]),))


@pytest.mark.parametrize(
    ("vocabulary", "unknown", "times_asked"),
    [
        (Vocabulary(("dog",)), (), 0),
        (Vocabulary(("dog", "hound")), (), 0),
        (Vocabulary(("puppy",), {"puppy": ("dog",)}), (), 0),
        (Vocabulary(("dog", "kite", "puppy")), (), 1),  # a plane has a cosine of 0.6 to the puppy's row
        (Vocabulary(("flux", "kite", "hound")), ("flux",), 1),
    ],
)
def test_imagenet_is_asked_of_names_far_from_all_trained_ones_alone(vocabulary, unknown, times_asked):
    embed = TwoConcepts()
    assert unknown_names(vocabulary, embed, ["dog"]) == unknown
    assert embed.times_asked == times_asked
    assert unknown_names(Vocabulary(("flux",)), embed) == ("flux",)
