"""A linear expert from photos: sets count for their own names alone; the command as a user runs it."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from ovdet.errors import InputError
from ovdet.hub.find import find_model, open_config
from ovdet.inference import calibrate
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.examples import LabeledRegions, join_regions
from ovdet.learning.expert import ShownNames, fit_rows, joined_experts
from ovdet.learning.learn import read_example_sets, read_examples, read_negatives
from ovdet.learning.probe import BACKGROUND, IGNORED, fit_probe
from ovdet.modeling.linear_expert import LinearExpert


def shown(names: list[str], seed: int) -> ShownNames:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([*range(len(names))] * 6 + [BACKGROUND] * 30)
    features = torch.randn(len(labels), 4, generator=generator) + 2 * labels[:, None].clamp(min=-1)
    return ShownNames(names, LabeledRegions(features, labels, torch.rand(len(labels), generator=generator) + 0.5))


def test_one_set_is_a_probe_of_its_names():
    own = shown(["cat", "dog"], 0)
    weight, bias = fit_rows([own], ["cat", "dog"])
    expected = fit_probe(*own.regions, 2)
    assert torch.equal(weight, expected[0]) and torch.equal(bias, expected[1])


def test_a_name_of_two_sets_is_learned_from_both_and_others_from_their_own():
    """By a probe on the regions of both, whose other names are something else."""
    first, second = shown(["cat", "dog"], 0), shown(["owl", "cat"], 1)
    weight, bias = fit_rows([first, second], ["cat", "dog", "owl"])
    other = 7  # neither the class nor background
    parts = [
        first.regions._replace(labels=torch.tensor([0, other, BACKGROUND])[first.regions.labels]),
        second.regions._replace(labels=torch.tensor([other, 0, BACKGROUND])[second.regions.labels]),
    ]
    expected = fit_probe(*join_regions(parts), 1)
    torch.testing.assert_close(weight[0], expected[0][0]), torch.testing.assert_close(bias[0], expected[1][0])
    alone = fit_probe(*first.regions._replace(labels=torch.tensor([other, 0, BACKGROUND])[first.regions.labels]), 1)
    torch.testing.assert_close(weight[1], alone[0][0])
    changed = second._replace(regions=second.regions._replace(features=second.regions.features + 5))
    assert torch.equal(fit_rows([first, changed], ["cat", "dog", "owl"])[0][1], weight[1])


def make_expert(names: list[str], seed: int, in_features: int = 4) -> LinearExpert:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(len(name.split(";")) for name in names)
    weights = {
        "rows": torch.randn(rows, 3, generator=generator),
        "weight": torch.randn(len(names), in_features, generator=generator),
        "bias": torch.randn(len(names), generator=generator),
    }
    return LinearExpert(names, width=3, in_features=in_features, exponent=0.3 + seed / 10, weights=weights)


def test_joined_experts_know_the_names_of_both_and_the_newer_of_one_name():
    before, after = make_expert(["cat; tomcat", "couch; sofa; settee"], 0), make_expert(["owl", "cat"], 1)
    both = joined_experts(before, after)
    assert both.spoken == [["couch", "sofa", "settee"], ["owl"], ["cat"]] and both.exponent == before.exponent
    assert torch.equal(both.rows, torch.cat([before.rows[2:], after.rows]))
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    expected = torch.cat([before(features)[:, 1:], after(features)], dim=1)
    torch.testing.assert_close(both(features), expected)
    with pytest.raises(InputError, match="of one detector, got features of widths 4 and 5"):
        joined_experts(before, make_expert(["owl"], 1, in_features=5))


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    file = tmp_path_factory.mktemp("card") / "card.md"
    file.write_text("# mine\n")
    return file


def test_a_model_that_knows_my_names(tiny_files, run_tool, striped, card, tmp_path):
    """Learned into a folder, which finds the things and is another model in nothing else; learned into that again."""
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    words = ["--set", f"{striped / 'my.json'}={striped}", "--card", card, "--output", tmp_path / "mine"]
    code, told, _ = run_tool("learn.py", *words, *detector)
    assert code == 0 and "mine: 1 learned from 6 photos" in told
    mine = predictor_of(tmp_path / "mine")
    _, config, _, weights = tiny_files.arguments
    before = OpenVocabPredictor.from_config(config, weights, overrides=tiny_files.overrides, device="cpu")
    assert mine.learned_classes == ("zebra crossing",) and not before.learned_classes
    assert mine.training_classes == before.training_classes == ("red circle",)
    asked = mine.embed(["zebra crossings", "wheel", "red circle"], negatives=())
    assert asked.is_learned.tolist() == [True, False, False, True] and asked.is_base.tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert asked.is_trained_class.tolist() == [True, False, True]
    assert json.loads((tmp_path / "mine/config.json").read_text())["model"]["roi_heads"]["linear_expert"]["names"] == [
        "zebra crossing"
    ]
    assert shares_on_stripes(mine, striped) > 2 * shares_on_stripes(before, striped)
    # again, of a set that has the name and of one whose name is new
    content = json.loads((striped / "my.json").read_text())
    content["categories"][0]["name"] = "barcode"
    (tmp_path / "other.json").write_text(json.dumps(content))
    words = ["--set", f"{tmp_path / 'other.json'}={striped}", "--annotations", striped / "my.json", "--images", striped]
    code, told, _ = run_tool("learn.py", *words, "--output", tmp_path / "again", "--model", tmp_path / "mine", "--json")
    assert code == 0 and json.loads(told)["names"] == ["barcode", "zebra crossing"]
    assert (tmp_path / "again/README.md").read_text() == "# mine\n"
    assert predictor_of(tmp_path / "again").model.roi_heads.linear_expert.names == ("barcode", "zebra crossing")


def shares_on_stripes(predictor, striped) -> float:
    """How much of the scores of all boxes is on boxes whose center is on the thing."""
    on, total = 0.0, 0.0
    for each in json.loads((striped / "my.json").read_text())["annotations"]:
        x, y, width, height = each["bbox"]
        options = dict(threshold=0, class_agnostic_iou=1, max_containment=1)
        found = predictor(striped / f"{each['id']}.png", names=["zebra crossing"], **options)
        across, down = found.boxes[:, 0::2].mean(1), found.boxes[:, 1::2].mean(1)
        is_on = (x < across) & (across < x + width) & (y < down) & (down < y + height)
        on, total = on + float(found.scores[is_on].sum()), total + float(found.scores.sum())
    return on / total


def predictor_of(folder) -> OpenVocabPredictor:
    config_file, weights = find_model(str(folder))
    return OpenVocabPredictor.of(open_config(config_file, ["train.device=cpu"]), weights)


@pytest.fixture
def two_sets(striped, tmp_path):
    """The striped photos as two data sets of the same names: the first has boxes of one of them, the second crowds of
    that and five boxes of another, on one photo."""
    content = json.loads((striped / "my.json").read_text())
    content["categories"].append({"id": 3, "name": "kerb"})
    (tmp_path / "a.json").write_text(json.dumps(content))
    (first, *_), crowds = content["annotations"], [{**each, "iscrowd": 1} for each in content["annotations"]]
    wheels = [{**first, "id": 90 + number, "category_id": 2} for number in range(5)]
    (tmp_path / "b.json").write_text(json.dumps({**content, "annotations": crowds + wheels}))
    return [(tmp_path / f"{name}.json", striped) for name in "ab"]


def test_a_name_is_learned_from_the_sets_that_have_boxes_of_it(two_sets):
    """Crowds are no examples: a set with nothing else of a name has none of it."""
    (names, photos), (others, more) = read_example_sets(two_sets)
    assert names == ["zebra crossing"] and others == ["wheel"] and len(photos) == 6
    assert sum(photo.class_ids.tolist().count(0) for photo in more) == 5
    assert sum(photo.class_ids.tolist().count(IGNORED) for photo in more) == 6  # the crowds
    ((names, again),) = read_example_sets(two_sets, ["Zebra_Crossing"])
    assert names == ["Zebra_Crossing"] and [each.image for each in again] == [each.image for each in photos]
    both = read_example_sets(two_sets, ["wheel", "zebra crossing"])
    assert [names for names, _ in both] == [["zebra crossing"], ["wheel"]]
    for asked, message in (
        (
            ["wheels"],
            r"a class of .*a.json, .*b.json \(zebra crossing, wheel, kerb\), got 'wheels' \(near it: 'wheel'\)",
        ),
        (["zebra crossing", "kerb"], "a box of each name to learn from in .*, got none of kerb"),
        (["wheel", "Wheel."], "read alike"),
    ):
        with pytest.raises(InputError, match=message):
            read_example_sets(two_sets, asked)


def test_photos_of_another_size_than_their_json_says_are_refused(two_sets, striped):
    """Whoever made the photos smaller has boxes that lie elsewhere."""
    content = json.loads(two_sets[0][0].read_text())
    content["images"][3]["width"] *= 2
    two_sets[0][0].write_text(json.dumps(content))
    width = content["images"][3]["width"]
    told = f"3.png to be {width} x [0-9]+ pixels as its json says, it is {width // 2} x "
    for read in (read_examples, partial(read_negatives, names=[]), calibrate.read_set):
        with pytest.raises(InputError, match=told):
            read(*two_sets[0])


def test_boxes_of_one_photo_are_told_for_a_folder_too(tiny_files, run_tool, two_sets, card, tmp_path):
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    words = [word for file, folder in two_sets for word in ("--set", f"{file}={folder}")]
    code, told, error = run_tool("learn.py", *words, "--card", card, "--output", tmp_path / "mine", *detector)
    assert code == 0 and "2 learned from 12 photos" in told
    assert error.count("boxes are of one photo") == error.count("wheel: all 5 boxes are of one photo") == 1


def test_a_folder_of_something_else_is_refused_before_anything_is_learned(
    tiny_files, ovdet, two_sets, card, tmp_path, monkeypatch
):
    monkeypatch.setattr("ovdet.learning.expert.learn_expert", lambda *_, **__: pytest.fail("learned"))
    monkeypatch.setattr("ovdet.inference.calibrate.measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("# something else\n")
    (tmp_path / "notes").write_text("mine too")
    words = ["--set", "=".join(map(str, two_sets[0])), "--card", card, *tiny_files.arguments, *tiny_files.overrides]
    for command in ("learn", "calibrate"):
        for place, message in ((tmp_path / "mine", "README.md of its own"), (tmp_path / "notes", "is a file")):
            code, _, error = ovdet(command, *words, "--output", place)
            assert code == 2 and message in error, error


def test_names_that_are_left_to_the_closed_set_expert_are_told(striped, ovdet, tmp_path, caplog):
    """A set that speaks of no others is not looked at, nor counted."""
    content = json.loads((striped / "my.json").read_text())
    content["categories"] = [{"id": 1, "name": "zebra crossing"}, {"id": 2, "name": "Dog"}]
    (one, two), image = content["annotations"][:2], content["images"][0]
    both = {**content, "images": [image], "annotations": [one, {**two, "image_id": image["id"], "category_id": 2}]}
    dogs = {**content, "annotations": [{**each, "category_id": 2} for each in content["annotations"]]}
    words = ["--output", tmp_path / "mine"]
    for name, each in (("both", both), ("dogs", dogs)):
        (tmp_path / f"{name}.json").write_text(json.dumps(each))
        words += ["--set", f"{tmp_path / name}.json={striped}"]
    code, told, error = ovdet("learn", *words)
    assert code == 0 and "1 learned from 1 photos" in told, error
    assert "not learned, as the detector's expert of fixed classes knows them: dog\n" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Dog", "that the detector's expert does not know"),
        ("sofa", "that the detector's expert does not know"),
        ("mug; my cup", "without a semicolon"),
    ],
)
def test_names_that_cannot_be_learned(striped, run_tool, tmp_path, name, message):
    """Those of the closed-set expert are left to it."""
    content = json.loads((striped / "my.json").read_text())
    content["categories"][0]["name"] = name
    (tmp_path / "dog.json").write_text(json.dumps(content))
    words = ["--set", f"{tmp_path / 'dog.json'}={striped}", "--model", "ovdet-lite", "--output", tmp_path / "mine"]
    code, _, error = run_tool("learn.py", *words)
    assert code == 2 and message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "mine").exists()
