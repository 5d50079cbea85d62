"""Each config of an alignment objective, and of given proposals, trains two steps and evaluates, on drawn shapes."""

import json
from pathlib import Path

import pytest
import torch

from ovdet.engine.checkpoint import read_checkpoint

CONFIGS = {
    "devise": {"devise"},
    "clip": {"info_nce"},
    "clip_captions": {"info_nce", "image_info_nce"},
    "unicl": {"unicl"},
    "unicl_captions": {"unicl"},
    "coca": {"coca"},
    "coca_captions": {"coca"},
    "slip": {"info_nce", "simclr"},
    "declip": {"info_nce", "simsiam", "nearest_texts"},
    "distill_cosine": {"distill_cosine"},
    "distill_contrast": {"distill_contrast"},
    "distill_relations": {"distill_relations"},
    "filip": {"filip"},
    "lit": {"distill"},
    "ovr_cnn": {"captions"},
    "fast_rcnn": set(),
    "localization_rpn": set(),
    "adaptive_rpn": set(),
}
SOON = "distill_contrast"  # of the default tier, in which test_detector.py trains each objective
RPN = "model.proposal_generator.post_nms_topk=[100,50]"
LITTLE = (
    *("dataset.num_base=24", "dataset.split=${dataset.root}/ov_split.json", "train.max_iter=2", "train.log_period=1"),
    *(
        "train.init_checkpoint=",
        "train.init_parts=",
        "train.device=cpu",
        "train.amp=False",
        "train.clip_gradient_norm=1",
    ),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "dataloader.train.total_batch_size=2"),
    *(RPN, "model.roi_heads.box_predictor.test_topk_per_image=20"),
)


@pytest.fixture
def captions(tmp_path):
    """An override that names a json of captions of all photos."""
    content = {str(number): ["a red circle and a blue square"] for number in range(17)}
    (tmp_path / "captions.json").write_text(json.dumps({"captions": content}))
    return f"dataset.captions={tmp_path}/captions.json"


@pytest.mark.slow
def test_ovr_cnn_in_two_steps(trained, run_tool, tmp_path, captions):
    """Pre-training needs no box; the detector keeps the projection and goes on with the box head."""
    data, first = f"{trained.output.parent}/data", f"{tmp_path}/first/model_final.pth"
    content = json.loads(Path(data, "instances_train.json").read_text())
    (tmp_path / "photos.json").write_text(json.dumps({**content, "annotations": []}))
    alone = (captions, f"dataset.train={tmp_path}/photos.json", f"dataset.images={data}/images")
    for name, more in (("pretrain", alone), ("detector", [f"train.init_checkpoint={first}"])):
        kept = [each for each in LITTLE if not each.startswith("train.init")]
        kept += ["train.init_checkpoint=", "train.init_parts="] * (name == "pretrain")
        output = tmp_path / ("first" if name == "pretrain" else "second")
        overrides = [f"dataset.root={data}", f"dataset.name={name}", f"train.output_dir={output}", *kept, *more]
        code, _, err = run_tool("train_net.py", "--config-file", f"configs/lite/ovr_cnn_{name}.py", *overrides)
        assert code == 0, err[-3000:]
        steps = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
        losses = {key for each in steps for key, value in each.items() if key.startswith("loss_") and value != 0}
        assert "loss_cls" in losses if name == "detector" else losses == {"loss_captions"}
        assert "AP50" in (output / "evaluation/metrics.json").read_text()
    before, after = (read_checkpoint(str(tmp_path / each / "model_final.pth"))["model"] for each in ("first", "second"))
    key = "roi_heads.box_predictor.projection.linear.weight"
    assert torch.equal(before[key], after[key])
    assert not torch.equal(before["roi_heads.box_head.fc1.weight"], after["roi_heads.box_head.fc1.weight"])


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each == SOON else [pytest.mark.slow]) for each in CONFIGS]
)
def test_two_steps_and_an_evaluation(trained, run_tool, tmp_path, captions, name):
    config = f"configs/lite/{name}.py"
    overrides = [f"dataset.root={trained.output.parent}/data", f"train.output_dir={tmp_path}/run", *LITTLE]
    overrides += ["train.freeze=backbone"] * (name != "lit")
    if name == "ovr_cnn" or name.endswith("_captions"):
        overrides.append(captions)
    if name == "fast_rcnn":  # noise around the objects
        overrides.remove(RPN)
        for part in ("train", "val"):
            content = json.loads((trained.output.parent / f"data/instances_{part}.json").read_text())
            entries = [{"image_id": each["image_id"], "score": 0.9, "bbox": box} for each in content["annotations"]
                       for box in (each["bbox"], [0, 0, *each["bbox"][2:]])]  # fmt: skip
            (tmp_path / f"{part}.json").write_text(json.dumps({"training_classes": [], "proposals": entries}))
            overrides.append(f"dataset.proposals_{part}={tmp_path}/{part}.json")
    code, _, err = run_tool("train_net.py", "--config-file", config, *overrides)
    assert code == 0, err[-3000:]
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    first = next(each for each in steps if "loss_cls" in each)
    of_objectives = {key.removeprefix("loss_") for key in first if key.startswith("loss_")} - {
        *("rpn_cls", "rpn_loc", "cls", "box_reg", "iou")
    }
    assert of_objectives == CONFIGS[name] and all(first[f"loss_{each}"] != 0 for each in of_objectives)
    assert "AP50" in (tmp_path / "run/evaluation/metrics.json").read_text()
    log = (tmp_path / "run/log.txt").read_text().partition("what feeds this run:")[2]
    assert f"lite_train: {trained.output.parent}/data/instances_train.json" in log
    assert log.count("\nobjective ") == max(len(CONFIGS[name]), 1) and "loss_cls x 1, loss_box_reg x 1" in log
    assert (captions.partition("=")[2] in log) == any(each.startswith("dataset.captions") for each in overrides)
