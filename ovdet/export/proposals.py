"""Proposal generators as steps of a graph, which does not ask how many boxes are left.

Shape letters: A anchors or locations of one level; R proposals.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn
from torchvision.ops import nms

from ovdet.errors import InputError
from ovdet.modeling.centernet import CenterNetProposals, boxes_at, grid_locations, logit_of_log
from ovdet.modeling.nms import apart, at_least_one, clip


def check_proposals(generator: nn.Module) -> None:
    """Refuse a generator that is no graph.

    Raises:
        InputError: it is none.
    """
    if not isinstance(generator, (RPN, CenterNetProposals)):
        raise InputError(
            f"expected a detector whose proposals are an RPN's or CenterNet's, got {type(generator).__name__}, "
            "which does not export"
        )


def propose(generator: nn.Module, features: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Proposals of one photo.

    Args:
        generator: see `check_proposals`.
        features: maps (1, C, H / stride, W / stride) by name.
        size: (height, width) of the photo.

    Returns:
        Boxes (R, 4) XYXY, objectness logits (R,), best first.
    """
    maps = [features[name] for name in generator.in_features]
    if isinstance(generator, CenterNetProposals):
        return _propose_centers(generator, maps)
    return _propose_anchors(generator, maps, size)


def _propose_anchors(rpn: RPN, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    boxes, scores, levels = [], [], []
    for anchors, logits, deltas in zip(rpn.anchor_generator(maps), *rpn.rpn_head(maps), strict=True):
        logits = logits.permute(0, 2, 3, 1).flatten()  # (A,)
        deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(-1, 4)  # (A, 4)
        best, index = logits.topk(torch.sym_min(logits.shape[0], rpn.pre_nms_topk[False]))
        boxes.append(rpn.box2box_transform.apply_deltas(deltas[index], anchors.tensor[index]))
        scores.append(best)
        levels.append(torch.full_like(index, len(levels)))
    boxes, scores, levels = clip(torch.cat(boxes), size), torch.cat(scores), torch.cat(levels)
    has_area = (boxes[:, 2:] - boxes[:, :2] > rpn.min_box_size).all(dim=1)  # false of NaN too
    index = (has_area & scores.isfinite()).nonzero().squeeze(1)
    boxes, scores, levels = boxes[index], scores[index], levels[index]
    keep = at_least_one(nms(apart(boxes, levels), scores, rpn.nms_thresh)[: rpn.post_nms_topk[False]])
    return boxes[keep], scores[keep]


def _propose_centers(generator: CenterNetProposals, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    boxes, logits = [], []
    for level, distances, stride in zip(*generator.head(maps), generator.strides, strict=True):
        grid = grid_locations(level.shape[2], level.shape[3], stride, level.device)
        best, index = level.flatten().topk(torch.sym_min(grid.shape[0], generator.pre_nms_topk[False]))
        extents = distances[0].permute(1, 2, 0).reshape(-1, 4) * stride
        boxes.append(boxes_at(grid[index], extents[index]))
        logits.append(best)
    boxes, logits = torch.cat(boxes), torch.cat(logits)
    index = (logits.sigmoid() > generator.score_threshold).nonzero().squeeze(1)
    boxes, log_scores = boxes[index], F.logsigmoid(logits[index]) / 2
    keep = at_least_one(nms(boxes, log_scores.exp(), generator.nms_threshold)[: generator.post_nms_topk[False]])
    return boxes[keep], logit_of_log(log_scores[keep])
