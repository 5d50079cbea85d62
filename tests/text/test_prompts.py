"""Templates and how names go into them."""

from __future__ import annotations

import pytest

from ovdet.errors import InputError
from ovdet.text.prompts import TEMPLATE_SETS, fill_template, resolve_templates


@pytest.mark.parametrize(
    ("template", "name", "prompt"),
    [
        ("a {}", "Umbrella", "a umbrella"),  # literally, as Detic's files have it
        ("a photo of {article} {}.", "Umbrella", "a photo of an umbrella."),
        ("a photo of {article} {}.", "hot_dog", "a photo of a hot dog."),
        ("{}", "{article}", "{article}"),
        ("a {}", "冷蔵庫", "a 冷蔵庫"),
    ],
)
def test_fill_template(template, name, prompt):
    assert fill_template(template, name) == prompt


def test_vild_has_63_templates_and_its_rule():
    prompts = [fill_template(template, "Apple") for template in TEMPLATE_SETS["vild"]]
    assert len(prompts) == len(set(prompts)) == 63
    assert not any(prompt.startswith(("a", "the")) for prompt in prompts)
    assert sum(prompt.startswith("This is ") for prompt in prompts) == 58  # but for 2 "There is", 3 "itap of"
    for prompt in (
        "There is an apple in the scene.",
        "This is a photo of one apple in the scene.",
        "itap of my apple.",
        "This is a photo of many apple.",
        "This is a photo of the weird apple.",
        "This is a photo of a hard to see apple.",
        "This is a jpeg corrupted photo of an apple.",
        "This is the plushie apple.",
        "This is an embroidered apple.",
        "This is a painting of a apple.",
    ):
        assert prompt in prompts


def test_clip_has_open_clips_80_templates():
    open_clip = pytest.importorskip("open_clip")
    expected = [template("apple") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [fill_template(template, "apple") for template in TEMPLATE_SETS["clip"]] == expected
    assert len(expected) == 80


def test_resolve_templates():
    assert resolve_templates("a") == ("a {}",)
    assert resolve_templates("a photo of the {}.") == ("a photo of the {}.",)
    assert resolve_templates(["{}", "a {}"]) == ("{}", "a {}")
    assert list(TEMPLATE_SETS) == ["a", "photo", "vild", "clip"] and len(TEMPLATE_SETS) == 4


@pytest.mark.parametrize(
    "templates", ["foto", "", [], [3], "a {name}", ["a photo"], "{article}", "a {", ["a {} {}"], "a {.nothing}"]
)
def test_templates_that_are_refused(templates):
    with pytest.raises(InputError, match="expected"):
        resolve_templates(templates)
