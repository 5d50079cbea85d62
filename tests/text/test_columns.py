"""Which texts become columns of the classifier, whose they are, and which negatives are too near to what is asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ovdet.text.columns import NEAR, NOBODYS, add_negatives, far_from, lay_out

from ovdet.text.vocabulary import Vocabulary


def test_names_come_first_then_synonyms_then_distractors():
    vocabulary = Vocabulary(("cat", "Fire_Truck"), {"cat": ("kitten", "kitty"), "Fire_Truck": ("fire engine",)})
    columns = add_negatives(lay_out(vocabulary), ["dog", "bus"])
    assert columns.texts == ("cat", "Fire_Truck", "kitten", "kitty", "fire engine", "dog", "bus")
    assert columns.owners == (0, 1, 0, 0, 1, NOBODYS, NOBODYS)


def test_names_alone_are_their_own_columns():
    assert lay_out(Vocabulary(("b", "a"))) == (("b", "a"), (0, 1))


@pytest.mark.parametrize(
    ("synonyms", "negatives", "texts", "owners"),
    [
        ({"cat": ("Cat", "dog", "kitten", "KITTEN")}, (), ("cat", "dog", "kitten"), (0, 1, 0)),  # a name is no synonym
        ({"cat": ("pet",), "dog": ("pet",)}, (), ("cat", "dog", "pet"), (0, 1, 0)),  # of the first
        ({"cat": ("kitten",)}, ("DOG", "kitten", "bus_stop", "bus stop"), ("cat", "dog", "kitten", "bus_stop"),
         (0, 1, 0, NOBODYS)),  # who asks for a thing gets it
    ],
)  # fmt: skip
def test_a_text_that_comes_twice_belongs_to_its_first_owner(synonyms, negatives, texts, owners):
    assert add_negatives(lay_out(Vocabulary(("cat", "dog"), synonyms)), negatives) == (texts, owners)


def test_far_is_below_the_cosine_with_every_asked_name():
    asked = torch.eye(3)[:2]
    directions = torch.tensor([[0.0, 0, 1], [0.2, 0.2, 1], [0, 0.9, 1], [0.9, 0, 1], [-1, 0, 0]])
    assert far_from(F.normalize(directions, dim=1), asked) == [True, True, False, False, True]
    edge = torch.tensor([[NEAR - 0.01, 0, 0], [NEAR + 0.01, 0, 0]])
    assert far_from(edge, asked) == [True, False]
    assert far_from(edge, asked, near=0.5) == [True, True]
    assert far_from(torch.zeros(0, 3), asked) == []


def test_of_the_embedded_teachers_names_kinds_of_one_thing_are_near(conse_teacher):
    """What the default is for: "person" beside "man", and nothing else, is as good as asked for."""
    asked = conse_teacher.encode_text(["a man", "a kitten"])
    others = conse_teacher.encode_text(["a person", "a cat", "a bicycle", "an umbrella", "a truck"])
    assert far_from(others, asked) == [False, False, True, True, True]
