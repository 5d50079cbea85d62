"""RegionCLIP's detectors (arXiv:2112.09106): their parts as configs, and the names of their published weights."""

from __future__ import annotations

from functools import partial

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from omegaconf import DictConfig

from ovdet.hub.published.variant import Origin, Space, Variant
from ovdet.modeling.backbones.clip_resnet import ClipRegionHead, ClipResNetBackbone
from ovdet.modeling.box_predictor import OpenVocabBoxPredictor
from ovdet.modeling.box_regressors import ProposalsAsBoxes
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.embedding_heads import UnitNorm
from ovdet.modeling.offline_proposals import OfflineProposals
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.modeling.score_fusion import TextScores, TextTimesLogit
from ovdet.modeling.shared_stage_heads import SharedStageROIHeads
from ovdet.modeling.soft_nms import SoftNMS
from ovdet.modeling.sync_batch_norm import sync_batch_norm

CLIP_RN50 = Space("open_clip:RN50-quickgelu/openai", width=1024, templates="clip")
_ORIGIN = Origin(
    project="RegionCLIP",
    source="https://github.com/microsoft/RegionCLIP",
    license="Apache-2.0",
    paper="arXiv:2112.09106",
)
_CLIP_COLORS = dict(
    pixel_mean=[255 * mean for mean in (0.48145466, 0.4578275, 0.40821073)],
    pixel_std=[255 * std for std in (0.26862954, 0.26130258, 0.27577711)],
)


def regionclip(proposals: DictConfig, **heads) -> DictConfig:
    """CLIP's RN50 on proposals of another network: three stages as the backbone, the rest on each proposal.

    Args:
        proposals: a detector of detectron2 whose backbone and RPN propose.
        heads: of OpenVocabROIHeads, beside what is the same for all.
    """
    predictor = L(OpenVocabBoxPredictor)(
        input_shape=L(ShapeSpec)(channels=CLIP_RN50.width),
        width=CLIP_RN50.width,
        temperature=0.01,
        projection=L(UnitNorm)(),
        box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
        **heads.pop("predictor"),
    )
    return L(OpenVocabRCNN)(
        backbone=L(ClipResNetBackbone)(),
        proposal_generator=L(OfflineProposals)(
            backbone=proposals.backbone,
            proposal_generator=proposals.proposal_generator,
            pixel_mean=proposals.pixel_mean,
            pixel_std=proposals.pixel_std,
            detector_mean=_CLIP_COLORS["pixel_mean"],
            detector_std=_CLIP_COLORS["pixel_std"],
            swap_channels=True,
        ),
        roi_heads=L(OpenVocabROIHeads)(
            batch_size_per_image=512,
            positive_fraction=0.25,
            proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
            box_in_features=["res4"],
            box_pooler=L(ROIPooler)(output_size=14, scales=[1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2"),
            box_head=L(ClipRegionHead)(out_features=CLIP_RN50.width),
            box_predictor=predictor,
            **heads,
        ),
        **_CLIP_COLORS,
        input_format="RGB",
    )


def regionclip_zero_shot() -> DictConfig:
    """No training on boxes: proposals are the boxes, scores times the RPN's logits."""
    proposals = get_config("common/models/mask_rcnn_fpn.py").model
    proposals.proposal_generator.nms_thresh = 0.9
    return regionclip(
        proposals,
        predictor=dict(box_regressor=L(ProposalsAsBoxes)(), test_score_thresh=0.001, test_topk_per_image=100),
        score_fusion=L(TextTimesLogit)(objectness_exponent=0.5),
    )


def regionclip_ov_coco() -> DictConfig:
    """Fine-tuned on OV-COCO's base classes: boxes are refined, Soft-NMS."""
    return regionclip(
        get_config("common/models/mask_rcnn_c4.py").model,
        predictor=dict(test_score_thresh=0.001, test_topk_per_image=100),
        score_fusion=L(TextScores)(),
        soft_nms=L(SoftNMS)(sigma=0.5, min_score=0.001),
    )


def regionclip_ov_lvis() -> DictConfig:
    """Fine-tuned on OV-LVIS's base classes, with masks; proposals of a detector trained with large-scale jitter."""
    proposals = get_config("common/models/mask_rcnn_fpn.py").model
    norm = L(sync_batch_norm)()
    proposals.backbone.norm = proposals.backbone.bottom_up.stem.norm = proposals.backbone.bottom_up.stages.norm = norm
    proposals.proposal_generator.head.conv_dims = [-1, -1]
    model = regionclip(
        proposals,
        predictor=dict(test_score_thresh=0.02, test_topk_per_image=300),
        score_fusion=L(TextTimesLogit)(objectness_exponent=0.5),
        soft_nms=L(SoftNMS)(sigma=0.5, min_score=0.001),
    )
    pooler = model.roi_heads.box_pooler
    stage = L(ShapeSpec)(channels=2048, height=7, width=7)
    model.roi_heads.update(
        _target_=SharedStageROIHeads,
        mask_in_features=["res4"],
        mask_pooler=pooler,
        mask_head=L(MaskRCNNConvUpsampleHead)(input_shape=stage, num_classes=1, conv_dims=[256]),
    )
    return model


_variant = partial(
    Variant,
    renames=(
        (r"^proposal_generator\.(backbone|proposal_generator)\.", r"offline_\1."),
        (r"^roi_heads\.box_head\.", "backbone."),
    ),
    constants={"roi_heads.box_predictor.classifier.background": 0.0},
    space=CLIP_RN50,
    origin=_ORIGIN,
)
# class rows, CLIP's text encoder, the model that taught; other heads of the network that proposes
_UNUSED = "|".join(
    (
        r"roi_heads\.box_predictor\.(test_)?cls_(bg_)?score\.weight$",
        r"(lang_encoder|teacher_backbone|offline_roi_heads)\.",
    )
)

REGIONCLIP_ZERO_SHOT = _variant(
    name="regionclip-zero-shot",
    title="RegionCLIP RN50, zero-shot, proposals of an RPN on R50-FPN",
    build_model=regionclip_zero_shot,
    unused=rf"{_UNUSED}|roi_heads\.",
)
REGIONCLIP_OV_COCO = _variant(
    name="regionclip-ov-coco",
    title="RegionCLIP RN50 fine-tuned on OV-COCO, proposals of an RPN on R50-C4",
    build_model=regionclip_ov_coco,
    unused=_UNUSED,
)
REGIONCLIP_OV_LVIS = _variant(
    name="regionclip-ov-lvis",
    title="RegionCLIP RN50 fine-tuned on OV-LVIS, with masks, proposals of an RPN on R50-FPN",
    build_model=regionclip_ov_lvis,
    unused=_UNUSED,
)
