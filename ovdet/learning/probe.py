"""A linear probe on region features: regularized logistic regression, one class against the rest.

Shape letters: N regions, W width of their features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND, IGNORED = -1, -2  # labels of regions that show none of the classes, and of those that are left out
_BACKGROUND_SHARE = 5.0  # all background regions together weigh as this many times the examples
_FIRST_BIAS = -3.0
_LEAST_SCALE = 1e-6


def fit_probe(
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    num_classes: int,
    *,
    blocks: Sequence[int] = (),
    penalty: float = 0.3,
    max_steps: int = 40,
) -> tuple[Tensor, Tensor]:
    """Weights (K, W) and biases (K,), float32: `features @ weights.T + biases` are logits of the classes.

    Features are centered on the background, and each block of them is brought to one scale, before the penalty
    `penalty * ||weights||^2` is added to the summed loss.

    Args:
        features: (N, W).
        labels: (N,) the class of each region, or BACKGROUND; not IGNORED.
        weights: (N,) of the regions of examples; those of the background count alike, whatever stands here.
        num_classes: K.
        blocks: widths of the blocks of features, W in all; none for one block.
        penalty: positive.
        max_steps: of L-BFGS.
    """
    is_background = labels == BACKGROUND
    around = features[is_background] if is_background.any() else features
    mean = around.mean(0)
    spread = (around - mean).square().sum(0)  # (W,)
    parts = spread.split(list(blocks) or [len(spread)])
    scale = torch.cat([(part.sum() / len(around)).sqrt().clamp(min=_LEAST_SCALE).expand(len(part)) for part in parts])
    scaled = (features - mean) / scale
    targets = (labels[:, None] == torch.arange(num_classes)).float()  # (N, K)
    share = _BACKGROUND_SHARE * weights[~is_background].sum() / is_background.sum().clamp(min=1)
    each = torch.where(is_background, share, weights)[:, None]
    rows = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    biases = torch.full((num_classes,), _FIRST_BIAS, requires_grad=True)
    optimizer = torch.optim.LBFGS([rows, biases], max_iter=max_steps, line_search_fn="strong_wolfe", history_size=10)

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = scaled @ rows.T + biases
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        total = (losses * each).sum() + penalty * rows.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    rows = rows.detach() / scale
    return rows, biases.detach() - rows @ mean
