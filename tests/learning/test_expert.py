"""A linear expert from photos: sets count for their own names alone; the command as a user runs it."""

from __future__ import annotations

import json

import pytest
import torch

from ovdet.errors import InputError
from ovdet.hub.find import find_model, open_config
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.examples import LabeledRegions, join_regions
from ovdet.learning.expert import ShownNames, fit_rows, joined_experts
from ovdet.learning.probe import BACKGROUND, fit_probe
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
