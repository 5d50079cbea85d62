"""DetPro's ViLD-ensemble against an independent computation of mmdetection's formulas, in NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate

from ovdet.errors import InputError
from ovdet.hub.published.convert import find_variant
from ovdet.hub.published.detpro import DETPRO, background, detpro
from ovdet.modeling.score_fusion import RegionTerms
from ovdet.modeling.scoring import SoftmaxBranch


@pytest.fixture(scope="module")
def config():
    return detpro()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


STDS = [("proposal_generator", (1, 1, 1, 1)), ("box_predictor", (0.1, 0.1, 0.2, 0.2))]


@pytest.mark.parametrize(("part", "stds"), STDS)
def test_boxes_are_decoded_as_in_mmdetection(config, part, stds):
    node = config.proposal_generator if part == "proposal_generator" else config.roi_heads.box_predictor
    random = np.random.default_rng(0)
    boxes = random.uniform(0, 300, (200, 2))
    boxes = np.concatenate([boxes, boxes + random.uniform(1, 200, (200, 2))], axis=1)
    deltas = random.normal(0, 3, (200, 4)) / np.array(stds)  # beyond the clamp on both sides
    dx, dy, dw, dh = (deltas * np.array(stds)).T
    most = abs(np.log(16 / 1000))
    dw, dh = np.clip(dw, -most, most), np.clip(dh, -most, most)
    sizes, centers = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    center = centers + sizes * np.stack([dx, dy], axis=1)
    half = sizes * np.exp(np.stack([dw, dh], axis=1)) / 2
    expected = np.concatenate([center - half, center + half], axis=1)
    found = instantiate(node.box2box_transform).apply_deltas(torch.from_numpy(deltas), torch.from_numpy(boxes))
    assert np.allclose(found.numpy(), expected, rtol=1e-4, atol=1e-2)
    assert (np.abs(deltas * np.array(stds))[:, 2:] > most).mean() > 0.1
    assert instantiate(node.box2box_transform).apply_deltas(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_anchors_are_those_of_mmdetection(config):
    """Scale 8 on strides 4 to 64, ratios of height to width, centers at multiples of it; ratios vary fastest."""
    generator = instantiate(config.proposal_generator.anchor_generator)
    strides = (4, 8, 16, 32, 64)
    maps = [torch.zeros(1, 1, 3, 5) for _ in strides]
    for stride, anchors in zip(strides, generator(maps), strict=True):
        expected = []
        for y in range(3):
            for x in range(5):
                for ratio in (0.5, 1.0, 2.0):
                    width, height = 8 * stride / np.sqrt(ratio), 8 * stride * np.sqrt(ratio)
                    center = x * stride, y * stride
                    expected.append([center[0] - width / 2, center[1] - height / 2,
                                     center[0] + width / 2, center[1] + height / 2])  # fmt: skip
        assert np.allclose(anchors.tensor.numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("known", [True, False], ids=["base and novel", "one exponent"])
def test_scores_are_geometric_means_of_two_softmaxes(config, known):
    heads = config.roi_heads
    torch.manual_seed(0)
    common = torch.randn(512)  # so that cosines are as high as CLIP's
    regions, others, rows = (F.normalize(common + torch.randn(number, 512) / 2, dim=1) for number in (6, 6, 9))
    weight, bias = torch.randn(512, 1), torch.randn(512)
    classifier = instantiate(heads.box_predictor).classifier
    classifier.background.data = background(weight, bias)
    text = classifier.branch(regions).log_probabilities(rows)[0]
    image = SoftmaxBranch(others / heads.image_temperature).log_probabilities(rows)[0]
    is_base = torch.arange(9) < 5
    fused = instantiate(heads.score_fusion)(text, image, RegionTerms(torch.zeros(6, 1)), is_base if known else None)

    f_t, f_i, t = regions.numpy(), others.numpy(), rows.numpy()
    nothing = (weight[:, 0] + bias).numpy()
    with_background = np.concatenate([t, [nothing / np.linalg.norm(nothing)]])
    p_t = softmax(f_t @ with_background.T / 0.007)[:, :-1]
    masked = np.concatenate([f_i @ t.T / 0.007, np.full((6, 1), -1e11)], axis=1)
    p_i = softmax(masked)[:, :-1]
    exponent = np.where(is_base.numpy(), 2 / 3, 1 / 3) if known else 0.6
    expected = p_t**exponent * p_i ** (1 - exponent)
    assert np.allclose(fused.detach().exp().numpy(), expected, rtol=2e-3, atol=1e-6)


def test_photos_and_thresholds(config):
    assert config.input_format == "RGB" and DETPRO.short_edge_length == 800 and DETPRO.max_size == 1333
    assert list(config.pixel_mean) == [123.675, 116.28, 103.53] and list(config.pixel_std) == [58.395, 57.12, 57.375]
    assert config.backbone.bottom_up.stages.stride_in_1x1 is True
    predictor, rpn = config.roi_heads.box_predictor, config.proposal_generator
    assert (predictor.test_score_thresh, predictor.test_topk_per_image) == (0.0001, 300)
    assert (rpn.nms_thresh, rpn.pre_nms_topk[1], rpn.post_nms_topk[1]) == (0.7, 1000, 1000)


@pytest.mark.slow
def test_every_weight_is_used_or_named(rules):
    stored = {}
    for name in ("mask_rcnn_keys", "cascade_keys"):
        keys = json.loads((rules.folder / "detpro" / f"{name}.json").read_text())
        stored[name] = {key: tuple(spec["shape"]) for key, spec in keys.items()}
    assert find_variant(stored["mask_rcnn_keys"], "a file") is DETPRO
    with_clip = stored["mask_rcnn_keys"] | {"roi_head.clip_model.logit_scale": ()}
    assert find_variant(with_clip, "a file", family="detpro") is DETPRO
    with pytest.raises(InputError, match=r"detpro, a file lacks roi_head\.bbox_head\.shared_convs"):
        find_variant(stored["cascade_keys"], "a file", family="detpro")
    without = {key: shape for key, shape in with_clip.items() if key != "roi_head.bg_embedding.bias"}
    with pytest.raises(InputError, match=r"lacks roi_head\.bg_embedding\.bias"):
        find_variant(without, "a file")


def test_each_weight_lies_where_it_says():
    """Names and values of some, through the whole converter."""
    pairs = enumerate(DETPRO.sources.items())
    stored = {source: torch.full(DETPRO.shapes[key], float(number)) for number, (key, source) in pairs}
    stored |= {"roi_head.bg_embedding.weight": torch.ones(512, 1), "roi_head.bg_embedding.bias": torch.ones(512)}
    state = DETPRO.state(stored)
    for key, source in {
        "backbone.bottom_up.stem.conv1.norm.weight": "backbone.bn1.weight",
        "backbone.bottom_up.res3.0.conv2.weight": "backbone.layer2.0.conv2.weight",
        "backbone.bottom_up.res5.0.shortcut.norm.bias": "backbone.layer4.0.downsample.1.bias",
        "backbone.fpn_lateral2.weight": "neck.lateral_convs.0.conv.weight",
        "backbone.fpn_output5.norm.running_var": "neck.fpn_convs.3.bn.running_var",
        "proposal_generator.rpn_head.anchor_deltas.bias": "rpn_head.rpn_reg.bias",
        "roi_heads.box_head.conv1.norm.weight": "roi_head.bbox_head.shared_convs.0.bn.weight",
        "roi_heads.image_branch.box_head.fc1.weight": "roi_head.bbox_head.shared_fcs_for_image.0.weight",
        "roi_heads.mask_head.mask_fcn4.weight": "roi_head.mask_head.convs.3.conv.weight",
    }.items():
        assert torch.equal(state[key], stored[source]), key
    assert torch.equal(state["roi_heads.box_predictor.classifier.background"], torch.full((512,), 2.0))
