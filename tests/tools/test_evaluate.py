"""Evaluation on data of one's own: the figures of train_net and of pycocotools, settings, files, bad input."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovdet import OpenVocabPredictor, Vocabulary
from ovdet.hub.find import open_config
from ovdet.hub.model_folder import write_model_folder
from ovdet.learning.classes_file import load_classes

QUICK = "configs/quick/vild.py"
FILES = {"metrics.json", "detections.json", "per_class.csv", "per_class.png", "precision_recall.png", "config.yaml"}
ANY_SCORE = "model.roi_heads.box_predictor.test_score_thresh=0.0"  # four steps of training give low ones
FIGURES = ("all", "base", "novel", "per_class")


@pytest.fixture
def data(trained):
    return trained.output.parent / "data"


@pytest.fixture
def evaluate(trained, data, run_tool, tmp_path):
    """Run the command, but for some options on the trained model's data -> exit code, last line of stderr, folder."""

    def evaluate(*more, **options):
        given = {"annotations": data / "instances_val.json", "images": data / "images", "model": trained.output}
        given.update(output=tmp_path / "out", split=data / "ov_split.json", device="cpu")
        given.update(options)
        flags = [part for key, value in given.items() if value is not None for part in (f"--{key}", value)]
        code, _, err = run_tool(
            "evaluate.py", *more, *(str(flag).replace("--config_file", "--config-file") for flag in flags)
        )
        assert "Traceback" not in err, err[-3000:]
        return code, (err.strip().splitlines() or [""])[-1], tmp_path / "out"

    return evaluate


def read(folder, name="metrics.json"):
    return json.loads((folder / name).read_text())


def judge(annotations, detections, category_ids):
    """pycocotools' AP and AP50 in percent for some classes."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        run = COCOeval(truth, truth.loadRes(detections), "bbox")
        run.params.catIds = sorted(category_ids)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return 100 * run.stats[:2]


def test_figures_are_train_nets_and_pycocotools(trained, data, evaluate, run_tool, tmp_path):
    code, last, folder = evaluate(ANY_SCORE)
    assert code == 0, last
    assert {file.name for file in folder.iterdir()} >= FILES
    metrics, detections = read(folder), read(folder, "detections.json")
    run = shutil.copytree(trained.output, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    code, _, err = run_tool(
        "train_net.py", "--config-file", QUICK, "--eval-only", *trained.overrides, ANY_SCORE, f"train.output_dir={run}"
    )
    assert code == 0, err[-3000:]
    assert {name: (run / name).read_bytes() for name in before} == before  # evaluation has a folder of its own
    assert detections == read(run / "evaluation", "detections.json")
    assert {key: metrics[key] for key in FIGURES} == {key: read(run / "evaluation")[key] for key in FIGURES}
    assert metrics["all"]["AP50"] > 0
    assert metrics["setting"] == "generalized" and metrics["vocabulary"] == 30
    split, categories = read(data, "ov_split.json"), read(data, "instances_val.json")["categories"]
    for subset, names in {
        "all": split["base"] + split["novel"],
        "base": split["base"],
        "novel": split["novel"],
    }.items():
        ids = [category["id"] for category in categories if category["name"] in names]
        expected = judge(data / "instances_val.json", [dict(found) for found in detections], ids)
        assert np.allclose(
            [metrics[subset]["AP"], metrics[subset]["AP50"]], expected, rtol=0, atol=5e-5, equal_nan=True
        )


@pytest.mark.slow
def test_synonyms_and_negatives_by_the_route_of_the_demo(trained, data, evaluate, tmp_path):
    """Other figures than without, and the predictor's detections with the same vocabulary."""
    names = [category["name"] for category in read(data, "instances_val.json")["categories"]]
    synonyms = {names[0]: ("wheel", "tyre"), names[3]: ("a star", "sun")}
    Vocabulary(tuple(names), synonyms).save(tmp_path / "names.json")
    code, last, folder = evaluate(ANY_SCORE, split=None)
    assert code == 0, last
    without = read(folder, "detections.json"), read(folder)["all"]
    code, last, folder = evaluate(ANY_SCORE, split=None, vocabulary=tmp_path / "names.json", negatives="cloud, grass")
    assert code == 0, last
    found, figures = read(folder, "detections.json"), read(folder)["all"]
    assert found != without[0] and figures != without[1]

    run = str(trained.output / "config.yaml"), str(trained.output / "model_final.pth")
    predictor = OpenVocabPredictor.from_config(*run, overrides=[ANY_SCORE], device="cpu")
    predictor.set_vocabulary(Vocabulary.load(tmp_path / "names.json"), negatives=["cloud", "grass"])
    image = read(data, "instances_val.json")["images"][0]
    expected = predictor(data / "images" / image["file_name"], threshold=0, class_agnostic_iou=1, max_containment=1)
    ours = sorted((d for d in found if d["image_id"] == image["id"]), key=lambda d: -d["score"])
    assert len(ours) == len(expected) > 0
    assert np.allclose([d["score"] for d in ours], expected.scores, atol=1e-4)


@pytest.mark.parametrize(("content", "value"), [('["zebra"]', "zebra"), ("{", "json")])
def test_vocabularies_of_other_classes(evaluate, tmp_path, content, value):
    (tmp_path / "names.json").write_text(content)
    code, last, folder = evaluate(vocabulary=tmp_path / "names.json")
    assert code == 2 and value in last


@pytest.mark.slow
def test_a_model_folder_does_as_well_as_the_run(trained, data, evaluate, tmp_path):
    """Its weights are in half precision: nearly as well."""
    config = open_config(str(trained.output / "config.yaml"), ["train.device=cpu"])
    write_model_folder(config, str(trained.output / "model_final.pth"), tmp_path / "model", card="")
    code, last, folder = evaluate(ANY_SCORE, output=tmp_path / "run")
    assert code == 0, last
    code, last, folder = evaluate(ANY_SCORE, model=tmp_path / "model")
    assert code == 0, last
    found, expected = ({d["image_id"] for d in read(f, "detections.json")} for f in (folder, tmp_path / "run"))
    assert found == expected
    ours, theirs = read(folder), read(tmp_path / "run")
    assert ours["setting"] == theirs["setting"] and ours["vocabulary"] == theirs["vocabulary"]
    assert theirs["all"]["AP50"] > 0
    assert abs(ours["all"]["AP50"] - theirs["all"]["AP50"]) < 0.5  # of 100


def test_constrained_asks_for_novel_names_alone(trained, data, evaluate):
    """And a config with weights does as well as a run's folder."""
    code, last, folder = evaluate(
        ANY_SCORE, *trained.overrides, setting="constrained", model=None, config_file=QUICK,
        weights=trained.output / "model_final.pth",
    )  # fmt: skip
    assert code == 0, last
    novel = set(read(data, "ov_split.json")["novel"])
    categories = {category["id"]: category["name"] for category in read(data, "instances_val.json")["categories"]}
    found = {categories[detection["category_id"]] for detection in read(folder, "detections.json")}
    assert found and found <= novel
    metrics = read(folder)
    assert metrics["setting"] == "constrained" and metrics["vocabulary"] == len(novel) == len(metrics["per_class"])


@pytest.mark.slow
def test_faster_on_demand(evaluate, monkeypatch):
    """Mixed precision; and where there is no compiler, a line in the log and no more."""

    def fail(*anything, **options):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr("ovdet.modeling.acceleration.half_type", lambda device: torch.bfloat16)  # on any processor
    code, last, folder = evaluate("--compile", "--half", "--int8", ANY_SCORE)
    assert code == 0, last
    assert (folder / "log.txt").read_text().count("torch.compile failed, going on without it: RuntimeError") == 1
    assert read(folder)["all"]["AP50"] > 0
    halves = [found["score"] for found in read(folder, "detections.json")]
    assert evaluate(ANY_SCORE)[0] == 0
    assert halves != [found["score"] for found in read(folder, "detections.json")]


def test_own_data_without_a_split(data, evaluate, tmp_path):
    """Ids that are text, classes of another order, a photo in a folder, one without objects: all photos, no subsets."""
    content = read(data, "instances_val.json")
    renamed = {image["id"]: f"photo {image['id']}" for image in content["images"]}
    for image in content["images"]:
        image.update(id=renamed[image["id"]], file_name=f"images/{image['file_name']}")
    empty = content["images"][0]["id"]
    content["annotations"] = [
        {**a, "image_id": renamed[a["image_id"]], "category_id": 1000 - a["category_id"]}
        for a in content["annotations"]
        if renamed[a["image_id"]] != empty
    ]
    content["categories"] = [{**c, "id": 1000 - c["id"]} for c in content["categories"]]
    (tmp_path / "own.json").write_text(json.dumps(content))
    code, last, folder = evaluate(
        ANY_SCORE, annotations=tmp_path / "own.json", images=data, split=None, **{"max-detections": 3}
    )
    assert code == 0, last
    detections = read(folder, "detections.json")
    counts = {image_id: sum(found["image_id"] == image_id for found in detections) for image_id in renamed.values()}
    assert counts[empty] > 0 and max(counts.values()) <= 3
    assert {found["category_id"] for found in detections} <= {category["id"] for category in content["categories"]}
    metrics = read(folder)
    assert metrics["base"]["AP"] is metrics["novel"]["AP"] is None and metrics["all"]["AP"] is not None


def damage(content, part):
    """A json that is wrong in one part."""
    image, annotation = content["images"][0], content["annotations"][0]
    changes = {
        "category id": lambda: annotation.update(category_id=777),
        "image id": lambda: content["images"].append(dict(image)),
        "empty": lambda: content.update(annotations=[]),
        "photos": lambda: [entry.update(file_name=f"gone{i}.png") for i, entry in enumerate(content["images"][:3])],
    }
    changes[part]()
    return content


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("category id", ["category_id", "777"]),
        ("image id", ["image id", "repeated"]),
        ("empty", ["annotations", "none"]),
        ("photos", ["gone0.png", "gone1.png", "gone2.png"]),
    ],
)
def test_data_that_does_not_fit_is_refused_before_the_model_is_loaded(data, evaluate, tmp_path, part, words, split):
    (tmp_path / "bad.json").write_text(json.dumps(damage(read(data, "instances_val.json"), part)))
    code, last, folder = evaluate(
        annotations=tmp_path / "bad.json", split=data / "ov_split.json" if split else None, model=None,
        config_file=QUICK, weights="/nowhere.pth",
    )  # fmt: skip
    assert code == 2 and last.startswith("error: ") and all(word in last for word in words)
    assert "nowhere" not in last and not folder.exists()


def test_splits_that_do_not_fit(data, evaluate, tmp_path):
    split = read(data, "ov_split.json")
    (tmp_path / "unknown.json").write_text(json.dumps({**split, "base": [*split["base"], "unicorn"]}))
    code, last, _ = evaluate(split=tmp_path / "unknown.json")
    assert code == 2 and "unicorn" in last
    (tmp_path / "base.json").write_text(json.dumps({"base": split["base"] + split["novel"]}))
    code, last, _ = evaluate(split=tmp_path / "base.json", setting="constrained")
    assert code == 2 and "novel" in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "one of the two"),
        ({"config_file": QUICK}, "one of the two"),
        ({"weights": "w.pth"}, "--config-file"),
        ({"model": "/nowhere"}, "/nowhere"),
        ({"model": None, "config_file": "/nowhere.py"}, "/nowhere.py does not exist"),
        ({"model": None, "config_file": QUICK, "weights": "/nowhere.pth"}, "/nowhere.pth does not exist"),
        ({"annotations": "/nowhere.json"}, "/nowhere.json"),
        ({"images": "/nowhere"}, "/nowhere"),
        ({"split": "/nowhere.json"}, "/nowhere.json"),
        ({"split": None, "setting": "constrained"}, "split"),
        ({"max-detections": 0}, "at least 1 detection"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"teacher": "conse:lite0"}, "conse:lite0"),
    ],
)
def test_bad_options_are_one_line(evaluate, options, message):
    code, last, folder = evaluate(**options)
    assert code == 2 and last.startswith("error: ") and message in last
    assert not (folder / "metrics.json").exists()


@pytest.mark.slow
def test_lvis_figures_of_masks(trained, data, evaluate, tmp_path):
    """Of a detector with untrained masks. A photo that nothing is annotated in is asked about too."""
    config = open_config(str(trained.output / "config.yaml"), ["train.device=cpu"])
    model, heads = config.model, config.model.roi_heads
    model.region_source, heads.objectives = None, []
    heads.mask_in_features = heads.box_in_features
    heads.mask_pooler = L(ROIPooler)(
        output_size=14, scales=heads.box_pooler.scales, sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    shape = L(ShapeSpec)(channels=heads.box_head.input_shape.channels, width=14, height=14)
    heads.mask_head = L(MaskRCNNConvUpsampleHead)(input_shape=shape, num_classes=1, conv_dims=[8, 8])
    detector, weights = instantiate(model), torch.load(trained.output / "model_final.pth", weights_only=True)
    detector.load_state_dict(weights["model"], strict=False)
    torch.save({**weights, "model": detector.state_dict()}, tmp_path / "masks.pth")
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    content = read(data, "instances_val.json")
    for category in content["categories"]:
        category["frequency"] = "f"
    for image in content["images"]:
        image.update(neg_category_ids=[1, 2, 3], not_exhaustive_category_ids=[])
    empty = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != empty]
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    code, last, folder = evaluate(
        "--lvis", "--masks", ANY_SCORE, annotations=tmp_path / "lvis.json", model=None,
        config_file=tmp_path / "config.yaml", weights=tmp_path / "masks.pth",
    )  # fmt: skip
    assert code == 0, last
    metrics, detections = read(folder), read(folder, "detections.json")
    assert "LVIS" in metrics["protocol"] and metrics["segm"]["all"]["AP"] is not None
    assert {found["image_id"] for found in detections} == {image["id"] for image in content["images"]}
    assert all("segmentation" in found for found in detections)


def test_masks_of_a_detector_without(evaluate):
    code, last, _ = evaluate("--masks")
    assert code == 2 and "detector with masks" in last


def test_an_output_that_cannot_be_written(evaluate, tmp_path):
    (tmp_path / "file").write_text("")
    code, last, _ = evaluate(output=tmp_path / "file/out", model=None, config_file=QUICK, weights="/nowhere.pth")
    assert code == 2 and "place to write to" in last


def test_a_misspelt_override(evaluate):
    code, last, _ = evaluate("train.devise=cpu")
    assert code == 2 and "train.devise" in last


@pytest.mark.slow
def test_suggested_thresholds_go_with_the_classes(trained, data, evaluate, run_tool, tmp_path):
    code, last, folder = evaluate("--suggest-thresholds", ANY_SCORE)
    assert code == 0, last
    lines = (folder / "thresholds.csv").read_text().splitlines()
    names = list(read(folder)["per_class"])
    assert lines[0] == "class,threshold,precision,recall,F1,objects,false alarms" and len(lines) == 1 + len(names)
    chosen = {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:] if line.split(",")[1]}
    classes = load_classes(folder / "classes.safetensors")
    assert classes.names == tuple(names) and chosen
    for name, own in zip(names, classes.own_thresholds.tolist(), strict=True):
        assert own == pytest.approx(chosen[name], abs=1e-4) if name in chosen else np.isnan(own)
    # and the demo shows what reaches them
    photo = sorted((data / "images").iterdir())[-1]
    shown = ["--input", photo, "--output", tmp_path / "demo", "--model", trained.output, "--class-agnostic-iou", "1"]
    assert run_tool("demo.py", *shown, "--classes", folder / "classes.safetensors")[0] == 0
    found = json.loads((tmp_path / "demo/detections.json").read_text())[0]["detections"]
    assert all(each["score"] >= chosen.get(each["label"], 0) - 1e-4 for each in found)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--precision", "0.9"), "suggest_thresholds"),
        (("--suggest-thresholds", "--precision", "1.5"), "1.5"),
        (("--suggest-thresholds", "--lvis"), "LVIS"),
    ],
)
def test_thresholds_that_cannot_be_suggested(evaluate, more, message):
    code, last, _ = evaluate(*more)
    assert code == 2 and message in last
