"""CenterNet's one-class head as a proposal generator: a heat map of object centers and the distances to their sides.

The first stage of CenterNet2 (arXiv:2103.07461) as Detic uses it. A location is learned as a positive where the center
of an object lies in it, on the levels that the object's size belongs to; others are held against the head the less, the
nearer they are to a center (a Gaussian, arXiv:1904.07850). Boxes are learned in the 3 x 3 locations around centers.

Shape letters: N images, L levels, C channels, H, W of a level's map; P locations of all levels of an image; G objects
and R proposals of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, nms

from ovdet.packable import packable

_MIN_SIDE = 0.01  # pixels, of a proposal
_MAX_LOG = -1e-6  # of a probability, so that its logit is finite
_LEAST_HEAT = 1e-4  # of a Gaussian, below which it is 0; and how near to 0 and 1 probabilities go in the loss


@packable
class CenterNetHead(nn.Module):
    """A tower of convolutions that all levels share, the heat map's layer and the distances' layer."""

    def __init__(self, in_channels: int, *, num_levels: int, num_convs: int = 4, num_groups: int = 32) -> None:
        """
        Args:
            in_channels: C.
            num_levels: L; each scales its distances by a learned number.
            num_convs: of the tower.
            num_groups: of its group norms.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers.append(nn.Conv2d(in_channels, in_channels, 3, padding=1))
            layers += [nn.GroupNorm(num_groups, in_channels), nn.ReLU(inplace=True)]
        self.tower = nn.Sequential(*layers)
        self.heatmap = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.distances = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.scales = nn.ParameterList(torch.ones(1) for _ in range(num_levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.heatmap.bias, -4.6)  # a probability of 0.01 at the first step
        nn.init.constant_(self.distances.bias, 8.0)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """L maps (N, C, H, W) -> heat logits (N, 1, H, W), distances to the four sides in strides (N, 4, H, W)."""
        towers = [self.tower(level) for level in maps]
        logits = [self.heatmap(tower) for tower in towers]
        distances = [F.relu(scale * self.distances(tower)) for scale, tower in zip(self.scales, towers, strict=True)]
        return logits, distances


def grid_locations(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """(H W, 2) x, y of a map's locations in pixels of the image, row by row."""
    rows, columns = (torch.arange(side, device=device) * stride + stride // 2 for side in (height, width))
    rows = rows[:, None]  # by sums, as repetitions do not become ONNX
    return torch.stack([columns + 0 * rows, rows + 0 * columns], dim=2).flatten(0, 1).float()


def boxes_at(locations: Tensor, distances: Tensor) -> Tensor:
    """(P, 2), distances in pixels (P, 4) -> boxes (P, 4) XYXY of some extent at least; they may leave the image."""
    first = locations - distances[:, :2]
    return torch.cat([first, torch.maximum(locations + distances[:, 2:], first + _MIN_SIDE)], dim=1)


class Targets(NamedTuple):
    """The targets of an image's locations.

    Attributes:
        heat: (P,) in [0, 1], 1 at the centers of objects.
        is_positive: (P,) bool, centers on the levels of their objects.
        has_box: (P,) bool, where boxes are learned.
        boxes: (P, 4) XYXY, there.
    """

    heat: Tensor
    is_positive: Tensor
    has_box: Tensor
    boxes: Tensor


def assign_targets(
    boxes: Tensor,
    locations: Tensor,
    strides: Tensor,
    sizes: Tensor,
    *,
    min_overlap: float = 0.8,
    min_radius: float = 4.0,
) -> Targets:
    """The targets of one image's locations.

    Args:
        boxes: (G, 4) XYXY of its objects.
        locations: (P, 2) of all levels, pixels.
        strides: (P,) of their levels.
        sizes: (P, 2), from and to which half diagonal a level's objects go, pixels.
        min_overlap: IoU that a box moved by the Gaussian's width still has with its object, about.
        min_radius: of the Gaussian, pixels.
    """
    if not len(boxes):
        zeros = locations.new_zeros(len(locations))
        return Targets(zeros, zeros.bool(), zeros.bool(), zeros[:, None].expand(-1, 4))
    extent = boxes[:, 2:] - boxes[:, :2]  # (G, 2)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    step = strides[:, None, None]  # (P, 1, 1)
    cells = (centers / step).floor() * step + step.div(2, rounding_mode="floor")  # (P, G, 2), each level's nearest
    offset = locations[:, None] - cells
    is_center = (offset == 0).all(2)  # (P, G)
    half_diagonal = extent.norm(dim=1) / 2
    on_level = (half_diagonal >= sizes[:, :1]) & (half_diagonal <= sizes[:, 1:])
    # heat
    delta = (1 - min_overlap) / (1 + min_overlap)
    variance = (2 * delta**2 * extent.prod(1)).clamp(min=min_radius**2)  # (G,)
    distance = (locations[:, None] - centers).square().sum(2).masked_fill(is_center, 0) / variance
    heat = (-distance.amin(1)).exp()
    heat = heat.masked_fill(heat < _LEAST_HEAT, 0)
    # boxes: of the nearest object whose center is beside the location and whose box holds it
    within = ((locations[:, None] > boxes[:, :2]) & (locations[:, None] < boxes[:, 2:])).all(2)
    beside = (offset.abs() <= step).all(2)
    nearest, index = distance.masked_fill(~(within & beside & on_level), torch.inf).min(1)
    return Targets(heat, (is_center & on_level).any(1), nearest < torch.inf, boxes[index])


@dataclass(frozen=True)
class HeatmapLoss:
    """Focal loss on the heat map (arXiv:1904.07850 eq. 1, with arXiv:1708.02002's balance), summed.

    Attributes:
        alpha: weight of positives; that of the others is 1 - alpha.
        gamma: exponent of how wrong a location is.
        beta: exponent of how far from a center it is.
        ignored_above: probability from which on a negative is taken for an object that nobody annotated.
    """

    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 4.0
    ignored_above: float = 0.85

    def __call__(self, logits: Tensor, heat: Tensor, is_positive: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) each -> loss of positives, of negatives, both 0-dim."""
        found = logits.float().sigmoid().clamp(_LEAST_HEAT, 1 - _LEAST_HEAT)
        positive = -(found.log() * (1 - found) ** self.gamma)[is_positive].sum()
        is_counted = found < self.ignored_above
        negative = -((1 - found).log() * found**self.gamma * (1 - heat) ** self.beta * is_counted).sum()
        return self.alpha * positive, (1 - self.alpha) * negative


@packable
class CenterNetProposals(nn.Module):
    """Proposals from heat maps: the score of a proposal is the root of its location's heat.

    `objectness_logits` are the logits of these scores, as those of detectron2's RPN. Boxes may leave the image.
    """

    def __init__(
        self,
        head: CenterNetHead,
        *,
        in_features: Sequence[str],
        strides: Sequence[int],
        sizes: Sequence[Sequence[float]] = ((0, 80), (64, 160), (128, 320), (256, 640), (512, 10_000)),
        score_threshold: float = 1e-4,
        pre_nms_topk: tuple[int, int] = (4000, 1000),
        post_nms_topk: tuple[int, int] = (2000, 256),
        nms_threshold: float = 0.9,
        loss_weights: tuple[float, float, float] = (0.5, 0.5, 1.0),
    ) -> None:
        """
        Args:
            head: see CenterNetHead.
            in_features: names of the L maps.
            strides: of these.
            sizes: half diagonals in pixels, from and to, of each level's objects.
            score_threshold: of the heat.
            pre_nms_topk: proposals of a level before NMS, in training and at test time.
            post_nms_topk: likewise of an image after it.
            nms_threshold: IoU, over all levels together.
            loss_weights: of positives, negatives and boxes.
        """
        super().__init__()
        self.head = head
        self.in_features = tuple(in_features)
        self.strides = tuple(strides)
        self.sizes = tuple(map(tuple, sizes))
        self.score_threshold = score_threshold
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_threshold = nms_threshold
        self.loss_weights = tuple(loss_weights)
        self.heatmap_loss = HeatmapLoss()

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals of each image, best first; in training also the losses of heat (positives, negatives) and boxes."""
        maps = [features[name] for name in self.in_features]
        logits, distances = self.head(maps)
        grids = [
            grid_locations(*level.shape[2:], stride, level.device)
            for level, stride in zip(logits, self.strides, strict=True)
        ]
        logits = [level.flatten(1) for level in logits]  # (N, H W)
        boxes = [
            level.flatten(2).transpose(1, 2) * stride for level, stride in zip(distances, self.strides, strict=True)
        ]
        losses = self._losses(grids, logits, boxes, gt_instances) if self.training else {}
        with torch.no_grad():
            proposals = [
                self._propose([level[image] for level in logits], [level[image] for level in boxes], grids, size)
                for image, size in enumerate(images.image_sizes)
            ]
        return proposals, losses

    def _propose(
        self, logits: list[Tensor], distances: list[Tensor], grids: list[Tensor], image_size: tuple[int, int]
    ) -> Instances:
        """L times logits (H W,), distances in pixels (H W, 4) and locations (H W, 2) of one image."""
        found, log_scores = [], []
        for level, extents, grid in zip(logits, distances, grids, strict=True):
            heat = level.float().sigmoid()
            index = ((heat > self.score_threshold) & extents.isfinite().all(1)).nonzero().squeeze(1)
            best = heat[index].topk(min(len(index), self.pre_nms_topk[self.training])).indices
            index = index[best]
            found.append(boxes_at(grid[index], extents[index].float()))
            log_scores.append(F.logsigmoid(level[index].float()) / 2)
        boxes, log_scores = torch.cat(found), torch.cat(log_scores)
        keep = nms(boxes, log_scores.exp(), self.nms_threshold)
        number = self.post_nms_topk[self.training]
        if len(keep) > number > 0:  # equals of the last one stay too
            keep = keep[log_scores[keep] >= log_scores[keep[number - 1]]]
        proposals = Instances(image_size)
        proposals.proposal_boxes = Boxes(boxes[keep])
        proposals.objectness_logits = logit_of_log(log_scores[keep])
        return proposals

    def _losses(
        self, grids: list[Tensor], logits: list[Tensor], distances: list[Tensor], gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        locations = torch.cat(grids)  # (P, 2)
        counts = torch.tensor([len(grid) for grid in grids], device=locations.device)
        strides = locations.new_tensor(self.strides).repeat_interleave(counts)
        sizes = locations.new_tensor(self.sizes).repeat_interleave(counts, dim=0)
        with torch.no_grad():
            targets = [assign_targets(x.gt_boxes.tensor, locations, strides, sizes) for x in gt_instances]
        heat, is_positive, has_box, boxes = (torch.stack(parts) for parts in zip(*targets, strict=True))  # (N, P, ...)
        logits, distances = torch.cat(logits, dim=1), torch.cat(distances, dim=1).float()
        positive, negative = self.heatmap_loss(logits, heat, is_positive)
        found = boxes_at(locations.expand(len(heat), -1, -1)[has_box], distances[has_box])
        box = generalized_box_iou_loss(found, boxes[has_box], reduction="sum") + 0 * distances.sum()
        num_positive, num_boxes = max(int(is_positive.sum()), 1), max(int(has_box.sum()), 1)
        losses = (positive / num_positive, negative / num_positive, box / num_boxes)
        names = ("loss_heatmap_pos", "loss_heatmap_neg", "loss_center_box")
        return {name: weight * loss for name, weight, loss in zip(names, self.loss_weights, losses, strict=True)}


def logit_of_log(log_probabilities: Tensor) -> Tensor:
    """Logarithms of probabilities -> their logits, finite."""
    log_probabilities = log_probabilities.clamp(max=_MAX_LOG)
    return log_probabilities - torch.log(-torch.expm1(log_probabilities))
