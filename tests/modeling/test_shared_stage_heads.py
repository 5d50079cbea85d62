"""Masks off the box head's stage: against the operations one by one, without regions, with their gradient."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import roi_align

from ovdet.modeling.res5_head import Res5BoxHead
from ovdet.modeling.shared_stage_heads import SharedStageROIHeads

BOXES = torch.tensor([[4.0, 8, 60, 50], [10, 0, 30, 62]])


@pytest.fixture
def heads():
    stage = ShapeSpec(channels=32, height=7, width=7)
    return SimpleNamespace(
        mask_on=True,
        training=False,
        num_classes=2**31,
        mask_in_features=["res4"],
        mask_pooler=ROIPooler(output_size=14, scales=[1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2"),
        box_head=Res5BoxHead(in_channels=16, out_channels=32, num_blocks=1).eval(),
        mask_head=MaskRCNNConvUpsampleHead(stage, num_classes=1, conv_dims=[8]).eval(),
    )


def found(boxes):
    each = Instances((64, 64))
    each.pred_boxes, each.pred_classes = Boxes(boxes), torch.zeros(len(boxes), dtype=torch.long)
    return each


def masks(heads, maps, boxes):
    (each,) = SharedStageROIHeads._forward_mask(heads, {"res4": maps}, [found(boxes)])
    return each.pred_masks


@torch.no_grad()
def test_they_are_the_operations_one_by_one(heads):
    maps, head = torch.randn(1, 16, 4, 4), heads.mask_head
    pooled = roi_align(maps, [BOXES], 14, 1 / 16, -1, aligned=True)
    logits = F.conv_transpose2d(heads.box_head.res5(pooled), head.deconv.weight, head.deconv.bias, stride=2).relu()
    expected = F.conv2d(logits, head.predictor.weight, head.predictor.bias).sigmoid()
    torch.testing.assert_close(masks(heads, maps, BOXES), expected, atol=1e-5, rtol=1e-4)
    assert masks(heads, maps, BOXES[:0]).shape == (0, 1, 14, 14)


def test_without_masks_nothing_is_done(heads):
    heads.mask_on, each = False, found(BOXES)
    assert SharedStageROIHeads._forward_mask(heads, {}, [each]) == [each] and not each.has("pred_masks")


def test_the_loss_reaches_the_stage_and_the_map(heads):
    heads.training, heads.mask_head.training = True, True
    maps, each = torch.randn(1, 16, 4, 4, requires_grad=True), Instances((64, 64))
    each.proposal_boxes, each.gt_classes = Boxes(BOXES), torch.tensor([0, heads.num_classes])  # one is background
    each.gt_masks = BitMasks(torch.rand(2, 64, 64) > 0.5)
    heads.box_head.train()
    with EventStorage():
        loss = SharedStageROIHeads._forward_mask(heads, {"res4": maps}, [each])["loss_mask"]
    loss.backward()
    weight = heads.box_head.res5[0].conv2.weight
    assert maps.grad.abs().sum() > 0 and weight.grad is not None and weight.grad.abs().sum() > 0
