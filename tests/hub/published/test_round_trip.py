"""A converted detector is one like any other: masks in results and figures, packed, opened, fine-tuned.

Small, of the parts of Detic's main detector: heat maps, a cascade of three heads, masks.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from pycocotools import mask as coco_masks

from configs.common.components import cascade, centernet_proposals
from configs.common.published import fine_tuned
from ovdet import OpenVocabPredictor
from ovdet.data.synthetic import build_synthetic
from ovdet.engine.config import load_config
from ovdet.hub.find import find_model, open_config
from ovdet.hub.load import load_detector
from ovdet.hub.published.convert import convert
from ovdet.hub.published.families import FAMILIES
from ovdet.hub.published.variant import Origin, Space, Variant
from ovdet.modeling.box_predictor import FederatedBoxPredictor

NAMES = ["red circle", "blue square", "green star"]


def small_detic(tiny_files):
    config = load_config(tiny_files.arguments[1], tiny_files.overrides)
    model, heads = config.model, config.model.roi_heads
    heads.box_predictor._target_ = FederatedBoxPredictor
    heads.box_predictor.update(class_weights=None, loss_classes=8, temperature=0.02, prior=0.01, test_topk_per_image=20)
    model = centernet_proposals(cascade(model), in_features=["p4", "p5"], strides=[16, 32])
    model.proposal_generator.head.num_groups = 4
    model.proposal_generator.post_nms_topk = [60, 30]
    heads.mask_in_features = heads.box_in_features
    pooling = dict(scales=heads.box_pooler.scales, sampling_ratio=0, pooler_type="ROIAlignV2")
    heads.mask_pooler = L(ROIPooler)(output_size=14, **pooling)
    shape = L(ShapeSpec)(channels=16, width=14, height=14)
    heads.mask_head = L(MaskRCNNConvUpsampleHead)(input_shape=shape, num_classes=1, conv_dims=[8, 8])
    return model


@pytest.fixture(scope="module")
def variant(tiny_files) -> Variant:
    return Variant(
        name="small-detic",
        title="A small Detic",
        build_model=lambda: small_detic(tiny_files),
        renames=((r"\.heatmap\.", ".agn_hm."), (r"\.projection\.linear\.", ".cls_score.linear.")),
        unused=r"zs_weight$",
        constants={},
        space=Space("conse", width=384),
        origin=Origin("Detic", "https://example.org", "Apache-2.0", "arXiv:2201.02605"),
        short_edge_length=192,
        max_size=256,
    )


def noise(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """As the weights of the golden numbers are made: uniform, variance 1, seeded by the name."""
    words = np.random.PCG64(sum(key.encode())).random_raw(math.prod(shape))
    uniform = (np.asarray(words, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((uniform - 0.5) * math.sqrt(12)).reshape(shape)


def made_up(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if len(shape) < 2:
        positive = key.endswith(("running_var", "weight", ".scales.0", ".scales.1"))
        return torch.tensor(float(positive) + 0.1 * noise(key, shape), dtype=torch.float32)
    return torch.tensor(noise(key, shape) / math.sqrt(math.prod(shape[1:])), dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(variant, tmp_path_factory) -> Path:
    """Its weights converted."""
    root = tmp_path_factory.mktemp("small_detic")
    stored = {source: made_up(source, variant.shapes[key]) for key, source in variant.sources.items()}
    for key in stored:
        if key.endswith("heatmap.bias") or key.endswith("agn_hm.bias"):
            stored[key] = stored[key] * 0 + 1.0
        elif key.endswith("distances.bias"):
            stored[key] = stored[key] * 0 + 2.0
    torch.save({"model": stored}, root / "weights.pth")
    FAMILIES["small-detic"] = (variant,)
    try:
        convert(root / "weights.pth", root / "model", family="small-detic")
    finally:
        del FAMILIES["small-detic"]
    return root / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A few drawn photos, with masks."""
    return build_synthetic(tmp_path_factory.mktemp("drawn") / "data", num_train=6, num_val=2)


@pytest.mark.slow
def test_masks_in_results_and_figures(folder, data, run_tool, tmp_path):
    photo = next((data / "images").iterdir())
    found = OpenVocabPredictor.from_pretrained(folder, device="cpu")(photo, NAMES, threshold=0.0)
    assert len(found) and found.masks.shape == (len(found), 192, 256)
    rows = found.to_coco(7)
    assert np.array_equal(coco_masks.decode(rows[0]["segmentation"]).astype(bool), found.masks[0])
    arguments = ["--annotations", data / "instances_val.json", "--images", data / "images", "--device", "cpu"]
    arguments += ["--model", folder, "--output", tmp_path / "scored", "--masks", "dataloader.test.num_workers=0"]
    code, _, err = run_tool("evaluate.py", *arguments, "model.roi_heads.box_predictor.test_score_thresh=0.0")
    assert code == 0, err[-3000:]
    metrics = json.loads((tmp_path / "scored/metrics.json").read_text())
    assert metrics["all"]["AP"] is not None and metrics["segm"]["all"]["AP"] is not None
    detections = json.loads((tmp_path / "scored/detections.json").read_text())
    assert detections and all("segmentation" in each for each in detections)


def test_packed_and_opened(folder, data, run_tool, tmp_path):
    (tmp_path / "card.md").write_text("a card")
    arguments = ["--model", folder, "--card", tmp_path / "card.md", "--output", tmp_path / "packed"]
    code, _, err = run_tool("pack_model.py", *arguments)
    assert code == 0, err[-2000:]
    photo = next((data / "images").iterdir())
    whole, packed = (
        OpenVocabPredictor.from_pretrained(each, device="cpu")(photo, NAMES, threshold=0.0)
        for each in (folder, tmp_path / "packed")
    )
    assert len(whole) == len(packed)
    np.testing.assert_allclose(packed.scores[:5], whole.scores[:5], atol=5e-3)  # weights in half precision


@pytest.mark.slow
def test_fine_tuned(folder, variant, data, run_tool, tmp_path):
    """Boxes and masks train on from the folder's weights."""
    overrides = [f"dataset.root={data}", "dataset.prepare.num_train=6", "dataset.prepare.num_val=2", "train.device=cpu"]
    overrides += ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    config = load_config("configs/quick/vild.py", [*overrides, "dataloader.train.total_batch_size=2"])
    config.model = fine_tuned(variant.build_model(), masks=True)
    config.dataloader.train.mapper.use_masks = True
    config.optimizer.lr = 1e-6
    config.train.update(output_dir=f"{tmp_path}/run", max_iter=2, log_period=1, init_checkpoint=str(folder))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    code, _, err = run_tool("train_net.py", "--config-file", tmp_path / "config.yaml")
    assert code == 0, err[-3000:]
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    first = next(each for each in steps if "loss_mask" in each)
    assert all(math.isfinite(value) for key, value in first.items() if key.startswith("loss_"))
    assert {"loss_cls_stage0", "loss_box_reg_stage2", "loss_mask"} <= first.keys()
    files = find_model(folder)
    before, _, _ = load_detector(open_config(files.config_file, ["train.device=cpu"]), files.weights)
    after = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    moved = {
        key: float((after[key] - value).abs().max())
        for key, value in before.state_dict().items()
        if value.is_floating_point() and "running" not in key
    }
    assert max(moved.values()) < 1e-3 and moved["roi_heads.box_head.fc1.weight"] > 0
