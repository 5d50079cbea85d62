"""Additions of other papers to ViLD, as small changes of one model: for few photos and short schedules."""

from collections.abc import Sequence
from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling.matcher import Matcher
from omegaconf import DictConfig

from ovdet.device import choose_device
from ovdet.inference.everyday_words import same_or_narrower
from ovdet.modeling.adaptive_rpn import AdaptiveRPN
from ovdet.modeling.backbones.nanodet import NanoDetBackbone
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.cascade_heads import CascadeOpenVocabROIHeads
from ovdet.modeling.centernet import CenterNetHead, CenterNetProposals
from ovdet.modeling.embedding_heads import FrozenBackboneBranch
from ovdet.modeling.expert import ClosedSetExpert
from ovdet.modeling.iou_head import IoUHead
from ovdet.modeling.localization_rpn import LocalizationRPN
from ovdet.modeling.nanodet_weights import load_nanodet_backbone, load_nanodet_expert
from ovdet.modeling.region_sources import OnlineRegions
from ovdet.modeling.score_fusion import GeometricScores, TextScores
from ovdet.teachers.conse import load_conse_background_names, load_conse_head
from ovdet.teachers.roi_features import EnsembleEmbedder, RoIFeatureEmbedder


def frozen_backbone_branch(model: DictConfig, *, trained: bool = False) -> DictConfig:
    """The image side as the frozen backbone's own classifier on each region (F-VLM, arXiv:2209.15639).

    For EfficientNet-Lite below and `conse` as the teacher.

    Args:
        model: with `backbone` a FPNWithBackboneFeatures.
        trained: whether distillation trains that classifier.
    """
    weights = L(load_conse_head)(variant=0)
    model.roi_heads.image_branch = L(FrozenBackboneBranch)(
        in_feature="stride32", stride=32, width="${teacher.width}", weights=weights, trained=trained
    )
    return model


def roi_feature_regions(model: DictConfig, *, max_regions: int = 64) -> DictConfig:
    """The teacher looks at the step's own photos as a whole instead of at crops; for `conse`.

    Args:
        model: with a distillation loss.
        max_regions: of a photo.
    """
    teacher = L(RoIFeatureEmbedder)(short_sides=None, device=L(choose_device)(name="${train.device}"))
    model.region_source = L(OnlineRegions)(embed_crops=teacher, max_regions=max_regions)
    return model


def ensemble_of_crops_and_roi_features(model: DictConfig) -> DictConfig:
    """The teacher at test time looks at each region in both ways; for `conse`.

    Args:
        model: with the teacher on crops.
    """
    in_photo = L(RoIFeatureEmbedder)(device=L(choose_device)(name="${train.device}"))
    teacher = model.roi_heads.region_teacher
    teacher.embed_regions = L(EnsembleEmbedder)(views=[teacher.embed_regions, in_photo])
    return model


def background_names(model: DictConfig) -> DictConfig:
    """A region that looks more like something else than like any asked name scores low; for `conse`."""
    model.roi_heads.background_names = L(BackgroundNames)(
        width="${teacher.width}", weights=L(load_conse_background_names)()
    )
    return model


def closed_set_expert(model: DictConfig, folder: str) -> DictConfig:
    """A small frozen detector of COCO's 80 classes has a say in them at test time: NanoDet-Plus-m.

    Args:
        model: with `backbone` a FPNWithBackboneFeatures, of RGB photos.
        folder: coco.param and coco.bin, ncnn's files of its weights.
    """
    files = dict(param=f"{folder}/coco.param", weights=f"{folder}/coco.bin")
    scale = dict(mean="${model.pixel_mean}", std="${model.pixel_std}")
    classes = [each["name"] for each in COCO_CATEGORIES if each["isthing"]]
    names = ["; ".join([name, *same_or_narrower(name)]) for name in classes]
    model.backbone.beside = L(NanoDetBackbone)(weights=L(load_nanodet_backbone)(**files, **scale))
    weights = L(load_nanodet_expert)(**files, names="${..names}", embed_names="${name_embedder}")
    model.roi_heads.expert = L(ClosedSetExpert)(names=names, width="${teacher.width}", weights=weights)
    return model


def iou_head(model: DictConfig) -> DictConfig:
    """Boxes are ranked by how well they fit, too (OLN, arXiv:2108.06753)."""
    model.roi_heads.iou_head = L(IoUHead)(in_features=model.roi_heads.box_head.fc_dims[-1])
    return model


def objectness_by_localization(model: DictConfig) -> DictConfig:
    """Proposals are ranked by how well their place fits an object; no anchor is background (OLN, arXiv:2108.06753)."""
    model.proposal_generator._target_ = LocalizationRPN
    matcher = L(Matcher)(thresholds=[0.3], labels=[-1, 1], allow_low_quality_matches=True)
    model.proposal_generator.update(anchor_matcher=matcher, positive_fraction=1.0)
    return model


def adaptive_anchors(model: DictConfig) -> DictConfig:
    """Anchors are foreground by the statistics of each object's nearest ones (ATSS, arXiv:1912.02424)."""
    model.proposal_generator._target_ = AdaptiveRPN
    return model


def second_box_pass(model: DictConfig) -> DictConfig:
    """At test time the refined boxes are refined once more, and named as they are then."""
    model.roi_heads.box_passes = 2
    return model


def soft_nms_sigma(model: DictConfig) -> DictConfig:
    """Boxes that overlap with better ones of their name score lower (Soft-NMS's Gaussian, arXiv:1704.04503)."""
    model.roi_heads.soft_nms_sigma = 0.5
    return model


def foreground_fusion(model: DictConfig) -> DictConfig:
    """Scores of novel names with 1 - background of the text branch, and with the box's area.

    The text branch of a short schedule knows little of a novel name, but still that there is a thing. What it takes for
    one is often a part of something else where the box is small, so that large boxes come first.
    """
    model.roi_heads.score_fusion = L(GeometricScores)(
        base_exponent=0.85, novel_exponent=0.15, foreground_exponent=0.35, area_exponent=0.2, objectness_exponent=0.3
    )
    return model


def centernet_proposals(model: DictConfig, *, in_features: Sequence[str], strides: Sequence[int]) -> DictConfig:
    """Heat maps of object centers propose in the place of anchors (CenterNet2, arXiv:2103.07461).

    Args:
        model: with a pyramid as its backbone.
        in_features: the pyramid's maps.
        strides: of these; a level's objects have half diagonals of 4 to 10 strides, the first one's and the last one's
            are smaller and larger too.
    """
    sizes = [[4 * stride, 10 * stride] for stride in strides]
    sizes[0][0], sizes[-1][1] = 0, 10_000
    model.proposal_generator = L(CenterNetProposals)(
        head=L(CenterNetHead)(in_channels=model.backbone.out_channels, num_levels=len(strides)),
        in_features=list(in_features),
        strides=list(strides),
        sizes=sizes,
    )
    return model


def cascade(model: DictConfig) -> DictConfig:
    """Three heads, each on the boxes of the one before (arXiv:1712.00726), and the proposal's score (Detic).

    Args:
        model: with sigmoid scores, see federated.py.
    """
    heads = model.roi_heads
    stages = [deepcopy(heads.box_predictor) for _ in range(3)]
    for stage, predictor in enumerate(stages, start=1):
        predictor.box2box_transform.weights = [10 * stage, 10 * stage, 5 * stage, 5 * stage]
    matchers = [L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.6, 0.7, 0.8)]
    heads._target_ = CascadeOpenVocabROIHeads
    heads.earlier_heads = [deepcopy(heads.box_head), deepcopy(heads.box_head)]
    heads.earlier_predictors, heads.box_predictor = stages[:2], stages[2]
    heads.proposal_matcher, heads.later_matchers = matchers[0], matchers[1:]
    heads.score_fusion = L(TextScores)(objectness_exponent=0.5)
    return model
