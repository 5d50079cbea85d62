"""A photo for a detector that is run untrained."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture
def photo() -> torch.Tensor:
    """(3, 100, 150) uint8: patches of color, noise over them."""
    generator = np.random.default_rng(0)
    patches = np.kron(generator.integers(0, 200, (3, 5, 6)), np.ones((20, 25)))
    return torch.from_numpy((patches + generator.integers(0, 55, (3, 100, 150))).astype(np.uint8))
