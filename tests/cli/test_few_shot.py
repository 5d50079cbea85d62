"""`ovdet few-shot`: figures of the real way, going on after an interruption, bad input."""

from __future__ import annotations

import json

import pytest

from ovdet.engine.config import load_config
from ovdet.errors import InputError
from ovdet.inference import few_shot as protocol
from ovdet.inference.evaluate import evaluate_on
from ovdet.inference.predictor import OpenVocabPredictor


@pytest.fixture
def few_shot(tiny_files, ovdet, striped, tmp_path):
    """Run the command -> code, stdout, last line of stderr."""

    def few_shot(*more, annotations=striped / "my.json"):
        given = ["--annotations", annotations, "--images", striped, "--output", tmp_path / "out"]
        code, out, err = ovdet("few-shot", *given, *more, *tiny_files.arguments, *tiny_files.overrides)
        return code, out, (err.strip().splitlines() or [""])[-1]

    return few_shot


def test_the_command(few_shot, tmp_path):
    code, out, _ = few_shot("--shots", "1,2", "--seeds", "1")
    assert code == 0 and "learned + text" in out
    state = json.loads((tmp_path / "out/few_shot.json").read_text())
    assert state["classes"] == ["zebra crossing"] and state["photos"] == [3, 3] and len(state["results"]) == 5
    assert (tmp_path / "out/few_shot.png").read_bytes()[:4] == b"\x89PNG"
    table = (tmp_path / "out/few_shot.csv").read_text().splitlines()
    assert table[0].startswith("method,shots,seeds,AP50") and len(table) == 6
    # a second seed goes on; the first stays as it was
    assert few_shot("--shots", "1,2", "--seeds", "2")[0] == 0
    more = json.loads((tmp_path / "out/few_shot.json").read_text())
    assert more["results"][:5] == state["results"] and len(more["results"]) == 9
    code, out, _ = few_shot("--shots", "3", "--seeds", "1", "--json")
    assert code == 0 and [each["method"] for each in json.loads(out)["results"]][0] == "text"


@pytest.mark.slow
def test_a_row_after_fine_tuning(few_shot, tmp_path):
    quick = ("--shots", "1", "--seeds", "1")
    assert few_shot(*quick)[0] == 0
    before = json.loads((tmp_path / "out/few_shot.json").read_text())["results"]
    code, out, last = few_shot(*quick, "--fine-tune", "1")
    assert code == 0 and "fine-tuned, 1 steps" in out, last
    results = json.loads((tmp_path / "out/few_shot.json").read_text())["results"]
    assert results[:-1] == before and results[-1]["method"] == "fine-tuned, 1 steps"


@pytest.mark.slow
def test_figures_of_names_are_those_of_evaluate(few_shot, tiny_files, striped, tmp_path):
    assert few_shot("--shots", "1", "--seeds", "1")[0] == 0
    results = json.loads((tmp_path / "out/few_shot.json").read_text())["results"]
    content = json.loads((striped / "my.json").read_text())
    held = [image["id"] for image in content["images"]][0::2]
    content["images"] = [image for image in content["images"] if image["id"] in held]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in held]
    content["categories"] = content["categories"][:1]
    (tmp_path / "held.json").write_text(json.dumps(content))
    config = load_config("configs/quick/vild.py", [*tiny_files.overrides, "train.device=cpu"])
    figures = evaluate_on(
        config, tmp_path / "held.json", striped, tmp_path / "evaluation", weights=tiny_files.arguments[-1]
    )
    assert figures["bbox"]["AP50"] == pytest.approx(results[0]["AP50"], abs=0.01)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shots", "one"], "one"),
        (["--shots", "0"], "[0]"),
        (["--seeds", "0"], "1 seed"),
        (["--max-photos", "0"], "max-photos"),
        (["--fine-tune", "0"], "got 0"),
    ],
)
def test_bad_options(few_shot, more, message):
    code, _, last = few_shot(*more)
    assert code == 2 and message in last


def test_results_of_other_data_are_not_mixed(few_shot, striped, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/few_shot.json").write_text(
        json.dumps({"detector": "0" * 16, "classes": ["zebra crossing"], "photos": [3, 3], "results": []})
    )
    code, _, last = few_shot("--shots", "1", "--seeds", "1")
    assert code == 2 and "other detector" in last
    content = json.loads((striped / "my.json").read_text())
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    (tmp_path / "one.json").write_text(json.dumps(content))
    code, _, last = few_shot(annotations=tmp_path / "one.json")
    assert code == 2 and "both parts" in last


def test_fine_tuning_is_scored_beside_the_rest(tiny_files, striped, tmp_path):
    """Once for each number of shots, and not again; here nothing is trained."""
    predictor = OpenVocabPredictor.from_config(
        tiny_files.arguments[1], tiny_files.arguments[3], overrides=tiny_files.overrides
    )
    asked = []

    class Tuning:
        method = "tuned"

        def __call__(self, photos, held, names, truth, seed):
            asked.append((len(photos), len(held), list(names), seed))
            return predictor

    def results():
        given = dict(shots=[1], seeds=1, fine_tuning=Tuning(), tell=lambda line: None)
        return protocol.few_shot(predictor, striped / "my.json", striped, tmp_path / "out", **given)

    found = {result.method: result for result in results()}
    assert asked == [(1, 3, ["zebra crossing"], 0)]
    assert found["tuned"].AP50 == pytest.approx(found["text"].AP50), "the same detector, asked for the same names"
    results()
    assert len(asked) == 1


def test_one_photo_is_nothing_to_compare_on(tiny_files):
    predictor = OpenVocabPredictor.from_config(*tiny_files.arguments[1::2], overrides=tiny_files.overrides)
    with pytest.raises(InputError, match="two photos or more to compare on some of them, got 1"):
        protocol.compare(predictor, "gone.json", ["dog"], [object()])
