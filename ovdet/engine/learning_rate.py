"""Learning rates of parts, for detectron2's `get_default_optimizer_params`."""

from __future__ import annotations

from collections.abc import Callable


def part_lr_multiplier(part: str, factor: float) -> Callable[[str], float]:
    """A `lr_factor_func`: what the learning rate is multiplied by, by a parameter's name.

    Args:
        part: of the model, as "backbone.bottom_up".
        factor: of its parameters; 1 of all others.
    """
    return lambda name: factor if name.startswith(part + ".") else 1.0
