"""DetPro's ViLD-ensemble (arXiv:2203.14940): its parts as a config, and mmdetection's names of its published weights.

Its cascade is not here: three stages of ensembles and three mask heads, averaged.
"""

from __future__ import annotations

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from omegaconf import DictConfig
from torch import Tensor

from ovdet.hub.published.detic import CLIP_B32
from ovdet.hub.published.variant import Origin, Variant
from ovdet.modeling.box_predictor import OpenVocabBoxPredictor
from ovdet.modeling.box_transform import ClampedBoxTransform
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.embedding_heads import ImageBranch
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.modeling.score_fusion import GeometricScores
from ovdet.modeling.sync_batch_norm import sync_batch_norm

_TEMPERATURE = 0.007  # at test time; 0.01 in training


def detpro() -> DictConfig:
    """Mask R-CNN R50-FPN with an image branch of its own; scores are geometric means of both branches."""
    model = get_config("common/models/mask_rcnn_fpn.py").model
    model._target_ = OpenVocabRCNN
    norm = L(sync_batch_norm)()
    model.backbone.norm = model.backbone.bottom_up.stem.norm = model.backbone.bottom_up.stages.norm = norm
    model.proposal_generator.update(
        box2box_transform=L(ClampedBoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]), min_box_size=0.001
    )
    heads = model.roi_heads
    heads._target_ = OpenVocabROIHeads
    del heads.num_classes
    heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm=norm)
    heads.mask_head.num_classes = 1
    heads.image_branch = L(ImageBranch)(box_head=deepcopy(heads.box_head), in_features=1024, width=CLIP_B32.width)
    heads.image_temperature = _TEMPERATURE
    heads.box_predictor = L(OpenVocabBoxPredictor)(
        input_shape=L(ShapeSpec)(channels=1024),
        width=CLIP_B32.width,
        temperature=_TEMPERATURE,
        box2box_transform=L(ClampedBoxTransform)(weights=(10, 10, 5, 5)),
        test_score_thresh=0.0001,
        test_topk_per_image=300,
    )
    heads.score_fusion = L(GeometricScores)(base_exponent=2 / 3, novel_exponent=1 / 3, open_exponent=0.6)
    model.update(pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375], input_format="RGB")
    return model


def background(weight: Tensor, bias: Tensor) -> Tensor:
    """(D, 1), (D,), a layer on the number 1 -> (D,) what it gives; the classifier brings it to unit norm."""
    return weight[:, 0] + bias


def _renames() -> list[tuple[str, str]]:
    """mmdetection counts stages and levels from elsewhere."""
    renames = [(r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.bn1."), (r"\.bottom_up\.stem\.", ".")]
    for stage in range(2, 6):
        renames.append((rf"^backbone\.bottom_up\.res{stage}\.", f"backbone.layer{stage - 1}."))
        for ours, theirs in (("lateral", "lateral_convs"), ("output", "fpn_convs")):
            module = f"neck.{theirs}.{stage - 2}"
            renames.append((rf"^backbone\.fpn_{ours}{stage}\.norm\.", f"{module}.bn."))
            renames.append((rf"^backbone\.fpn_{ours}{stage}\.", f"{module}.conv."))
    renames += [
        (r"^(backbone\.layer.*)\.conv(\d)\.norm\.", r"\1.bn\2."),
        (r"\.shortcut\.norm\.", ".downsample.1."),
        (r"\.shortcut\.", ".downsample.0."),
        (r"^proposal_generator\.rpn_head\.conv\.", "rpn_head.rpn_conv."),
        (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn_head.rpn_cls."),
        (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn_head.rpn_reg."),
        (r"^roi_heads\.box_predictor\.projection\.linear\.", "roi_head.projection."),
        (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
        (r"^roi_heads\.image_branch\.projection\.linear\.", "roi_head.projection_for_image."),
        (r"^roi_heads\.mask_head\.deconv\.", "roi_head.mask_head.upsample."),
        (r"^roi_heads\.mask_head\.predictor\.", "roi_head.mask_head.conv_logits."),
    ]
    for number in range(1, 5):
        renames.append((rf"\.mask_head\.mask_fcn{number}\.", f".mask_head.convs.{number - 1}.conv."))
        for ours, theirs in (("", ""), ("image_branch.", "_for_image")):
            layer = rf"^roi_heads\.{ours}box_head\.conv{number}\."
            module = f"roi_head.bbox_head.shared_convs{theirs}.{number - 1}"
            renames += [(rf"{layer}norm\.", f"{module}.bn."), (layer, f"{module}.conv.")]
    renames += [
        (r"^roi_heads\.box_head\.fc1\.", "roi_head.bbox_head.shared_fcs.0."),
        (r"^roi_heads\.image_branch\.box_head\.fc1\.", "roi_head.bbox_head.shared_fcs_for_image.0."),
        (r"^roi_heads\.", "roi_head."),
    ]
    return renames


DETPRO = Variant(
    name="detpro",
    title="DetPro's ViLD-ensemble, Mask R-CNN R50-FPN on OV-LVIS",
    build_model=detpro,
    renames=_renames(),
    unused=r"roi_head\.clip_model\.",
    computed={
        "roi_heads.box_predictor.classifier.background": (
            ("roi_head.bg_embedding.weight", "roi_head.bg_embedding.bias"),
            background,
        )
    },
    space=CLIP_B32,
    origin=Origin(
        project="DetPro", source="https://github.com/dyabel/detpro", license="Apache-2.0", paper="arXiv:2203.14940"
    ),
)
