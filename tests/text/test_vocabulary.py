"""Names, where they come from, and which are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ovdet.errors import InputError
from ovdet.text.vocabulary import Vocabulary, parse_vocabulary

FULL = Vocabulary(
    ("hot dog", "Kühlschrank", "冷蔵庫"),
    {"hot dog": ("frankfurter", "wiener")},
    {"base": ("冷蔵庫", "hot dog"), "novel": ("Kühlschrank",)},
)


def test_text_gives_names_in_order_and_in_their_spelling():
    assert parse_vocabulary(" Fire_Truck ,cat,  red kite").names == ("Fire_Truck", "cat", "red kite")
    assert len(parse_vocabulary("cat")) == 1


def test_text_gives_synonyms_after_semicolons():
    assert parse_vocabulary("cat; kitten ;kitty, red kite,cup;mug") == Vocabulary(
        ("cat", "red kite", "cup"), {"cat": ("kitten", "kitty"), "cup": ("mug",)}
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(dog, bicycle)", ("dog", "bicycle")),
        ("{dog, bicycle}", ("dog", "bicycle")),
        ("\u201cdog\u201d, \u2018fire truck\u2019, `car`", ("dog", "fire truck", "car")),
        ("\u732b\uff0c\u72ac\u3001\u8eca", ("\u732b", "\u72ac", "\u8eca")),
        ("bat (animal), bat (wood)", ("bat (animal)", "bat (wood)")),
        ("(animal) bat, bat (wood)", ("(animal) bat", "bat (wood)")),
        ("St. Bernard, Mt. Fuji, U.S. flag, dog.", ("St. Bernard", "Mt. Fuji", "U.S. flag", "dog.")),
        ("7.5 ton truck, No. 5 jersey", ("7.5 ton truck", "No. 5 jersey")),
    ],
)
def test_signs_around_and_in_names(text, names):
    assert Vocabulary.from_text(text).names == names


def test_commas_and_semicolons_of_other_scripts_are_said(caplog):
    assert Vocabulary.from_text("\u732b\uff1b\u5c0f\u732b\uff0c\u72ac").synonyms == {"\u732b": ("\u5c0f\u732b",)}
    assert "2 names" in caplog.text


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("dog. bicycle. car", "dog, bicycle, car"),
        ("dog. bicycle. car.", "dog, bicycle, car"),
        ("a dog . a cat .", "a dog, a cat"),
        ("dog.bicycle.car", "dog, bicycle, car"),
        ("person|car", "person, car"),
        ("person | fire truck, dog", "person, fire truck, dog"),
        ("person\uff5ccar", "person, car"),
        ("\u732b\u3002\u72ac", "\u732b, \u72ac"),
        ("dog\ncat\n", "dog, cat"),
        ("dog\tcat", "dog, cat"),
    ],
)
def test_separators_of_other_tools_are_refused_with_the_right_form(tmp_path, text, right):
    with pytest.raises(InputError, match="names with commas between") as caught:
        parse_vocabulary(text)
    assert f'"{right}"' in str(caught.value) and "\n" not in str(caught.value)
    if "\n" not in text:
        (tmp_path / "names.txt").write_text(text)
        with pytest.raises(InputError, match="expected a class a line"):
            Vocabulary.load(tmp_path / "names.txt")


def test_brackets_around_some_names():
    with pytest.raises(InputError, match=r"around a whole name .* got 'dog \(bicycle'"):
        parse_vocabulary("dog (bicycle, car)")


def test_a_name_that_is_not_found_is_quoted_with_the_nearest():
    with pytest.raises(InputError, match=r"got 'bycicle' \(near it: 'Bicycle'\)"):
        Vocabulary(("dog", "Bicycle"), subsets={"base": ["bycicle"]})
    with pytest.raises(InputError, match=r"got some of 'dogs' \(near it: 'dog'\)"):
        Vocabulary(("dog", "Bicycle"), {"dogs": ["puppy"]})


def test_json_keeps_all_of_it(tmp_path):
    FULL.save(tmp_path / "full.json")
    assert parse_vocabulary(str(tmp_path / "full.json")) == FULL
    (tmp_path / "list.json").write_text('["cat", "dog"]')
    assert Vocabulary.load(tmp_path / "list.json") == Vocabulary(("cat", "dog"))


def test_lines_keep_names_and_synonyms(tmp_path):
    plain = Vocabulary(FULL.names, FULL.synonyms)
    plain.save(tmp_path / "names.txt")
    assert parse_vocabulary(str(tmp_path / "names.txt")) == plain
    (tmp_path / "windows.txt").write_bytes("\ufeffcat; kitty\r\n\r\ndog\r\n".encode())
    assert Vocabulary.load(tmp_path / "windows.txt") == Vocabulary(("cat", "dog"), {"cat": ("kitty",)})


def test_what_people_write_around_names_is_left_out(tmp_path):
    for text in ("['fire truck', \"cat\"]", ' "fire truck" , cat ', "[fire truck,cat]"):
        assert Vocabulary.from_text(text).names == ("fire truck", "cat")
    path = tmp_path / "names.txt"
    path.write_text('# vehicles\n\'fire truck\'; "fire engine",\n\n "cat",\ndog\n')
    found = Vocabulary.load(path)
    assert found.names == ("fire truck", "cat", "dog") and found.synonyms == {"fire truck": ("fire engine",)}
    assert Vocabulary.from_text("7' ruler, Lay's").names == ("7' ruler", "Lay's")


@pytest.mark.parametrize("name", ["#1 fan", '"x"', "a; b", "cat,"])
def test_lines_that_would_read_otherwise_are_not_written(tmp_path, name):
    with pytest.raises(InputError, match="expected .json"):
        Vocabulary(("dog", name)).save(tmp_path / "names.txt")
    assert not list(tmp_path.iterdir())
    Vocabulary(("dog", name)).save(tmp_path / "names.json")
    assert Vocabulary.load(tmp_path / "names.json").names == ("dog", name)


def test_names_come_from_arrays_and_tables_too():
    rows = {"first": "cat", "second": "dog"}
    assert Vocabulary(np.array(["cat", "dog"])).names == Vocabulary(rows.values()).names == ("cat", "dog")
    for odd in ({"cat", "dog"}, rows, "cat", b"cat", 3):
        with pytest.raises(InputError, match="to be a list"):
            Vocabulary(odd)


def test_lines_cannot_keep_subsets(tmp_path):
    for vocabulary in (FULL, Vocabulary(("a;b",))):
        with pytest.raises(InputError, match="expected .json for a vocabulary with subsets"):
            vocabulary.save(tmp_path / "names.txt")
    with pytest.raises(InputError, match="expected a vocabulary file in .txt or .json"):
        FULL.save(tmp_path / "names.csv")
    assert not list(tmp_path.iterdir())


def test_a_subset_is_in_the_vocabularys_order():
    assert FULL.subset("base") == Vocabulary(("hot dog", "冷蔵庫"), {"hot dog": ("frankfurter", "wiener")})
    with pytest.raises(InputError, match="expected one of the subsets base, novel, got 'rare'"):
        FULL.subset("rare")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one class name or more, got none"),
        ("  ", "expected one class name or more, got none"),
        ("cat,,dog", "expected class name 2 not to be empty, got ''"),
        ("cat, dog;", "expected \"name; synonym; synonym\", got an empty one for class 2: 'dog; '"),
        (";kitten", "got an empty one for class 1"),
        ("cat; kitten, Cat; tom", "got 'cat' and 'Cat', which read alike"),
        ("cat; " + "x" * 500, "expected a synonym of 'cat' to have 200 characters at most"),
        ("cat,_", "expected class name 2 not to be empty, got '_'"),
        ("Hot_dog, cat, hot dog", "got 'Hot_dog' and 'hot dog', which read alike"),
        ("cat," + "x" * 500, f"expected class name 2 to have 200 characters at most, got 500: '{'x' * 40}'"),
        ("cat, do\x07g", r"expected class name 2 to be plain text, got a control character in 'do\\x07g'"),
        ("cat\nand, dog", 'as in "cat, and, dog"'),
        ("cat\udcff", "half a character"),
        ("no/such/file.txt", "expected a vocabulary file, got no/such/file.txt: No such file"),
        ("names.json", "expected a vocabulary file, got names.json: No such file"),
    ],
)
def test_text_that_is_refused(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_vocabulary(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not json"),
        ("3", "expected a list of names, or names, synonyms and subsets, .*int"),
        ("{}", "`names`"),
        ('{"names": ["cat"], "synonym": {}}', "`synonym`"),
        ('{"names": "cat"}', r"array.*str.*\$.names. .\'cat\'"),
        ('{"names": ["cat", 3]}', r"str.*int.*names\[1\]. .\'3\'"),
        ('{"names": ["cat"], "synonyms": ["kitty"]}', r"object.*array.*\$.synonyms. .*kitty"),
        ('{"names": ["cat"], "synonyms": {"cat": "kitty"}}', r"array.*str.*\$.synonyms"),
        ('{"names": ["cat"], "synonyms": {"cat": [""]}}', "expected a synonym of 'cat' not to be empty"),
        (
            '{"names": ["cat"], "synonyms": {"dog": []}}',
            "expected synonyms of the vocabulary's names, got some of 'dog'",
        ),
        ('{"names": ["cat"], "subsets": {"base": ["dog"]}}', "expected subset 'base' to hold names of the vocabulary"),
        ("[]", "expected one class name or more, got none"),
        ("[" * 100000, "is not json"),
    ],
)
def test_json_that_is_refused(tmp_path, content, message):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        Vocabulary.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_other_files_that_are_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Kühlschrank".encode("latin-1"))
    with pytest.raises(InputError, match="expected a vocabulary file in UTF-8, got other bytes at 1 in"):
        Vocabulary.load(tmp_path / "latin.txt")
    (tmp_path / "names.txt").write_text("cat;;kitty\n")
    with pytest.raises(InputError, match="got an empty one for class 1"):
        Vocabulary.load(tmp_path / "names.txt")
    (tmp_path / "names.csv").write_text("cat")
    with pytest.raises(InputError, match="expected a vocabulary file in .txt or .json"):
        parse_vocabulary(str(tmp_path / "names.csv"))
    (tmp_path / "one_line.txt").write_text("cat, dog, cup\n")
    with pytest.raises(InputError, match="a class a line, got one line with commas: 'cat, dog, cup'"):
        parse_vocabulary(str(tmp_path / "one_line.txt"))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(InputError, match="expected a vocabulary file"):
        parse_vocabulary(str(tmp_path / "folder.txt"))


@pytest.mark.parametrize("name", ["nope.csv", "nope.TXT", "nowhere/names.yaml"])
def test_what_was_meant_to_be_a_file_is_no_name(name):
    with pytest.raises(InputError, match="expected a vocabulary file"):
        parse_vocabulary(name)


def test_suffixes_of_any_case_and_folders_that_are_called_like_a_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NAMES.TXT").write_text("cat\ndog, the pet\n")
    assert parse_vocabulary("NAMES.TXT").names == ("cat", "dog, the pet")
    (tmp_path / "dog").mkdir()
    assert parse_vocabulary("dog").names == ("dog",)
    with pytest.raises(InputError, match="dog/ is a folder"):
        parse_vocabulary("dog/")


def test_json_of_the_shared_split_can_be_written_as_a_vocabulary(shared_data, tmp_path):
    pool = shared_data / "coco_pool"
    names = [category["name"] for category in json.loads((pool / "instances_val.json").read_text())["categories"]]
    vocabulary = Vocabulary(tuple(names), subsets={"all": tuple(names)})
    vocabulary.save(tmp_path / "coco.json")
    assert Vocabulary.load(tmp_path / "coco.json").subset("all").names == tuple(names)


@pytest.mark.parametrize(
    "text", ["cat, -dog, -wolf; fox", "cat\n-dog\n- wolf; fox", '["cat", "-dog", "-wolf", "-fox"]']
)
def test_a_minus_makes_a_negative(text, tmp_path):
    if "," in text and not text.startswith("["):
        vocabulary = Vocabulary.from_text(text)
    else:
        file = tmp_path / ("names.json" if text.startswith("[") else "names.txt")
        file.write_text(text)
        vocabulary = Vocabulary.load(file)
    assert vocabulary.names == ("cat",) and vocabulary.negatives == ("dog", "wolf", "fox")
    for name in ("again.txt", "again.json"):
        vocabulary.save(tmp_path / name)
        assert Vocabulary.load(tmp_path / name) == vocabulary
    assert Vocabulary.of(["cat", "-dog"]).negatives == ("dog",)


@pytest.mark.parametrize(
    ("text", "message"), [("-cat", "-cat"), ("cat, -Cat.", "'Cat.' as both"), ("cat, -", "a negative")]
)
def test_negatives_that_are_none(text, message):
    with pytest.raises(InputError, match=message):
        Vocabulary.from_text(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(names=["cat"], synonyms=["kitty"]), "synonyms to be a mapping of lists of names, got list"),
        (dict(names=["cat", 3]), "to be text, got 3"),
        (dict(names={"cat"}), "the names to be a list, got set"),
    ],
)
def test_objects_that_are_no_names(given, message):
    with pytest.raises(InputError, match=message):
        Vocabulary(**given)
