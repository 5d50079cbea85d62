"""Backbones that detectron2 lacks."""

from ovdet.modeling.backbones.timm_backbone import TimmBackbone

__all__ = ["TimmBackbone"]
