"""The whole recipe on drawn shapes, two steps; that no stage is run twice; and bad input."""

import json
import os
import time
from pathlib import Path

import pytest
from reproduce import make as recipe

from ovdet.errors import InputError

CONFIG = """
import runpy
from detectron2.config import LazyConfig

_quick, _mixture = LazyConfig.load("configs/quick/vild.py"), runpy.run_path("configs/common/mixture.py")
dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train = (
    _quick[key] for key in "dataloader dataset lr_multiplier model name_embedder optimizer teacher train".split()
)
dataset.name = "made"
_set = _mixture["data_set"]("shapes", 1, folder={folder!r}, is_exhaustive=True)
_set.image_root = "${{dataset.root}}/images"
_mixture["train_on"](dataloader, [_set], threshold=0.0)
model = _mixture["partial_labels"](model)
"""


def arguments(trained, tmp_path, *more):
    data = trained.output.parent / "data"
    (tmp_path / "shapes").mkdir(exist_ok=True)
    (tmp_path / "shapes/instances.json").write_bytes((data / "instances_train.json").read_bytes())
    (tmp_path / "config.py").write_text(CONFIG.format(folder=str(tmp_path)))
    (tmp_path / "card.md").write_text("# Shapes\n")
    words = ["--data", data, "--output", tmp_path / "made", "--card", tmp_path / "card.md"]
    words += ["--config", tmp_path / "config.py", "--start", trained.output / "model_final.pth"]
    words += ["--test", f"{data / 'instances_val.json'}={data / 'images'}", *more]
    return [*words, "--set", *trained.overrides, "train.max_iter=2", "train.log_period=1"]


@pytest.mark.slow
def test_all_stages_once(trained, run_tool, tmp_path):
    data = trained.output.parent / "data"
    words = arguments(trained, tmp_path, "--learn", f"{data / 'instances_train.json'}={data / 'images'}")
    code, out, err = run_tool("make_lite.py", *words)
    assert code == 0, err[-3000:]
    made = tmp_path / "made"
    heads = json.loads((made / "model/config.json").read_text())["model"]["roi_heads"]
    categories = json.loads((data / "instances_train.json").read_text())["categories"]
    assert len(heads["linear_expert"]["names"]) > 1
    assert set(heads["linear_expert"]["names"]) <= {each["name"] for each in categories}
    content = json.loads((made / "packed/config.json").read_text())
    assert content["model"]["roi_heads"]["box_predictor"]["partial_labels"] is None
    assert (made / "results.md").read_text().splitlines()[2].startswith("| instances_val |")
    # again: nothing is run, but what is missing
    (made / "evaluation/instances_val/metrics.json").unlink()
    before = {file: os.stat(file).st_mtime_ns for file in (made / "averaged.pth", made / "packed/config.json")}
    time.sleep(0.01)
    code, out, err = run_tool("make_lite.py", *words)
    assert code == 0, err[-3000:]
    assert {file: os.stat(file).st_mtime_ns for file in before} == before
    assert out.count("done before") == 4 and (made / "evaluation/instances_val/metrics.json").is_file()


@pytest.fixture
def commands(monkeypatch):
    """The commands that would be run: each leaves the file that it was run for, unless its name is in `failing`."""
    run, failing = [], set()

    def pretend(words):
        run.append(words[3:])
        given = dict(zip(words, words[1:], strict=False))
        place = Path(given.get("--output", "")) if words[3] != "train" else None
        if words[3] in failing:
            return type("Run", (), {"returncode": 2})
        if words[3] == "train":
            (folder,) = (json.loads(word.partition("=")[2]) for word in words if word.startswith("train.output_dir="))
            place = Path(folder) / "model_final.pth"
        elif words[3] == "evaluate":
            place /= "metrics.json"
        elif words[3] in ("pack", "learn", "calibrate"):
            place /= "config.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text('{"all": {"AP50": 12.34, "AP": 5}}')
        return type("Run", (), {"returncode": 0})

    monkeypatch.setattr(recipe.subprocess, "run", pretend)
    return run, failing


def given(tmp_path, **changed) -> recipe.Recipe:
    for name in ("card.md", "val.json", "new.json"):
        (tmp_path / name).touch()
    (tmp_path / "photos").mkdir(exist_ok=True)
    values = dict(
        data="PATH",
        output=tmp_path / "out",
        start="ovdet-lite-base48",
        config="lite/ovdet_lite_mixture",
        share=0.85,
        card=str(tmp_path / "card.md"),
        learn=(),
        calibrate=(f"{tmp_path}/new.json={tmp_path}/photos",),
        precision=0.6,
        test=(f"{tmp_path}/val.json={tmp_path}/photos",),
        overrides=("train.max_iter=2",),
    )
    return recipe.Recipe(**{**values, **changed})


def test_the_stages_in_their_order(tmp_path, commands):
    run, failing = commands
    failing.add("calibrate")
    with pytest.raises(InputError, match="failure of: python -m ovdet calibrate"):
        recipe.make(given(tmp_path))
    failing.clear()
    assert recipe.make(given(tmp_path)) == tmp_path / "out/model"
    assert [words[0] for words in run] == ["train", "average", "pack", "calibrate", "calibrate", "evaluate"]
    assert "--resume" in run[0] and "train.max_iter=2" in run[0] and 'dataset.root="PATH"' in run[0]
    assert run[1][1:] == ["--before", "ovdet-lite-base48", "--after", str(tmp_path / "out/mixture/model_final.pth"),
                          "--share", "0.85", "--output", str(tmp_path / "out/averaged.pth")]  # fmt: skip
    assert run[-1][:3] == ["evaluate", "--model", str(tmp_path / "out/model")]
    assert (tmp_path / "out/results.md").read_text().splitlines()[2] == "| val | 12.3 | 5.0 | - |"


def test_without_photos_to_calibrate_on_the_packed_folder_is_the_model(tmp_path, commands):
    assert recipe.make(given(tmp_path, calibrate=())) == tmp_path / "out/packed"
    assert "calibrate" not in {words[0] for words in commands[0]}


def test_an_expert_is_calibrated_on_photos_that_it_did_not_learn_from(tmp_path, commands):
    """The photo of both is left out of what is learned from first; the model learns from all of them."""
    images = [{"id": n, "file_name": f"{n}.png"} for n in (3, 5, 8)]
    boxes = [{"id": n, "image_id": n, "category_id": 1} for n in (3, 5, 8)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "rabbit"}]}
    file, new = tmp_path / "rabbit.json", tmp_path / "new.json"
    file.write_text(json.dumps(content))
    recipe_of = given(tmp_path, learn=(f"{file}={tmp_path}/photos",))
    new.write_text(json.dumps({**content, "images": images[1:2], "annotations": []}))
    assert recipe.make(recipe_of) == tmp_path / "out/model"
    run = [words for words in commands[0] if words[0] in ("learn", "calibrate")]
    assert [words[0] for words in run] == ["learn", "calibrate", "learn"]
    part = tmp_path / "out/apart/0_rabbit.json"
    out, photos = tmp_path / "out", tmp_path / "photos"
    assert run[0][1:] == ["--model", f"{out}/packed", "--set", f"{part}={photos}", "--output", f"{out}/learned"]
    assert run[1][1:5] == ["--model", f"{out}/learned", "--set", f"{new}={photos}"]
    assert run[2][1:] == ["--model", f"{out}/calibrated", "--set", f"{file}={photos}", "--output", f"{out}/model"]
    kept = json.loads(part.read_text())
    assert [image["id"] for image in kept["images"]] == [3, 8] == [each["id"] for each in kept["annotations"]]


def test_an_expert_without_calibration_learns_once(tmp_path, commands):
    recipe.make(given(tmp_path, learn=(f"{tmp_path}/new.json={tmp_path}/photos",), calibrate=()))
    assert [words[0] for words in commands[0]] == ["train", "average", "pack", "learn", "evaluate"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"learn": ("x",)}, "--learn X.json=DIR"), ({"learn": ("gone.json=photos",)}, "gone.json"),
     ({"test": ("val.json",)}, "--test X.json=DIR"), ({"calibrate": ("=x",)}, "--calibrate X.json=DIR"),
     ({"card": "gone.md"}, "gone.md"), ({"test": ("gone.json=photos",)}, "gone.json")],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_runs(tmp_path, commands, change, expected):
    with pytest.raises(InputError, match=expected):
        recipe.make(given(tmp_path, **change))
    assert not commands[0] and not (tmp_path / "out").exists()
