"""The fingerprint of a detector: a hash of its weights, which learned classes and exported files carry."""

from __future__ import annotations

import hashlib

from torch import nn

_DIGITS = 16


def detector_fingerprint(model: nn.Module) -> str:
    """16 hex digits of a detector's weights in half precision, which a model folder keeps.

    A training run and the model folder that it was packed as have the same.
    """
    total = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        value = value.half() if value.is_floating_point() else value
        total.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:_DIGITS]
