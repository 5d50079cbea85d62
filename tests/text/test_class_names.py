"""When two names are the same: white space, case, Unicode's forms, what nobody sees, what data sets write."""

from __future__ import annotations

import pytest

from ovdet.text.class_names import names_among, normalize_class_name, same_class_name

CASES = [
    # data sets
    ("Fire_Truck", "fire truck"),
    ("Wild Bird/Duck", "wild bird or duck"),
    ("Bird / Duck", "bird or duck"),
    ("etc.", "etc"),
    ("cat. .", "cat"),
    ("st. bernard", "st. bernard"),
    ("bow_(weapon)", "bow (weapon)"),
    ("__cat__", "cat"),
    ("{}", "{}"),
    # white space
    ("  two   spaces ", "two spaces"),
    ("tab\tand\nline\r\n", "tab and line"),
    ("no\u00a0break", "no break"),
    ("ideographic\u3000space", "ideographic space"),
    # case and accents
    ("STRASSE", "strasse"),
    ("Straße", "strasse"),
    ("Kühlschrank", "kühlschrank"),
    ("Ku\u0308hlschrank", "kühlschrank"),
    ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
    ("冷蔵庫", "冷蔵庫"),
    # forms that are to be read as the plain ones
    ("\uff23\uff41\uff54", "cat"),  # full-width letters
    ("\uff23\uff21\uff34\uff0e", "cat"),  # and dot
    ("red\uff3fkite", "red kite"),  # and low line
    ("bird\uff0fduck", "bird or duck"),  # and solidus
    ("\ufb01re", "fire"),  # a ligature
    ("\uff76\uff9e", "ガ"),  # half-width katakana
    # what nobody sees
    ("c\u200bat", "cat"),  # zero-width space
    ("c\u200dat\u200c", "cat"),  # joiner and non-joiner
    ("c\u2060at", "cat"),  # word joiner
    ("c\u00adat", "cat"),  # soft hyphen
    ("\ufeffcat", "cat"),  # byte order mark
    ("\u200ecat\u200f", "cat"),  # direction marks
    ("\u202acat\u202c", "cat"),
    ("\u2066cat\u2069", "cat"),
    ("\u2708\ufe0f", "\u2708"),  # variation selectors
    ("\u2708\ufe0e", "\u2708"),
    ("cat\u200b.", "cat"),
    ("cat.\u200b", "cat"),
    ("u\u200b\u0308", "ü"),  # an accent beyond one
    # quotes
    ("collie\u2019s dog", "collie's dog"),
    ("\u2018cat\u2019", "'cat'"),
    ("\u201ccat\u201d", '"cat"'),
    ("o\u02bcclock", "o'clock"),
    # nothing
    (" . ", ""),
    ("", ""),
    ("\u200b\ufeff", ""),
    ("_", ""),
]


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_the_normal_form(name, expected):
    assert normalize_class_name(name) == expected
    assert same_class_name(name, expected)


def test_a_normal_form_is_its_own():
    """And that of any two characters of Unicode's first plane, as far as a sample goes."""
    names = [name for pair in CASES for name in pair]
    names += [f"a{chr(code)}b{chr(code + 1)}" for code in range(0, 0x10000, 7) if not 0xD7F0 <= code <= 0xE000]
    for name in names:
        once = normalize_class_name(name)
        assert normalize_class_name(once) == once, repr(name)


def test_others_are_other_names():
    for first, second in (("cat", "cats"), ("u", "ü"), ("bow", "bow (weapon)"), ("a b", "ab"), ("1", "2"), ("-", "--")):
        assert not same_class_name(first, second)


def test_names_among_others_keep_their_order_and_their_form():
    assert names_among(["Dog.", "zebra", "fire truck", "dog"], ["Fire_Truck", "dog"]) == ["Dog.", "fire truck", "dog"]
    assert names_among(["dog"], []) == []
