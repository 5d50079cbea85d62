"""Detic's detectors (arXiv:2201.02605): their parts as configs, and the names of their published weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from omegaconf import DictConfig

from ovdet.hub.published.variant import Origin, Space, Variant
from ovdet.modeling.backbones.swin import SwinBackbone
from ovdet.modeling.backbones.timm_backbone import TimmBackbone
from ovdet.modeling.box_predictor import FederatedBoxPredictor
from ovdet.modeling.box_regressors import TwoLayerBoxRegressor
from ovdet.modeling.cascade_heads import CascadeOpenVocabROIHeads
from ovdet.modeling.centernet import CenterNetHead, CenterNetProposals
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.res5_head import Res5BoxHead
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.modeling.score_fusion import TextScores
from ovdet.modeling.sync_batch_norm import sync_batch_norm

CLIP_B32 = Space("open_clip:ViT-B-32-quickgelu/openai", width=512, templates="a")
_ORIGIN = Origin(
    project="Detic",
    source="https://github.com/facebookresearch/Detic",
    license="Apache-2.0",
    paper="arXiv:2201.02605",
)
_UNUSED = "|".join(
    (
        r"text_encoder\.",  # of captions
        r"backbone\.bottom_up\.base\.(fc|head)\.",  # ImageNet's classifier
        r".*\.relative_position_index$",  # Swin's, computed here
        r"roi_heads\.box_predictor\.(\d\.)?(cls_score\.zs_weight|freq_weight)$",  # training's class matrix, frequencies
    )
)
_STRIDES = ("stride8", "stride16", "stride32")
_NO_BIAS = {"roi_heads.box_predictor.classifier.bias": 0.0}


def _box_predictor(in_features: int, *, weights: tuple[float, ...] = (10, 10, 5, 5), **test_options) -> DictConfig:
    """Sigmoid scores of cosines times 50, class-agnostic boxes by two layers; trains with the federated loss."""
    return L(FederatedBoxPredictor)(
        input_shape=L(ShapeSpec)(channels=in_features),
        width=CLIP_B32.width,
        class_weights=None,
        temperature=0.02,
        box_regressor=L(TwoLayerBoxRegressor)(in_features=in_features),
        box2box_transform=L(Box2BoxTransform)(weights=weights),
        **test_options,
    )


def detic_vild() -> DictConfig:
    """Detic's ViLD-style baseline: Mask R-CNN R50-FPN from scratch, one box head of four convolutions."""
    model = get_config("common/models/mask_rcnn_fpn.py").model
    model._target_ = OpenVocabRCNN
    norm = L(sync_batch_norm)()
    model.backbone.norm = model.backbone.bottom_up.stem.norm = model.backbone.bottom_up.stages.norm = norm
    model.backbone.bottom_up.freeze_at = 0
    model.proposal_generator.head.conv_dims = [-1, -1]
    heads = model.roi_heads
    heads._target_ = OpenVocabROIHeads
    del heads.num_classes
    heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm=norm)
    heads.mask_head.update(num_classes=1, conv_norm=norm)
    heads.box_predictor = _box_predictor(1024, test_score_thresh=0.0001, test_topk_per_image=300)
    heads.score_fusion = L(TextScores)()
    return model


def detic_ov_coco() -> DictConfig:
    """Detic on OV-COCO: Faster R-CNN on ResNet-50's stride 16 ("C4"), its last stage on each region."""
    model = get_config("common/models/mask_rcnn_c4.py").model
    model._target_ = OpenVocabRCNN
    pooler, matcher = model.roi_heads.pooler, model.roi_heads.proposal_matcher
    model.roi_heads = L(OpenVocabROIHeads)(
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=matcher,
        box_in_features=["res4"],
        box_pooler=pooler,
        box_head=L(Res5BoxHead)(),
        box_predictor=_box_predictor(2048, test_score_thresh=0.05, test_topk_per_image=100),
        score_fusion=L(TextScores)(),
    )
    return model


def detic_c2(bottom_up: DictConfig, in_features: Sequence[str]) -> DictConfig:
    """Detic's main detector: CenterNet's heat maps propose, a cascade of three heads classifies; with masks.

    Args:
        bottom_up: backbone with maps of strides 8, 16 and 32.
        in_features: their names.
    """
    levels = ["p3", "p4", "p5"]
    pooling = dict(scales=[1 / 8, 1 / 16, 1 / 32], sampling_ratio=0, pooler_type="ROIAlignV2")
    box_head = L(FastRCNNConvFCHead)(
        input_shape=L(ShapeSpec)(channels=256, height=7, width=7), conv_dims=[], fc_dims=[1024, 1024]
    )
    tests = dict(test_score_thresh=0.02, test_topk_per_image=300)
    matchers = [L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.6, 0.7, 0.8)]
    return L(OpenVocabRCNN)(
        backbone=L(FPN)(
            bottom_up=bottom_up,
            in_features=list(in_features),
            out_channels=256,
            top_block=L(LastLevelP6P7)(in_channels=256, out_channels=256, in_feature="p5"),
        ),
        proposal_generator=L(CenterNetProposals)(
            head=L(CenterNetHead)(in_channels=256, num_levels=5),
            in_features=[*levels, "p6", "p7"],
            strides=[8, 16, 32, 64, 128],
        ),
        roi_heads=L(CascadeOpenVocabROIHeads)(
            batch_size_per_image=512,
            positive_fraction=0.25,
            proposal_matcher=matchers[0],
            later_matchers=matchers[1:],
            box_in_features=levels,
            box_pooler=L(ROIPooler)(output_size=7, **pooling),
            earlier_heads=[box_head, deepcopy(box_head)],
            box_head=deepcopy(box_head),
            earlier_predictors=[
                _box_predictor(1024, weights=(10, 10, 5, 5), **tests),
                _box_predictor(1024, weights=(20, 20, 10, 10), **tests),
            ],
            box_predictor=_box_predictor(1024, weights=(30, 30, 15, 15), **tests),
            mask_in_features=levels,
            mask_pooler=L(ROIPooler)(output_size=14, **pooling),
            mask_head=L(MaskRCNNConvUpsampleHead)(
                input_shape=L(ShapeSpec)(channels=256, height=14, width=14), num_classes=1, conv_dims=[256] * 5
            ),
            score_fusion=L(TextScores)(objectness_exponent=0.5),
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        input_format="RGB",
    )


def detic_timm(name: str) -> DictConfig:
    """`detic_c2` on a backbone of timm."""
    return detic_c2(L(TimmBackbone)(name=name, out_indices=(1, 2, 3) if "convnext" in name else (2, 3, 4)), _STRIDES)


def detic_swin_b() -> DictConfig:
    """`detic_c2` on Swin-B with windows of 7."""
    return detic_c2(L(SwinBackbone)(), _STRIDES)


_variant = partial(Variant, unused=_UNUSED, constants=_NO_BIAS, space=CLIP_B32, origin=_ORIGIN)

DETIC_VILD = _variant(
    name="detic-vild",
    title="ViLD-style Mask R-CNN R50-FPN of the Detic project",
    build_model=detic_vild,
    renames=(
        (r"^roi_heads\.box_head\.", "roi_heads.box_head.0."),
        (r"^roi_heads\.box_predictor\.", "roi_heads.box_predictor.0."),
        (r"\.projection\.linear\.", ".cls_score.linear."),
    ),
)
DETIC_OV_COCO = _variant(
    name="detic-ov-coco",
    title="Detic Faster R-CNN R50-C4 on OV-COCO",
    build_model=detic_ov_coco,
    renames=((r"\.box_head\.res5\.", ".res5."), (r"\.projection\.linear\.", ".cls_score.linear.")),
)


def _c2_variant(backbone: str, title: str, build_model: Callable[[], DictConfig]) -> Variant:
    return _variant(
        name=f"detic-{backbone}",
        title=f"Detic (CenterNet2 proposals, cascade) on {title}",
        build_model=build_model,
        renames=(
            (r"\.bottom_up\.body\.", ".bottom_up.base."),
            (r"^proposal_generator\.head\.", "proposal_generator.centernet_head."),
            (r"\.tower\.", ".bbox_tower."),
            (r"\.heatmap\.", ".agn_hm."),
            (r"\.distances\.", ".bbox_pred."),
            (r"\.scales\.(\d)$", r".scales.\1.scale"),
            (r"^roi_heads\.box_(head|predictor)\.", r"roi_heads.box_\1.2."),
            (r"^roi_heads\.earlier_(head|predictor)s\.", r"roi_heads.box_\1."),
            (r"\.projection\.linear\.", ".cls_score.linear."),
        ),
        constants={**_NO_BIAS, **{f"roi_heads.earlier_predictors.{k}.classifier.bias": 0.0 for k in (0, 1)}},
    )


DETIC_R50 = _c2_variant("r50", "ResNet-50", partial(detic_timm, "resnet50"))
DETIC_R18 = _c2_variant("r18", "ResNet-18", partial(detic_timm, "resnet18"))
DETIC_CONVNEXT = _c2_variant("convnext-t", "ConvNeXt-T", partial(detic_timm, "convnext_tiny"))
DETIC_SWIN_B = _c2_variant("swin-b", "Swin-B", detic_swin_b)
