"""The configs are ViLD's recipe: numbers of arXiv:2104.13921 and of its release (tensorflow/tpu, vild_config.py and
vild_resnet.yaml), written down here once more."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ovdet.modeling.box_predictor import FederatedBoxPredictor, OpenVocabBoxPredictor
from ovdet.modeling.region_sources import StoredRegions
from ovdet.modeling.score_fusion import GeometricScores, ImageScores, TextScores
from ovdet.objectives.base import RegionBatch
from ovdet.objectives.l1_distillation import L1Distillation
from ovdet.text.prompts import resolve_templates

CONFIGS = Path(__file__).parents[1] / "configs"
FAMILIES = ("ov_coco", "ov_lvis")
STEPS = {"ov_coco": 45_000, "ov_lvis": 180_000}
# the fusion; the text branch's exponent of base and of novel classes; objectness's
TEXT, IMAGE, BOTH = (TextScores, 1, 1, 0), (ImageScores, 0, 0, 1 / 2), (GeometricScores, 2 / 3, 1 / 3, 0)
FUSIONS = {
    "vild_text": TEXT,
    "vild_image": IMAGE,
    "vild": TEXT,
    "vild_ensemble": BOTH,
    "vild_text_teacher": BOTH,
    "rcnn_style": IMAGE,
}
DISTILLED = {"vild_image", "vild", "vild_ensemble"}
ASKS_TEACHER = {"vild_text_teacher", "rcnn_style"}
FEDERATED = [("ov_lvis", stem) for stem in ("vild_text_federated", "vild_federated", "vild_ensemble_federated")]
OPEN = [(family, stem) for family in FAMILIES for stem in FUSIONS] + FEDERATED
ALL = [*OPEN, *((family, "closed_set") for family in FAMILIES)]


@cache
def read(family: str, stem: str) -> DictConfig:
    return LazyConfig.load(str(CONFIGS / family / f"{stem}.py"))


def load(family: str, stem: str) -> DictConfig:
    """A copy, which a test may change."""
    return deepcopy(read(family, stem))


def plain(stem: str) -> str:
    return stem.removesuffix("_federated")


def fused(config: DictConfig) -> tuple[type, float, float, float]:
    """As in FUSIONS."""
    fusion = instantiate(config.model.roi_heads.score_fusion)
    text = torch.as_tensor(fusion.exponents(torch.tensor([True, False])).text).expand(2).tolist()
    return type(fusion), *text, fusion.objectness_exponent


def learning_rates(config: DictConfig, steps: list[int]) -> list[float]:
    multiplier = instantiate(config.lr_multiplier)
    return [config.optimizer.lr * multiplier(step / config.train.max_iter) for step in steps]


def test_all_of_the_paper_are_looked_at():
    found = {(family, file.stem) for family in FAMILIES for file in (CONFIGS / family).glob("*.py")}
    assert found == set(ALL)


@pytest.mark.parametrize(("family", "stem"), OPEN)
def test_scores(family, stem):
    """Equations 5 and 6, lambda 2/3; of the image side alone the geometric mean with objectness."""
    config = load(family, stem)
    fusion, *exponents = fused(config)
    expected, *numbers = FUSIONS[plain(stem)]
    assert fusion is expected and exponents == pytest.approx(numbers)
    exponents = instantiate(config.model.roi_heads.score_fusion).exponents(torch.tensor([True, False]))
    assert not torch.as_tensor(exponents.foreground).any() and not torch.as_tensor(exponents.area).any()
    for extra in ("iou_head", "background_names", "soft_nms_sigma", "suppress", "box_passes"):
        assert extra not in config.model.roi_heads


@pytest.mark.parametrize(("family", "stem"), OPEN)
def test_temperatures_and_the_text_space(family, stem):
    config = load(family, stem)
    predictor = instantiate(config.model.roi_heads.box_predictor)
    federated = stem.endswith("_federated")
    assert type(predictor) is (FederatedBoxPredictor if federated else OpenVocabBoxPredictor)
    assert predictor.classifier.temperature == (0.02 if federated else 0.01)  # Detic's for sigmoids
    assert config.model.roi_heads.image_temperature == 0.01
    assert predictor.projection.linear.out_features == predictor.classifier.width == 512
    assert config.teacher == {
        "name": "open_clip:ViT-B-32-quickgelu/openai", "width": 512, "templates": "vild", "embeddings": None
    }  # fmt: skip
    assert len(resolve_templates(instantiate(config.name_embedder).templates)) == 63


@pytest.mark.parametrize(("family", "stem"), OPEN)
def test_distillation(family, stem):
    """Weight 0.5 on the sum over the width, at most 300 stored regions of a photo."""
    config = load(family, stem)
    heads, mapper = config.model.roi_heads, config.dataloader.train.mapper
    assert ("objectives" in heads) == (mapper.region_store is not None) == (plain(stem) in DISTILLED)
    assert ("image_branch" in heads) == (plain(stem) == "vild_ensemble")
    loss_weight = heads.box_predictor.get("loss_weight", 1.0)
    assert loss_weight == ({"loss_cls": 0.0, "loss_box_reg": 1.0} if stem == "vild_image" else 1.0)
    if plain(stem) not in DISTILLED:
        return
    (distillation,) = instantiate(heads.objectives)
    assert type(distillation) is L1Distillation
    student, teacher = torch.eye(512)[:2, None]
    assert distillation(RegionBatch(student, None, teacher))["loss_distill"] == pytest.approx(0.5 * 2)
    assert config.model.region_source._target_ is StoredRegions and mapper.max_regions == 300
    if "image_branch" in heads:
        branch = heads.image_branch
        assert branch.box_head == heads.box_head and (branch.in_features, branch.width) == (1024, 512)


@pytest.mark.parametrize(("family", "stem"), [(family, stem) for family in FAMILIES for stem in sorted(ASKS_TEACHER)])
def test_the_teacher_at_test_time(family, stem):
    """Crops of 1 and 1.5 times the box, class-agnostic NMS of 0.9 before; photos in their own size."""
    config = load(family, stem)
    node = config.model.roi_heads.region_teacher
    assert node.embed_regions.teacher.name == config.teacher.name
    node.embed_regions.teacher = None
    teacher = instantiate(node)
    assert teacher.embed_regions.scales == (1.0, 1.5) and teacher.nms_threshold == 0.9
    assert teacher.max_regions == {"vild_text_teacher": 300, "rcnn_style": 1000}[stem]
    assert config.dataloader.test.mapper.keep_original is True
    assert config.train.init_checkpoint == f"output/{family}/vild_text/model_final.pth"


@pytest.mark.parametrize(("family", "stem"), OPEN)
def test_crops_are_for_those_that_ask_the_teacher(family, stem):
    assert ("region_teacher" in load(family, stem).model.roi_heads) == (stem in ASKS_TEACHER)


@pytest.mark.parametrize(("family", "stem"), ALL)
def test_the_schedule(family, stem):
    """0.32 of batches of 256, warmed up over 1000 steps from 0.0032, x 0.1 at 0.9, 0.95 and 0.975 of the steps."""
    config = load(family, stem)
    steps = STEPS[family]
    assert config.train.max_iter == steps and config.dataloader.train.total_batch_size == 256
    drops = [round(share * steps) for share in (0.9, 0.95, 0.975)]
    asked = [0, 500, 1000, steps // 2, *(drop - 10 for drop in drops), *(drop + 10 for drop in drops), steps - 1]
    expected = [0.0032, 0.1616, 0.32, 0.32, 0.32, 0.032, 0.0032, 0.032, 0.0032, 0.00032, 0.00032]
    assert learning_rates(config, asked) == pytest.approx(expected)
    assert instantiate(config.train).clip_gradient_norm == 0


@pytest.mark.parametrize(("family", "stem"), ALL)
def test_the_optimizer(family, stem):
    """SGD with momentum 0.9; weights decay by 4e-5, biases and norms do not."""
    config = load(family, stem)
    config.optimizer.params.model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = instantiate(config.optimizer)
    assert type(optimizer) is torch.optim.SGD
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    conv, norm = config.optimizer.params.model
    assert [decays[id(p)] for p in (conv.weight, conv.bias, norm.weight, norm.bias)] == [4e-5, 0, 0, 0]
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.32, 0.9, False)


@pytest.mark.parametrize(("family", "stem"), ALL)
def test_photos(family, stem):
    """Flips, jitter of 0.1 to 2.0 and crops in training, all of 1024 x 1024."""
    config = load(family, stem)
    flip, resize, crop = map(instantiate, config.dataloader.train.mapper.augmentations)
    assert (flip.prob, flip.horizontal, flip.vertical) == (0.5, True, False)
    assert (resize.min_scale, resize.max_scale, resize.target_height, resize.target_width) == (0.1, 2.0, 1024, 1024)
    assert tuple(crop.crop_size) == (1024, 1024)
    (resize,) = map(instantiate, config.dataloader.test.mapper.augmentations)
    assert (resize.short_edge_length, resize.max_size) == ((1024, 1024), 1024)


@pytest.mark.parametrize(("family", "stem"), ALL)
def test_the_detector(family, stem):
    """Mask R-CNN on ResNet-50-FPN from scratch; 300 detections of a photo after NMS of 0.5."""
    config = load(family, stem)
    backbone, rpn, heads = config.model.backbone, config.model.proposal_generator, config.model.roi_heads
    assert backbone.bottom_up.stages.depth == 50 and backbone.bottom_up.freeze_at == 0
    assert backbone.norm == backbone.bottom_up.stem.norm == backbone.bottom_up.stages.norm == "SyncBN"
    anchors = rpn.anchor_generator
    assert [size for (size,) in anchors.sizes] == [8 * stride for stride in anchors.strides] == [32, 64, 128, 256, 512]
    assert anchors.aspect_ratios == [0.5, 1.0, 2.0] and len(rpn.head.conv_dims) == 2
    assert rpn.anchor_matcher.thresholds == [0.3, 0.7] and rpn.smooth_l1_beta == pytest.approx(1 / 9)
    assert (rpn.batch_size_per_image, rpn.positive_fraction) == (256, 0.5)
    assert (*rpn.pre_nms_topk, *rpn.post_nms_topk, rpn.nms_thresh) == (2000, 1000, 1000, 1000, 0.7)
    assert (heads.batch_size_per_image, heads.positive_fraction) == (512, 0.25)
    assert heads.proposal_matcher.thresholds == [0.5]
    assert (heads.box_head.conv_dims, heads.box_head.fc_dims) == ([256] * 4, [1024, 1024])
    assert (heads.box_pooler.output_size, heads.mask_pooler.output_size, heads.mask_head.num_classes) == (7, 14, 1)
    predictor = instantiate(heads.box_predictor)
    assert predictor.bbox_pred.out_features == 4  # for all classes together
    assert predictor.box2box_transform.weights == [10, 10, 5, 5] and predictor.smooth_l1_beta == 1.0
    assert (predictor.test_topk_per_image, predictor.test_nms_thresh) == (300, 0.5)


@pytest.mark.parametrize(("family", "stem"), FEDERATED)
def test_federated_numbers(family, stem):
    """Those of Detic (arXiv:2201.02605)."""
    predictor = load(family, stem).model.roi_heads.box_predictor
    assert (predictor.loss_classes, predictor.prior, predictor.class_weights.power) == (50, 0.01, 0.5)


LITE = {
    **FUSIONS,
    "vild_stored": TEXT,
    "vild_text_teacher": (GeometricScores, 0.85, 0.15, 0.3),  # more than the paper has, see foreground_fusion
}
OF_METHOD = {"box_predictor", "score_fusion", "objectives", "image_branch", "region_teacher", "background_names"}


def shared_parts(config: DictConfig) -> dict:
    """All that methods on small photos have in common, before interpolation."""
    whole = OmegaConf.to_container(config, resolve=False)
    model, train, loader = whole["model"], whole["train"], whole["dataloader"]
    heads = {key: value for key, value in model["roi_heads"].items() if key not in OF_METHOD}
    method = {key: loader["train"]["mapper"].pop(key) for key in ("region_store", "max_regions")}
    assert (method["region_store"] is None) == (whole["dataset"].pop("region_store", None) is None)
    del loader["test"]["mapper"]["keep_original"], train["output_dir"]
    if train["freeze"].endswith("roi_heads"):  # nothing is trained: it runs on vild_text's weights
        assert train["init_checkpoint"] == "output/lite/vild_text/model_final.pth" and train["init_parts"] == ""
        train.update(init_checkpoint="ovdet-lite-base48", init_parts="backbone,proposal_generator")
        train["freeze"] = "backbone,proposal_generator"
    model = {key: value for key, value in model.items() if key not in ("roi_heads", "region_source")}
    rest = {key: whole[key] for key in ("dataset", "teacher", "name_embedder", "optimizer", "lr_multiplier")}
    return {"model": model, "heads": heads, "train": train, "dataloader": loader, **rest}


@pytest.mark.parametrize("stem", sorted(LITE))
def test_methods_on_small_photos_differ_in_the_head_alone(stem):
    """Backbone, proposals, photos, schedule and seed are one; the fusion is the method's, the weight 0.2 for all."""
    config = load("lite", stem)
    assert shared_parts(config) == shared_parts(load("lite", "vild_text"))
    fusion, *exponents = fused(config)
    expected, *numbers = LITE[stem]
    assert fusion is expected and exponents == pytest.approx(numbers)
    heads = config.model.roi_heads
    weights = [each.weight for each in heads.get("objectives", [])]
    assert weights == ([0.2] if stem in DISTILLED | {"vild_stored"} else [])
    before = {"_target_", "width", "temperature", "test_score_thresh", "input_shape", "box2box_transform"}
    assert set(heads.box_predictor) - before == ({"loss_weight"} if stem == "vild_image" else set())
    assert (heads.box_predictor.temperature, heads.image_temperature) == (0.03, 0.1)


def test_the_closed_set_baseline_on_small_photos_sees_the_same():
    ours, theirs = (shared_parts(load("lite", stem)) for stem in ("closed_set", "vild_text"))
    for part in ("train", "dataloader", "dataset", "optimizer", "lr_multiplier"):
        assert ours[part] == theirs[part]
    for part in ("backbone", "proposal_generator", "pixel_mean", "pixel_std"):
        assert ours["model"][part] == theirs["model"][part]
    assert ours["heads"]["box_head"] == theirs["heads"]["box_head"]
