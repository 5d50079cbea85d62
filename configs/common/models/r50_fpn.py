"""ViLD-text on ResNet-50-FPN with masks, after the ViLD release (tensorflow/tpu, vild_config.py, vild_resnet.yaml).

Where detectron2's own parts differ from the release they stay as they are: no batch norm in the RPN's head and after
the fully connected layers, the RPN's box loss is smooth L1 over all sampled anchors, the score threshold is 1e-4, and
novel columns are left out of training instead of multiplied by 0. Stored regions of which less than half is left after
a crop are not distilled (the release keeps them), and LVIS's names are embedded without their synonyms
(datasets/README.md says how to have them).
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config

from ovdet.modeling.box_predictor import OpenVocabBoxPredictor
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.modeling.score_fusion import TextScores
from ovdet.modeling.sync_batch_norm import sync_batch_norm

# detectron2's Mask R-CNN; the anchors are 8 x stride, the RPN's thresholds 0.7 / 0.3, 512 regions at 25 % foreground
model = get_config("common/models/mask_rcnn_fpn.py").model
model._target_ = OpenVocabRCNN
# from scratch: synchronized batch norm everywhere, nothing frozen
model.backbone.norm = model.backbone.bottom_up.stem.norm = model.backbone.bottom_up.stages.norm = "SyncBN"
model.backbone.bottom_up.freeze_at = 0
model.backbone.bottom_up.stages.stride_in_1x1 = False
model.pixel_std = [57.375, 57.12, 58.395]
model.proposal_generator.head.conv_dims = [-1, -1]
model.proposal_generator.smooth_l1_beta = 1 / 9
model.proposal_generator.pre_nms_topk = (2000, 1000)

model.roi_heads._target_ = OpenVocabROIHeads
del model.roi_heads.num_classes
model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024, 1024], conv_norm=L(sync_batch_norm)())
model.roi_heads.mask_head.update(num_classes=1, conv_norm=L(sync_batch_norm)())
model.roi_heads.box_predictor = L(OpenVocabBoxPredictor)(
    input_shape=ShapeSpec(channels=1024),
    width="${teacher.width}",
    temperature=0.01,
    box2box_transform=model.roi_heads.box_predictor.box2box_transform,
    smooth_l1_beta=1.0,
    test_score_thresh=0.0001,
    test_topk_per_image=300,
)
model.roi_heads.score_fusion = L(TextScores)()
model.roi_heads.image_temperature = 0.01
