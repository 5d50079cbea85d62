"""Detic's detectors (arXiv:2201.02605): their parts as configs, and the names of their published weights."""

from __future__ import annotations

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.box_regression import Box2BoxTransform
from omegaconf import DictConfig

from ovdet.hub.published.variant import Origin, Space, Variant
from ovdet.modeling.box_predictor import FederatedBoxPredictor
from ovdet.modeling.box_regressors import TwoLayerBoxRegressor
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
# the class matrices of training, its class frequencies, and what captions were embedded with
_UNUSED = r"text_encoder\.|roi_heads\.box_predictor\.(\d\.)?(cls_score\.zs_weight|freq_weight)$"
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


DETIC_VILD = Variant(
    name="detic-vild",
    title="ViLD-style Mask R-CNN R50-FPN of the Detic project",
    build_model=detic_vild,
    renames=(
        (r"^roi_heads\.box_head\.", "roi_heads.box_head.0."),
        (r"^roi_heads\.box_predictor\.", "roi_heads.box_predictor.0."),
        (r"\.projection\.linear\.", ".cls_score.linear."),
    ),
    unused=_UNUSED,
    constants=_NO_BIAS,
    space=CLIP_B32,
    origin=_ORIGIN,
)
DETIC_OV_COCO = Variant(
    name="detic-ov-coco",
    title="Detic Faster R-CNN R50-C4 on OV-COCO",
    build_model=detic_ov_coco,
    renames=((r"\.box_head\.res5\.", ".res5."), (r"\.projection\.linear\.", ".cls_score.linear.")),
    unused=_UNUSED,
    constants=_NO_BIAS,
    space=CLIP_B32,
    origin=_ORIGIN,
)
