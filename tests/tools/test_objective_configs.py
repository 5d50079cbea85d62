"""Each config of an alignment objective trains two steps and evaluates, on drawn shapes."""

import json

import pytest

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
}
SOON = {"declip", "distill_contrast"}  # of the default tier
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
    *("model.proposal_generator.post_nms_topk=[100,50]", "model.roi_heads.box_predictor.test_topk_per_image=20"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each in SOON else [pytest.mark.slow]) for each in CONFIGS]
)
def test_two_steps_and_an_evaluation(trained, run_tool, tmp_path, name):
    config = f"configs/lite/{name}.py"
    overrides = [f"dataset.root={trained.output.parent}/data", f"train.output_dir={tmp_path}/run", *LITTLE]
    overrides += ["train.freeze=backbone"] * (name != "lit")
    if name == "ovr_cnn" or name.endswith("_captions"):
        captions = {str(number): ["a red circle and a blue square"] for number in range(16)}
        (tmp_path / "captions.json").write_text(json.dumps({"captions": captions}))
        overrides.append(f"dataset.captions={tmp_path}/captions.json")
    code, _, err = run_tool("train_net.py", "--config-file", config, *overrides)
    assert code == 0, err[-3000:]
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    first = next(each for each in steps if "loss_cls" in each)
    of_objectives = {key.removeprefix("loss_") for key in first if key.startswith("loss_")} - {
        *("rpn_cls", "rpn_loc", "cls", "box_reg", "iou")
    }
    assert of_objectives == CONFIGS[name] and all(first[f"loss_{each}"] != 0 for each in of_objectives)
    assert "AP50" in (tmp_path / "run/evaluation/metrics.json").read_text()
