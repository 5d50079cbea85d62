"""Prompt templates, and how a class name goes into one.

A template holds the name at "{}" and, if it likes, "a" or "an" at "{article}". The name goes in in its normal form
(text/class_names.py); what the user sees keeps the user's spelling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name


def fill_template(template: str, name: str) -> str:
    """One prompt: the name in its normal form in its place; the article by the name's first letter.

    Raises:
        InputError: the template has no place for the name, or a place for something else.
    """
    cleaned = normalize_class_name(name)
    try:
        prompt = template.format(cleaned, article="an" if cleaned[:1] in set("aeiou") else "a")
    except (IndexError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f'expected a template with "{{}}" (and "{{article}}") only, got {template!r}') from error
    if cleaned not in prompt:
        raise InputError(f'expected a template with "{{}}" for the name, got {template!r}')
    return prompt


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates themselves: of a named set, one template, or a list of them.

    Raises:
        InputError: no such set, no template, or one that `fill_template` refuses.
    """
    if isinstance(templates, str):
        if templates in TEMPLATE_SETS:
            return TEMPLATE_SETS[templates]
        if "{" not in templates:
            raise InputError(f'expected templates {", ".join(TEMPLATE_SETS)} or text with "{{}}", got {templates!r}')
        templates = (templates,)
    if not templates:
        raise InputError("expected one template or more, got none")
    for template in templates:
        if not isinstance(template, str):
            raise InputError(f"expected a template to be text, got {template!r}")
        fill_template(template, "name")
    return tuple(templates)


def _vild_templates() -> tuple[str, ...]:
    """ViLD's 63 (the `multiple_templates` of its demo, Apache-2.0).

    ViLD puts "This is " before a prompt that begins with "a" or "the"; here that is part of the template.
    """
    scene = ["There is {article} {}", "There is the {}", "a photo of {article} {}", "a photo of the {}"]
    templates = [f"{text} in the scene." for text in [*scene, "a photo of one {}"]]
    templates += [f"itap of {which} {{}}." for which in ("{article}", "my", "the")]  # itap: I took a picture of
    templates += [f"a photo of {which} {{}}." for which in ("{article}", "my", "the", "one", "many")]
    templates += _pairs("a {} photo of {which} {{}}.", ("good", "bad"), article="{article}")
    looks = ("nice", "cool", "weird", "small", "large", "clean", "dirty")
    templates += _pairs("a photo of {which} {} {{}}.", looks, article="a")
    templates += _pairs("a {} photo of {which} {{}}.", ("bright", "dark"), article="{article}")
    templates += _pairs("a photo of {which} {} {{}}.", ("hard to see",), article="a")
    flaws = ("low resolution", "cropped", "close-up", "jpeg corrupted", "blurry", "pixelated", "black and white")
    templates += _pairs("a {} photo of {which} {{}}.", flaws, article="{article}")
    templates += _pairs("{which} {} {{}}.", ("plastic", "toy", "plushie", "cartoon"), article="a")
    templates += _pairs("{which} {} {{}}.", ("embroidered",), article="an")
    templates += ["a painting of the {}.", "a painting of a {}."]
    return tuple(f"This is {text}" if text.startswith(("a", "the")) else text for text in templates)


def _pairs(form: str, words: Sequence[str], article: str) -> list[str]:
    """Each word once with the indefinite article and once with "the"."""
    return [form.format(word, which=which) for word in words for which in (article, "the")]


def _clip_templates() -> tuple[str, ...]:
    """CLIP's 80 for ImageNet, as open_clip has them."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


class _TemplateSets(Mapping[str, tuple[str, ...]]):
    """Named sets, made when they are asked for: open_clip takes seconds to import."""

    _makers = {
        "a": lambda: ("a {}",),
        "photo": lambda: ("a photo of {article} {}.",),
        "vild": cache(_vild_templates),
        "clip": cache(_clip_templates),
    }

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


TEMPLATE_SETS: Mapping[str, tuple[str, ...]] = _TemplateSets()
