"""Losses that detectron2 lacks: pure functions, each with one thin module. Torch only."""

from ovdet.losses.distillation import L1Distillation, l1_distillation_loss

__all__ = ["L1Distillation", "l1_distillation_loss"]
