"""ViLD-text on a frozen EfficientNet-Lite0 + FPN-128, ImageNet weights from the package index: for small photos.

Frozen, the backbone keeps what ImageNet taught it of other classes than the 48 base ones, and a step costs half.
The finest level (stride 4) is left out: it would cost more than all others together.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from ovdet.imagenet_lite import load_efficientnet_lite_weights
from ovdet.modeling.backbones.fpn import FPNWithBackboneFeatures
from ovdet.modeling.backbones.timm_backbone import TimmBackbone
from ovdet.modeling.box_predictor import OpenVocabBoxPredictor
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.region_pooler import RegionPooler
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.modeling.score_fusion import TextScores

model = L(OpenVocabRCNN)(
    backbone=L(FPNWithBackboneFeatures)(
        bottom_up=L(TimmBackbone)(
            name="tf_efficientnet_lite0",
            weights=L(load_efficientnet_lite_weights)(variant=0),
            out_indices=(2, 3, 4),
            freeze_stages=8,
            folded_norm=True,
        ),
        in_features=["stride8", "stride16", "stride32"],
        out_channels=128,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RPN)(
        in_features=["p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=128, num_anchors=6),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[16, 28], [48, 80], [128, 192], [272, 384]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=128,
        positive_fraction=0.5,
        pre_nms_topk=(1000, 500),
        post_nms_topk=(500, 200),
        nms_thresh=0.7,
    ),
    roi_heads=L(OpenVocabROIHeads)(
        batch_size_per_image=64,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=["p3", "p4", "p5"],
        box_pooler=L(RegionPooler)(
            output_size=7, scales=(1 / 8, 1 / 16, 1 / 32), sampling_ratio=2, canonical_box_size=112
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=128, height=7, width=7), conv_dims=[], fc_dims=[768, 768]
        ),
        box_predictor=L(OpenVocabBoxPredictor)(
            input_shape=ShapeSpec(channels=768),
            width="${teacher.width}",
            temperature=0.03,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            test_score_thresh=1e-4,
        ),
        score_fusion=L(TextScores)(),
        image_temperature=0.1,
    ),
    # EfficientNet-Lite's (x / 255 - 0.498) / 0.502; its weights want RGB
    pixel_mean=[126.99, 126.99, 126.99],
    pixel_std=[128.01, 128.01, 128.01],
    input_format="RGB",
)
