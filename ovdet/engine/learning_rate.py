"""Learning-rate multipliers of parts of a model, for detectron2's `get_default_optimizer_params`."""

from __future__ import annotations

from collections.abc import Callable


def part_lr_multiplier(part: str, factor: float) -> Callable[[str], float]:
    """A `lr_factor_func`: parameter name -> the multiplier of its learning rate.

    Args:
        part: of the model, as "backbone.bottom_up".
        factor: the multiplier of that part's parameters; 1 for all others.
    """
    return lambda name: factor if name.startswith(part + ".") else 1.0
